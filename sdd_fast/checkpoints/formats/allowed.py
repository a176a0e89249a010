"""The names that a checkpoint may refer to, each with the plain data that we build in its place.

None of the functions and classes named here is ever imported or called. A builder takes what the
file may cost and the arguments that it gives, and returns tensors, containers, texts, numbers or a
`PickledObject`.

Where the names come from: torch's own `_rebuild_*` functions and the way tensors are pickled;
numpy's; the class decorator in NVIDIA's networks; the training options that rosinality's code
stores; and the leftovers of PyTorch Lightning in the checkpoints of Stable Diffusion 1.x.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

from . import tensors
from .bounds import Budget
from .pickles import COMPUTED, LOAD_NESTED
from .plain import Global, PickledObject, Refused, shown


def _size(budget: Budget, source: Any = ()) -> tuple[int, ...]:
    sizes = tuple(_items(budget, source))
    if not all(tensors.is_index(size) for size in sizes):
        raise ValueError("a torch.Size holds something that is not a size")
    return sizes


def _device(budget: Budget, kind: Any, index: Any = "") -> str:
    return ":".join(_texts(budget, kind, index)).removesuffix(":")


def encoded(budget: Budget, text: Any, encoding: Any = "latin1") -> bytes:
    """Decode bytes as Python 3 writes them where only texts existed (protocol 2)."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are not given as latin-1 text")
    budget.charge_bytes(len(text))
    return text.encode("latin-1")


def _bytes(budget: Budget, *arguments: Any) -> bytes:
    return encoded(budget, *arguments) if arguments else b""


def _bytearray(budget: Budget, *arguments: Any) -> bytes | memoryview:
    if len(arguments) == 1 and isinstance(arguments[0], bytes | memoryview):
        return arguments[0]
    return _bytes(budget, *arguments)


