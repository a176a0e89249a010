"""The names that a checkpoint may refer to, each with the plain data that we build in its place.

None of the functions and classes named here is ever imported or called. A builder takes the
arguments that the file gives and returns tensors, containers, texts, numbers or a `PickledObject`.

Where the names come from: torch's own `_rebuild_*` functions and the way tensors are pickled;
numpy's; the class decorator in NVIDIA's networks; the training options that rosinality's code
stores; and the leftovers of PyTorch Lightning in the checkpoints of Stable Diffusion 1.x.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import tensors
from .plain import ArrayType, Global, PickledObject, as_key
from .stack_machine import Budget


class Surroundings(Protocol):
    """What builders need to know of the file."""

    budget: Budget

    def load_nested(self, raw: Any) -> tensors.Storage:
        """The storage that torch wrote into `raw`, a file of its own."""


Builder = Callable[[Surroundings, tuple[Any, ...]], Any]


def _expect(arguments: tuple[Any, ...], fewest: int, most: int) -> None:
    if not fewest <= len(arguments) <= most:
        raise ValueError(f"{len(arguments)} arguments where {fewest} to {most} are expected")


def _tensor(file: Surroundings, arguments: tuple[Any, ...]) -> Tensor:
    # storage, offset, shape, strides[, requires_grad, hooks[, metadata]]
    _expect(arguments, 4, 7)
    _refuse_metadata(arguments[6:])
    file.budget.tensor()
    return tensors.tensor_in(*arguments[:4])


def _tensor_of_type(file: Surroundings, arguments: tuple[Any, ...]) -> Tensor:
    # storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata]
    _expect(arguments, 7, 8)
    _refuse_metadata(arguments[7:])
    dtype = arguments[6]
    if not isinstance(dtype, torch.dtype) or dtype == torch.bool:  # which has its own storages
        raise ValueError("a tensor has a type that it cannot have")
    file.budget.tensor()
    storage, offset, shape, strides = arguments[:4]
    return tensors.tensor_in(storage, offset, shape, strides, dtype)


def _refuse_metadata(metadata: tuple[Any, ...]) -> None:
    if not all(item is None or (type(item) is dict and not item) for item in metadata):
        raise ValueError("a tensor is stored as the conjugate or negative of its numbers")


def _parameter(file: Surroundings, arguments: tuple[Any, ...]) -> Tensor:
    # data, requires_grad, hooks[, state]
    _expect(arguments, 3, 4)
    if not isinstance(arguments[0], Tensor):
        raise ValueError("a parameter is not a tensor")
    return arguments[0]


def _nested_storage(file: Surroundings, arguments: tuple[Any, ...]) -> tensors.Storage:
    _expect(arguments, 1, 1)
    return file.load_nested(arguments[0])


def _size(file: Surroundings, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    sizes = tuple(_items(file, arguments))
    if not all(tensors.is_index(size) for size in sizes):
        raise ValueError("a torch.Size holds something that is not a size")
    return sizes


def _device(file: Surroundings, arguments: tuple[Any, ...]) -> str:
    _expect(arguments, 1, 2)
    return ":".join(_texts(file, arguments))


def _text_of(value: Any) -> str:
    if type(value) is str or type(value) is int:
        return str(value)
    raise ValueError(f"a {type(value).__name__} where a text is expected")


def _array(file: Surroundings, arguments: tuple[Any, ...]) -> np.ndarray:
    kind = arguments[0] if arguments else None
    if type(kind) is not Global or kind.type != "numpy.ndarray":
        raise ValueError("a numpy array of a class of its own")
    return np.empty(0, np.int8)  # its content comes as state


def _array_type(file: Surroundings, arguments: tuple[Any, ...]) -> ArrayType:
    _expect(arguments, 1, 3)
    return tensors.array_type(arguments[0])


def _array_scalar(file: Surroundings, arguments: tuple[Any, ...]) -> bool | int | float | complex:
    _expect(arguments, 2, 2)
    dtype, raw = arguments
    return tensors.array_scalar(dtype, raw, file.budget)


def _array_in(file: Surroundings, arguments: tuple[Any, ...]) -> np.ndarray:
    _expect(arguments, 4, 4)
    raw, dtype, shape, order = arguments
    return tensors.array_in(raw, dtype, shape, order, file.budget)


_LATIN_1 = ("latin1", "latin-1")


def _latin_1(file: Surroundings, arguments: tuple[Any, ...]) -> bytes:
    return _encoded(arguments, file.budget)


def _encoded(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    """Python 3's way of writing bytes where only texts existed (protocol 2)."""
    _expect(arguments, 1, 2)
    text, encoding = (*arguments, "latin1")[:2]
    if type(text) is not str or type(encoding) is not str or encoding not in _LATIN_1:
        raise ValueError("bytes are not given as latin-1 text")
    budget.charge_bytes(len(text))
    return text.encode("latin-1")


