"""What every layout asks of a file's content, and what it tells of a network in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..models.save import SaveLoadMixin, build_exactly, check_exactly, read_config
from .formats.read import Checkpoint, PickledObject, unwrapped

_STATES = ("g_ema", "g", "params_ema", "params", "state_dict", "name", "mapper", "model")
"""What training code calls a state dict that stands among other things; averaged weights first."""

_TRAINING = frozenset((
    "g", "d", "g_optim", "d_optim", "args", "ada_aug_p", "params", "latent_avg", "opts",
    "optimizer", "discriminator_state_dict", "discriminator_optimizer_state_dict", "global_step",
    "best_val_loss", "G", "D", "training_set_kwargs", "augment_pipe",
))  # fmt: skip
"""What it writes besides, for the training to continue, or about it."""

_PARTNERS = (
    "encoder.", "decoder.", "mapper.",  # e4e, pSp and StyleCLIP
    "stylegan_decoder.", "conv_body_first.", "conv_body_down.", "conv_body_up.", "final_conv.",
    "final_linear.", "toRGB.", "condition_scale.", "condition_shift.",  # GFPGAN
)  # fmt: skip
"""Prefixes of networks that stand together in one state dict."""


@dataclass(frozen=True)
class Found:
    """A network in a file, told but not built.

    Args:
        source: the file, for messages.
        network, config: the class that computes the same, and its arguments.
        tensors: all that the network should have, by its own names; what belongs to nothing known
            is in it too, to be reported.
        names: gives the file's name of a tensor by the network's.
        told: what else the layout knows.
        finish: what is left to do to the network, once it has its tensors.
    """

    source: str
    network: type[Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    names: Callable[[str], str] = str
    told: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Any], None] | None = None

    def check(self) -> Any:
        """Return the network without its weights; ValueError if it cannot be built exactly."""
        return check_exactly(self.network, self.config, self.tensors, self.source, self.names)

    def build(self) -> Any:
        """Return the network, on the CPU, float32, in eval mode and frozen; or ValueError."""
        built = build_exactly(self.network, self.config, self.tensors, self.source, self.names)
        assert isinstance(built, nn.Module)
        if self.finish:
            self.finish(built)
        return built.eval().requires_grad_(False)


@dataclass(frozen=True)
class Layout:
    """How one kind of network is found in files, and what `sdd info` says of it.

    Args:
        kind: one of `inspect.KINDS`.
        find: a file → the network in it, or None; ValueError for one that cannot be loaded.
        facts: what was found, and the network without its weights → what to say of it.
    """

    kind: str
    find: Callable[..., Found | None]
    facts: Callable[[Found, Any], dict[str, str]]

    def describe(self, checkpoint: Checkpoint) -> dict[str, str] | None:
        """Describe the network in a file, as the loader finds it; None if there is none."""
        try:
            found = self.find(checkpoint)
            return None if found is None else self.facts(found, found.check())
        except ValueError as error:
            reason = str(error).removeprefix(str(checkpoint.path)).lstrip(": ")
            return {self.kind: f"cannot be loaded: {reason:.1000}"}


def find_own(checkpoint: Checkpoint, *networks: type[SaveLoadMixin]) -> Found | None:
    """Find the network of a file that `save` of one of `networks` wrote."""
    for network in networks:
        if checkpoint.metadata.get("network") == network.__name__:
            source = str(checkpoint.path)
            config = read_config(source, network.__name__, checkpoint.metadata)
            return Found(source, network, config, checkpoint.content)
    return None


class State(NamedTuple):
    """A state dict in a file.

    Args:
        name: what it is called there; "": it is the file.
        entries: of it. beside: what else the file holds.
    """

    name: str
    entries: dict[Any, Any]
    beside: dict[Any, Any]


def states_in(content: Any) -> Iterator[State]:
    """Yield every state dict in a file."""
    content = attributes(content)
    if not isinstance(content, dict):
        return
    for name in (*_STATES, ""):
        state = attributes(content.get(name)) if name else content
        if isinstance(state, dict):
            outside = {k: v for k, v in content.items() if name and k != name}
            inside = {k: v for k, v in state.items() if k in _TRAINING}
            yield State(name, {k: v for k, v in state.items() if k not in inside}, inside | outside)


def below(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    inside = {
        key.removeprefix(prefix): value
        for key, value in state.entries.items()
        if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
    }
    return dict(unwrapped(inside)) if prefix else inside


def strangers(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors that belong neither to the network at `prefix` nor to anything known."""
    rest = {k: v for k, v in state.beside.items() if k not in _TRAINING | set(_STATES)}
    if prefix:
        partners = (prefix, *_PARTNERS)
        rest |= {k: v for k, v in state.entries.items() if not str(k).startswith(partners)}
    return {name: t for key, value in rest.items() for name, t in tensors_in(value, str(key))}


def attributes(value: Any) -> Any:
    """A pickled object (such as an `argparse.Namespace`) as the dict of its attributes."""
    return value.state if isinstance(value, PickledObject) else value


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within `value`, by its path."""
    value = attributes(value)
    if isinstance(value, Tensor):
        yield name, value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, inner in items:
        yield from tensors_in(inner, f"{name}.{key}" if name else str(key))


def shape_of(tensors: Mapping[str, Tensor], key: str, rank: int, source: str) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is told from; ValueError without it."""
    if key not in tensors:
        raise ValueError(f"{source}: missing: {key}, which tells the network's size")
    shape = tuple(tensors[key].shape)
    if len(shape) != rank:
        raise ValueError(f"{source}: {key} must have {rank} dimensions, got {list(shape)}")
    return shape


def count_indexed(keys: Mapping[str, Any], name: str) -> int:
    """How many different i there are in the keys `name.i.…`."""
    matches = (re.match(rf"{re.escape(name)}\.(\d+)\.", key) for key in keys)
    return len({match[1] for match in matches if match})