def _complex(budget: Budget, real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise ValueError("a complex number is not made of two others")
    return complex(real, imaginary)


def _slice(budget: Budget, *bounds: Any) -> slice:
    if not all(item is None or type(item) is int for item in bounds):
        raise ValueError("a slice is not made of integers")
    return slice(*bounds)


def _items(budget: Budget, source: Any = ()) -> list[Any]:
    """Copy the items of the one sequence that a container is made from."""
    if type(source) not in (list, tuple, set, frozenset):
        raise ValueError(f"a container is made from an object of type {type(source).__name__}")
    budget.charge(len(source))
    return list(source)


def _tuple(budget: Budget, source: Any = ()) -> tuple[Any, ...]:
    return tuple(_items(budget, source))


def _set(budget: Budget, source: Any = ()) -> set[Any]:
    return set(map(budget.key, _items(budget, source)))


def _frozenset(budget: Budget, source: Any = ()) -> frozenset[Any]:
    return frozenset(map(budget.key, _items(budget, source)))


def _dict(budget: Budget, source: Any = ()) -> dict[Any, Any]:
    """Build a dict from nothing, a dict or (as Python 2 wrote an OrderedDict) a list of pairs."""
    if type(source) is dict:
        budget.charge(len(source))
        return dict(source)
    pairs = _items(budget, source)
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("a dict is made from something else than pairs")
    return {budget.key(key): value for key, value in pairs}


def _default_dict(budget: Budget, default: Any = None) -> dict[Any, Any]:
    if default is not None and not (type(default) is Global and default.type in _DEFAULTS):
        raise ValueError("a defaultdict makes its values by something else than a plain type")
    return {}


_DEFAULTS = frozenset(
    ["collections.OrderedDict"]
    + [f"builtins.{name}" for name in "bool dict float int list set str tuple".split()]
)


def _namespace(budget: Budget) -> PickledObject:
    return PickledObject("argparse.Namespace", {})


def _reconstructed(budget: Budget, kind: Any, base: Any, value: Any) -> Any:
    """Build an object of protocols 0 and 1: its class, the builtin class below it, a value."""
    builder = ALLOWED.get(kind.type) if type(kind) is Global else None
    if builder is _namespace and value is None:
        return _namespace(budget)
    if builder is _dict and type(base) is Global and base.type == "builtins.dict":
        return _dict(budget, value)
    raise ValueError("an object is made from a class that makes no plain data")


def _network(budget: Budget, about: Any) -> PickledObject:
    """Build an object of a class whose source code is in the file too, and is not looked at."""
    if type(about) is not dict:
        raise ValueError("a network of NVIDIA's is not described by a class")
    name, state = about.get("class_name"), about.get("state")
    state = {} if state is None else state
    if type(name) is not str or type(state) is not dict:
        raise ValueError("a network of NVIDIA's has no class name or no state")
    return PickledObject(name, state)


def _posix_path(budget: Budget, *parts: Any) -> str:
    return str(pathlib.PurePosixPath(*_texts(budget, *parts)))


def _windows_path(budget: Budget, *parts: Any) -> str:
    return str(pathlib.PureWindowsPath(*_texts(budget, *parts)))


def _texts(budget: Budget, *parts: Any) -> tuple[str, ...]:
    for part in parts:
        if type(part) is not str and type(part) is not int:
            raise ValueError(f"an object of type {type(part).__name__} where a text is expected")
    texts = tuple(map(str, parts))
    budget.charge(sum(map(len, texts)))
    return texts


# None: the name may stand as a value or a key, but nothing is made from it.
ALLOWED: dict[str, Callable[..., Any] | None] = {
    "torch._utils._rebuild_tensor": tensors.tensor,
    "torch._utils._rebuild_tensor_v2": tensors.tensor,
    "torch._utils._rebuild_tensor_v3": tensors.tensor_of_type,
    "torch._utils._rebuild_parameter": tensors.parameter,
    "torch._utils._rebuild_parameter_with_state": tensors.parameter,
    LOAD_NESTED: lambda _, storage: storage,
    "torch.storage.TypedStorage": None,
    **dict.fromkeys(tensors.STORAGES),
    **dict.fromkeys(tensors.DTYPES),
    "torch.Size": _size,
    "torch.device": _device,
    **{
        f"numpy.{core}.{name}": builder
        for core in ("core", "_core")  # the latter since numpy 2
        for name, builder in (
            ("multiarray._reconstruct", tensors.empty_array),
            ("multiarray.scalar", tensors.scalar),
            ("numeric._frombuffer", tensors.array),
        )
    },
    "numpy.ndarray": None,
    "numpy.dtype": tensors.array_type,
    "_codecs.encode": encoded,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.slice": _slice,
    "builtins.list": _items,
    "builtins.tuple": _tuple,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.dict": _dict,
    **dict.fromkeys(f"builtins.{name}" for name in ("object", "bool", "float", "int", "str")),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "copyreg._reconstructor": _reconstructed,
    "argparse.Namespace": _namespace,
    "dnnlib.util.EasyDict": _dict,
    "dnnlib.EasyDict": _dict,
    "torch_utils.persistence._reconstruct_persistent_obj": _network,
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": None,
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": None,
    "pytorch_lightning.utilities.parsing.AttributeDict": _dict,
    **{
        f"{module}.{name}": builder
        for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
        for name, builder in (
            ("Path", _posix_path),
            ("PosixPath", _posix_path),
            ("PurePosixPath", _posix_path),
            ("WindowsPath", _windows_path),
            ("PureWindowsPath", _windows_path),
        )
    },
}


def check_allowed(name: str) -> None:
    """Raise `Refused` for a file that refers to `name`, if that is not allowed."""
    if name in ALLOWED:
        return
    if name.startswith(("dnnlib.tflib.", "tfutil.")):
        raise Refused(
            f"it is a TensorFlow pickle (it refers to {shown(name)}), whose networks only their "
            "own code can read. Convert it where you trust it: with legacy.py of NVIDIA's "
            "stylegan3 repository (python legacy.py --source=IN.pkl --dest=OUT.pkl) or "
            "convert_weight.py of rosinality's stylegan2-pytorch, and load the result"
        )
    if name == COMPUTED:
        raise Refused("the name of a global is not a text")
    raise Refused(
        f"it refers to {shown(name)}, which is neither a tensor nor plain data, and is refused: "
        "what it does could not be known. Nothing in the file was executed. Where you trust the "
        "file, load it in the program it comes from and save only the state_dict of its network"
    )
