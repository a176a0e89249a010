"""The state of a training as one file, from which it goes on as if it had never stopped.

A safetensors file: weights, their moving average, the optimizer's moments, and the history so far.
It is checked in full before anything of it is used.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .files import load_tensors, parse_json, read_metadata, save_tensors

FORMAT = 2
_KEY = "sdd_fast.training"  # one key, since safetensors does not keep the order of several
ENDS_AT = "ends_at"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def end_of(history: Sequence[Mapping[str, Any]], steps: int) -> int:
    """Return how many steps a training makes: all of them, unless its history ends it early."""
    return next((entry[ENDS_AT] for entry in history if ENDS_AT in entry), steps)


@dataclass
class TrainingState:
    """Where a training stands after `step` completed steps.

    Args:
        average: the moving average of `module`, if one is kept.
        history: one entry per `log_every` steps, see `training_loop.train`.
        sums: sums of the measurements since the last entry; `count` of them.
        seconds: time spent training, over all sittings. compile_seconds: on compiling for it, since
            the last entry.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by their names."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}


def begin(
    module: nn.Module,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    average: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> TrainingState:
    """Return the state before the first step, with AdamW as the optimizer.

    Args:
        lr_factors: {prefix of parameter names: factor on the learning rate}; 1 for all others.

    Raises:
        ValueError: no parameter of the module requires a gradient.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factors = (f for prefix, f in (lr_factors or {}).items() if name.startswith(prefix))
            groups.setdefault(next(factors, 1.0), []).append(parameter)
    if not groups:
        raise ValueError("there are no weights to train: none of them requires a gradient")
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
        betas=betas,
        weight_decay=weight_decay,
    )
    kept = copy.deepcopy(module).requires_grad_(False) if average else None
    return TrainingState(module, optimizer, kept)


def saved_step(path: Path) -> int:
    """Return how many steps the state in a file has behind it.

    Raises:
        ValueError: it is damaged, or no state.
    """
    try:
        return int(json.loads(read_metadata(path)[_KEY])["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no state of a training: {error}") from error


@dataclass(frozen=True)
class StateFile:
    """Writes and reads the state of one training.

    Args:
        description: everything that determines the result, JSON values only. A state is resumed
            only under the description that it was saved with.
        steps: of the whole training.
        otherwise: what to do about a file that cannot be resumed, to follow "…, or ".
        implied: see `differences`.
    """

    path: Path
    description: Mapping[str, Any]
    steps: int
    otherwise: str
    implied: Collection[str] = ()

    def save(self, state: TrainingState) -> None:
        """Write the state, atomically."""
        tensors = {f"module/{name}": t for name, t in state.module.state_dict().items()}
        if state.average is not None:
            tensors |= {f"average/{name}": t for name, t in state.average.state_dict().items()}
        for name, parameter in state.trained.items():
            # A parameter that no loss has reached yet has no moments.
            for key, value in state.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value
        tensors |= {f"sums/{name}": value for name, value in state.sums.items()}
        content = {
            "format": FORMAT,
            "description": self.description,
            "step": state.step,
            "history": state.history,
            "count": state.count,
            "seconds": state.seconds,
            "compile_seconds": state.compile_seconds,
        }
        text = json.dumps(content)
        content["checksum"] = _checksum(tensors, text)
        save_tensors(self.path, tensors, {_KEY: json.dumps(content)})

    def load(self, state: TrainingState) -> bool:
        """Restore the state in place; return False if there is no file.

        Raises:
            ValueError: the file is damaged, of another version, or of a training with other
                settings; nothing is changed.
        """
        if not self.path.exists():
            return False
        try:
            tensors, _ = load_tensors(self.path)
        except ValueError as error:
            raise self._unreadable(error) from error
        content = self.read()
        self.check_same(content.get("description"))
        checksum = content.pop("checksum", None)
        if checksum != _checksum(tensors, json.dumps(content)):
            raise self.unusable("is damaged: its content does not fit its checksum")
        problems = _problems(content, self.steps) or _misfits(state, tensors, content["step"])
        if problems:
            raise self.unusable(f"does not fit this training: {_listed(problems)}")
        _restore(state, tensors)
        state.step, state.history = content["step"], content["history"]
        state.count, state.seconds = content["count"], float(content["seconds"])
        state.compile_seconds = float(content.get("compile_seconds", 0.0))
        return True

    def read(self) -> dict[str, Any]:
        """Return what the file says, without its tensors: "step", "description", "history", …

        Raises:
            ValueError: it is damaged or of another version.
        """
        metadata = self.metadata()
        if _KEY not in metadata:
            raise self.unusable("is not the state of a training, or one of another version")
        try:
            content = parse_json(metadata[_KEY], infinite=True)
        except ValueError as error:
            raise self.unusable(f"is damaged: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self.unusable("is the state of a training of another version")
        return content

    def is_of_an_earlier_version(self) -> bool:
        """Return whether the file, which exists, is a state in a format that is no longer read."""
        return self.metadata().get("format") == "1"

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file, of whatever version."""
        try:
            return read_metadata(self.path)
        except ValueError as error:
            raise self._unreadable(error) from error

    def check_same(self, description: Any) -> None:
        """Refuse a state that was saved under another description, naming the differences."""
        now = json.loads(json.dumps(self.description))
        differing = differences(
            description, now, old_name="in the checkpoint", implied=self.implied
        )
        if differing:
            raise ValueError(
                f"{self.path} belongs to a run with other settings:\n  "
                + "\n  ".join(differing)
                + f"\nRepeat those settings to resume it, or {self.otherwise}"
            )

    def _unreadable(self, error: ValueError) -> ValueError:
        return self.unusable(str(error).removeprefix(f"{self.path} ").split(";")[0])

    def unusable(self, problem: str) -> ValueError:
        """Return an error that names the file, the problem and what to do."""
        return ValueError(f"{self.path} {problem}.\nTo begin anew, {self.otherwise}")


def differences(
    old: Any, new: Any, name: str = "", *, old_name: str, implied: Collection[str] = ()
) -> list[str]:
    """Return one line for each value in which two JSON values differ.

    Args:
        old_name: where the old ones are. implied: keys that are there because of another, which
            differs, where only one of the values has them.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new} - ((old.keys() ^ new.keys()) & set(implied))):
            inner, then, now = f"{name}.{key}" if name else key, old.get(key), new.get(key)
            lines += differences(then, now, inner, old_name=old_name, implied=implied)
        return lines
    if old == new:
        return []
    told = ["not set" if value is None else repr(value) for value in (old, new)]
    return [f"{name}: {told[0]} {old_name}, {told[1]} now"]


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _problems(content: Mapping[str, Any], steps: int) -> list[str]:
    """What is impossible in a state's description of itself."""
    problems = []
    step, count = content.get("step"), content.get("count")
    history, seconds = content.get("history"), content.get("seconds")
    if not _whole(step) or not 0 < step <= steps:
        problems.append(f"it says step {_short(step)} of {steps}")
    if not _whole(count) or not 0 <= count <= steps:
        problems.append(f"it says that {_short(count)} steps are not logged yet")
    for spent in (seconds, content.get("compile_seconds", 0.0)):
        if not isinstance(spent, (int, float)) or not 0 <= spent < math.inf:
            problems.append(f"it says that {_short(spent)} seconds were spent")
    entries = history if isinstance(history, list) else [None]
    logged: list[Any] = [
        entry.get("step") if isinstance(entry, dict) else None for entry in entries
    ]
    if not all(map(_whole, logged)) or logged != sorted({*logged} & {*range(1, steps + 1)}):
        problems.append("its history is not a list of entries with rising steps")
    return problems


def _misfits(state: TrainingState, tensors: Mapping[str, Tensor], step: int) -> list[str]:
    """Entries that are missing, extra, misshapen or not finite."""
    wanted = {f"module/{name}": t for name, t in state.module.state_dict().items()}
    if state.average is not None:
        wanted |= {f"average/{name}": t for name, t in state.average.state_dict().items()}
    checked = {f"{kind}/{name}" for kind in ("module", "average") for name in state.trained}
    scalar = torch.zeros(())
    for name, parameter in state.trained.items():
        moments: dict[str, Tensor] = {f"optimizer/{name}/{key}": parameter for key in _MOMENTS}
        moments[f"optimizer/{name}/step"] = scalar
        if any(key in tensors for key in moments):
            wanted |= moments
            checked |= set(moments)
    sums = {name for name in tensors if name.startswith("sums/")}
    wanted |= dict.fromkeys(sums, scalar)

    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} is not part of it" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        got, want = tensors[name], wanted[name]
        if got.shape != want.shape or (got.dtype != want.dtype and name not in sums):
            problems.append(
                f"{name} is {got.dtype} {list(got.shape)}, expected {want.dtype} {list(want.shape)}"
            )
        elif name in checked | sums and not bool(torch.isfinite(got).all()):
            problems.append(f"{name} holds NaN or infinity")
        elif name.endswith("/exp_avg_sq") and name in checked and bool((got < 0).any()):
            problems.append(f"{name} holds negative squares")
        elif name.endswith("/step") and name in checked and float(got) not in range(1, step + 1):
            problems.append(f"{name} is {float(got):g} after {step} steps")
    return problems


def _restore(state: TrainingState, tensors: Mapping[str, Tensor]) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    state.module.load_state_dict(part("module/"))
    if state.average is not None:
        state.average.load_state_dict(part("average/"))
    names = {id(parameter): name for name, parameter in state.trained.items()}
    groups = state.optimizer.param_groups
    ordered = [names[id(parameter)] for group in groups for parameter in group["params"]]
    moments = {i: part(f"optimizer/{name}/") for i, name in enumerate(ordered)}
    state.optimizer.load_state_dict(
        {
            "state": {i: entries for i, entries in moments.items() if entries},
            "param_groups": state.optimizer.state_dict()["param_groups"],
        }
    )
    device = next(iter(state.trained.values())).device
    state.sums = {name: value.to(device) for name, value in part("sums/").items()}


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """A value of a file, in a message."""
    text = f"a number of {value.bit_length()} bits" if _whole(value) and abs(value) >= 2**64 else ""
    return text or ascii(value)[:80]


def _listed(problems: Sequence[str], most: int = 5) -> str:
    more = f" and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