def bytes_made(function: str, arguments: Any, budget: Budget) -> bytes | None:
    """What `_codecs.encode` gives; None for other functions and arguments."""
    if function != "_codecs.encode" or type(arguments) is not tuple:
        return None
    try:
        return _encoded(arguments, budget)
    except ValueError:
        return None


def _bytes(file: Surroundings, arguments: tuple[Any, ...]) -> bytes:
    return _encoded(arguments, file.budget) if arguments else b""


def _bytearray(file: Surroundings, arguments: tuple[Any, ...]) -> bytes | memoryview:
    if len(arguments) == 1 and isinstance(arguments[0], bytes | memoryview):
        return arguments[0]
    return _bytes(file, arguments)


def _complex(file: Surroundings, arguments: tuple[Any, ...]) -> complex:
    _expect(arguments, 2, 2)
    if type(arguments[0]) is not float or type(arguments[1]) is not float:
        raise ValueError("a complex number is not made of two others")
    return complex(*arguments)


def _slice(file: Surroundings, arguments: tuple[Any, ...]) -> slice:
    _expect(arguments, 3, 3)
    if not all(item is None or type(item) is int for item in arguments):
        raise ValueError("a slice is not made of integers")
    return slice(*arguments)


def _items(file: Surroundings, arguments: tuple[Any, ...]) -> list[Any]:
    """The items of the one sequence that a container is made from."""
    _expect(arguments, 0, 1)
    source = arguments[0] if arguments else ()
    if type(source) not in (list, tuple, set, frozenset):
        raise ValueError(f"a container is made from a {type(source).__name__}")
    file.budget.charge(len(source))
    return list(source)


def _tuple(file: Surroundings, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_items(file, arguments))


def _set(file: Surroundings, arguments: tuple[Any, ...]) -> set[Any]:
    return {as_key(item, file.budget) for item in _items(file, arguments)}


