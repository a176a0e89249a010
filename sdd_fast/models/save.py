"""Our own file format: a network as one safetensors file that carries its configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..files import library_text, listed, load_tensors, parse_json, save_tensors
from ..shield import shielded

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T", bound="SaveLoadMixin")


class SaveLoadMixin:
    """Save and load an `nn.Module` whose constructor arguments are kept in `self.config`."""

    if TYPE_CHECKING:  # torch.jit.script would try to read a real annotation
        config: dict[str, Any]

    def save(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write weights and configuration to a .safetensors file, atomically.

        `dtype` (for instance `torch.float16`) is how floating point tensors are stored, to make
        the file smaller; None stores them as they are. `load` always gives float32. `metadata`
        goes into the file's header beside "network" and "config".

        Raises:
            ValueError: another ending, or a weight beyond the range of `dtype`.
        """
        assert isinstance(self, nn.Module)
        tensors = {}
        for key, value in self.state_dict().items():
            if dtype is not None and value.is_floating_point():
                value = value.to(dtype)
                if not torch.isfinite(value).all():
                    raise ValueError(f"{path} not written: {key} has values beyond {dtype}'s range")
            tensors[key] = value
        described = {"network": type(self).__name__, "config": json.dumps(self.config)}
        save_tensors(path, tensors, {**(metadata or {}), **described})

    @classmethod
    def load(cls: type[T], path: str | Path) -> T:
        """Build the network that a file of `save` describes and fill in its weights (float32, CPU).

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not safetensors, holds another network, or its tensors are not
                exactly those of the network; every missing, unexpected and misshapen one is named.
        """
        return cls.from_tensors(*load_tensors(path), str(path))

    @classmethod
    def from_tensors(
        cls: type[T], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str
    ) -> T:
        """Build the network from the content of a file of `save`; `source` is named in errors.

        Raises:
            ValueError: as of `load`.
        """
        config = read_config(source, cls.__name__, metadata)
        assert issubclass(cls, nn.Module)
        return build_exactly(cls, config, tensors, source)


@shielded(grad=False)
def build_exactly(
    network: type[M],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
    names: Callable[[str], str] = str,
) -> M:
    """Build `network(**config)` with exactly these tensors, on the CPU in the network's own dtypes.

    No memory is allocated before everything fits, and no random number is drawn.

    Args:
        source: what the tensors come from, for messages.
        names: gives the file's name of a tensor by the network's, for messages.

    Raises:
        ValueError: there is no such network, names and shapes do not agree one to one (every
            missing, unexpected and misshapen tensor is named), or weights are whole numbers, NaN
            or infinite.
    """
    check_exactly(network, config, tensors, source, names)
    with _Undrawn():
        built = network(**config)
    built.load_state_dict(tensors)
    return built


def check_exactly(
    network: type[M],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
    names: Callable[[str], str] = str,
) -> M:
    """Return `network(**config)` on the meta device; arguments and errors as of `build_exactly`."""
    try:
        described = outline(network, config, tensors)
    except ValueError as error:
        raise ValueError(
            f"{source}: no such {network.__name__} can be built: {library_text(error, 1000)}"
        ) from error
    _check_fits(described, tensors, source, names)
    return described


def outline(network: type[M], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> M:
    """Build `network(**config)` on the meta device: what a file claims may not fit into memory.

    Raises:
        ValueError: there is no such network, or it has far more layers than there are `tensors`.
    """
    try:
        with torch.device("meta"), _Counted(100 * len(tensors) + 1000):
            return network(**config)
    except _WRONG_ARGUMENTS as error:
        raise ValueError(str(error) or type(error).__name__) from error


# What a constructor raises that is given anything in place of a number. RuntimeError: of torch.
_WRONG_ARGUMENTS = (
    TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError,
)  # fmt: skip


class _Undrawn(TorchFunctionMode):
    """Leaves initial weights undrawn, and with them the global random state: they are replaced."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # The functions of nn.init arrive whole: what they call inside is not seen here.
        initializes = getattr(function, "__module__", None) == "torch.nn.init"
        if initializes or function in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if function is torch.randn else function)(*args, **kwargs)


class _Counted(TorchFunctionMode):
    """Lets only so many tensors be made or filled: each layer needs some."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.left -= isinstance(result, Tensor)  # others, such as the end of no_grad, must not fail
        if self.left < 0 and isinstance(result, Tensor):
            raise ValueError("it has more layers than the file has tensors")
        return result


def load_exactly(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    names: Callable[[str], str] = str,
) -> None:
    """Copy `tensors` into `network`; raise ValueError as `build_exactly`.

    `names` gives the file's name of a tensor by the network's, for the message.
    """
    _check_fits(network, tensors, source, names)
    network.load_state_dict(tensors)


def _check_fits(
    network: nn.Module, tensors: Mapping[str, Tensor], source: str, names: Callable[[str], str]
) -> None:
    expected = network.state_dict()
    problems = [f"missing: {names(key)}" for key in expected if key not in tensors]
    problems += [f"unexpected: {names(key)}" for key in tensors if key not in expected]
    problems += [
        f"shape of {names(key)}: the file has {list(tensors[key].shape)}, "
        f"the network {list(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    if problems:
        raise ValueError(
            f"{source} does not fit {type(network).__name__} "
            f"({len(problems)} of its tensors):{listed(problems)}"
        )
    weights = {key: tensors[key] for key, wanted in expected.items() if wanted.is_floating_point()}
    quantized = [
        f"{names(key)}: {str(value.dtype).removeprefix('torch.')}"
        for key, value in weights.items()
        if not value.is_floating_point()
    ]
    if quantized:
        raise ValueError(
            f"{source}: expected floating point tensors; a quantized network is not supported, "
            f"use the one that it was made from:{listed(quantized)}"
        )
    check_finite(source, {names(key): value for key, value in weights.items()})


def check_finite(source: str, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if there is NaN or infinity in the weights of `source`."""
    broken = [name for name, value in weights.items() if not _is_finite(value)]
    if broken:
        raise ValueError(
            f"{source} holds NaN or infinity; it is damaged, or its training diverged. Make it "
            f"again, or take an earlier one:{listed(broken)}"
        )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return True
    narrow = tensor.element_size() == 1  # float8, of which torch does not ask this
    return bool(torch.isfinite(tensor.half() if narrow else tensor).all())


def read_config(path: str, name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration in the metadata of a file of `save`, of the network called `name`.

    Raises:
        ValueError: there is none, it is no JSON object, or that of another network.
    """
    if "network" not in metadata or "config" not in metadata:
        raise ValueError(
            f"{path}: a safetensors file, but not one written by {name}.save(): "
            "its metadata names no network and configuration"
        )
    if metadata["network"] != name:
        raise ValueError(
            f"{path} is a file of {metadata['network']}: load it with "
            f"{metadata['network']}.load(), not {name}.load()"
        )
    try:
        config = parse_json(metadata["config"])
    except ValueError as error:
        raise ValueError(f"{path}: its configuration is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise ValueError(f"{path}: its configuration must be a JSON object, not of type {kind}")
    return config