def _frozenset(file: Surroundings, arguments: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(as_key(item, file.budget) for item in _items(file, arguments))


def _dict(file: Surroundings, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """From nothing, a dict or (as Python 2 wrote an OrderedDict) a list of pairs."""
    if len(arguments) == 1 and type(arguments[0]) is dict:
        file.budget.charge(len(arguments[0]))
        return dict(arguments[0])
    pairs = _items(file, arguments)
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("a dict is made from something else than pairs")
    return {as_key(key, file.budget): value for key, value in pairs}


def _default_dict(file: Surroundings, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    _expect(arguments, 0, 1)
    default = arguments[0] if arguments else None
    if default is not None and not (type(default) is Global and default.type in _DEFAULTS):
        raise ValueError("a defaultdict makes its values by something else than a plain type")
    return {}


_DEFAULTS = frozenset(
    ["collections.OrderedDict"]
    + [f"builtins.{name}" for name in "bool dict float int list set str tuple".split()]
)


def _namespace(file: Surroundings, arguments: tuple[Any, ...]) -> PickledObject:
    _expect(arguments, 0, 0)
    return PickledObject("argparse.Namespace", {})


def _reconstructed(file: Surroundings, arguments: tuple[Any, ...]) -> Any:
    """How protocols 0 and 1 make an object: its class, the builtin class below it, a value."""
    _expect(arguments, 3, 3)
    kind, base, value = arguments
    builder = ALLOWED.get(kind.type) if type(kind) is Global else None
    if builder is _namespace and value is None:
        return PickledObject(kind.type, {})
    if builder is _dict and type(base) is Global and base.type == "builtins.dict":
        return _dict(file, (value,))
    raise ValueError("an object is made from a class that makes no plain data")


def _network(file: Surroundings, arguments: tuple[Any, ...]) -> PickledObject:
    """An object of a class whose source code is in the file too, and is not looked at."""
    _expect(arguments, 1, 1)
    about = arguments[0]
    if type(about) is not dict:
        raise ValueError("a network of NVIDIA's is not described by a class")
    name, state = about.get("class_name"), about.get("state")
    state = {} if state is None else state
    if type(name) is not str or type(state) is not dict:
        raise ValueError("a network of NVIDIA's has no class name or no state")
    return PickledObject(name, state)


def _posix_path(file: Surroundings, arguments: tuple[Any, ...]) -> str:
    return str(pathlib.PurePosixPath(*_texts(file, arguments)))


def _windows_path(file: Surroundings, arguments: tuple[Any, ...]) -> str:
    return str(pathlib.PureWindowsPath(*_texts(file, arguments)))


def _texts(file: Surroundings, arguments: tuple[Any, ...]) -> tuple[str, ...]:
    parts = tuple(_text_of(part) for part in arguments)
    file.budget.charge(sum(map(len, parts)))
    return parts


# None: the name may stand as a value or a key, but nothing is made from it.
ALLOWED: dict[str, Builder | None] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.storage._load_from_bytes": _nested_storage,
    "torch.storage.TypedStorage": None,
    **dict.fromkeys(tensors.STORAGES),
    **dict.fromkeys(tensors.DTYPES),
    "torch.Size": _size,
    "torch.device": _device,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _array_scalar,
    "numpy._core.multiarray.scalar": _array_scalar,
    "numpy.core.numeric._frombuffer": _array_in,
    "numpy._core.numeric._frombuffer": _array_in,
    "numpy.ndarray": None,
    "numpy.dtype": _array_type,
    "_codecs.encode": _latin_1,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.slice": _slice,
    "builtins.list": _items,
    "builtins.tuple": _tuple,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.dict": _dict,
    "builtins.object": None,
    "builtins.bool": None,
    "builtins.float": None,
    "builtins.int": None,
    "builtins.str": None,
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

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # since Python 2

_TENSORFLOW = ("dnnlib.tflib.", "tfutil.")


def full_name(module: str, name: str) -> str:
    """`module.name` by today's module name; it tells apart what Python would tell apart."""
    if "." in name:  # an attribute of something in the module
        return f"{_RENAMED.get(module, module)}:{name}"
    return f"{_RENAMED.get(module, module)}.{name}"


def shown(name: str) -> str:
    """`name` as it can be printed: it comes from a file and may hold escape sequences."""
    return name[:200] if name.isascii() and name.isprintable() else ascii(name[:200])


def refuse(name: str) -> ValueError:
    """The error for a file that refers to `name`, which is not allowed."""
    if name.startswith(_TENSORFLOW):
        return ValueError(
            f"it is a TensorFlow pickle (it refers to {shown(name)}), whose networks only their "
            "own code can read. Convert it where you trust it: with legacy.py of NVIDIA's "
            "stylegan3 repository (python legacy.py --source=IN.pkl --dest=OUT.pkl) or "
            "convert_weight.py of rosinality's stylegan2-pytorch, and load the result"
        )
    return ValueError(
        f"it refers to {shown(name)}, which is neither a tensor nor plain data, and is refused: "
        "what it does could not be known. Nothing in the file was executed. Where you trust the "
        "file, load it in the program it comes from and save only the state_dict of its network"
    )
