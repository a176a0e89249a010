"""How one part of a domain is trained: its recipe, where its state is kept, on which device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .. import draws
from ..progress import Listener
from ..teacher.precision import fastest_dtype
from ..training_loop import train
from ..training_setup import Entry, Schedule
from ..training_state import StateFile, begin

Loss = Callable[[torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""Generator of the step → scalar loss, and scalars to log."""

M = TypeVar("M", bound=nn.Module)

_SUFFIX = ".checkpoint.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a part learns.

    Args:
        lr: reached after `warmup` steps; falls to zero along a cosine.
        ema: decay of the moving average that is kept; 0: none.
        bf16: run convolutions and linears in bfloat16 where the processor or GPU has it.
    """

    steps: int
    batch_size: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.0
    clip_grad: float = 1.0
    bf16: bool = True
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step 0 … steps − 1."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * rise * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class PartTrainer:
    """Trains the parts of one domain.

    Args:
        folder: holds the state of each part while training runs and after.
        budget: factor on the steps of every recipe.
        progress: True: show it; False: do not; or a function that gets every `Progress`.
    """

    folder: Path
    device: str = "cpu"
    budget: float = 1.0
    progress: bool | Listener = True

    def train(
        self,
        name: str,
        module: M,
        loss: Loss,
        recipe: Recipe,
        *,
        lr_factors: Mapping[str, float] | None = None,
        log_every: int = 100,
        save_every: int = 500,
    ) -> M:
        """Minimize `loss` over the trainable parameters of `module`.

        Args:
            lr_factors: {prefix of parameter names: factor on the learning rate}; 1 for all others.

        Returns:
            The moving average of `module` where `recipe.ema` > 0, else `module`; in eval mode.

        Raises:
            ValueError: the part was begun with other settings, or its state is damaged.
            FloatingPointError, KeyboardInterrupt: see `training_loop.train`.
        """
        recipe = replace(recipe, steps=max(1, round(recipe.steps * self.budget)))
        path = self.folder / f"{name}{_SUFFIX}"
        otherwise = f"delete {path.name} to train this part again"
        store = StateFile(path, {"part": name, **asdict(recipe)}, recipe.steps, otherwise)
        state = begin(
            module,
            weight_decay=recipe.weight_decay,
            average=recipe.ema > 0,
            lr_factors=lr_factors,
        )
        store.load(state)
        device = next(iter(state.trained.values())).device

        # Without such instructions bfloat16 is computed one element at a time: fifty times slower.
        slow = device.type == "cpu" and fastest_dtype(device) != torch.bfloat16

        def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16 and not slow):
                value, logs = loss(draws.stream(recipe.seed, f"step {step}"))
            logs = {key: log.float() for key, log in logs.items()}
            return value, {"loss": value.detach().float(), **logs}

        schedule = Schedule(
            recipe.steps,
            lambda step, _: recipe.lr_at(step),
            ema=recipe.ema,
            clip_grad=recipe.clip_grad,
            log_every=log_every,
            save_every=save_every,
        )
        advice = f"Lower the learning rate ({recipe.lr:g}) and start again"
        train(
            state, loss_at, schedule, name,
            store=store, text=_figures, advice=advice, progress=self.progress,
        )  # fmt: skip
        return cast(M, state.module if state.average is None else state.average.eval())

    def record(self) -> dict[str, dict[str, Any]]:
        """Return {part: steps, batch_size, lr, seed, seconds} of what has been trained."""
        rows = {}
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            told = StateFile(path, {}, 0, f"delete {path.name}").read()
            settings = told["description"]
            rows[path.name.removesuffix(_SUFFIX)] = {
                "steps": told["step"],
                **{key: settings[key] for key in ("batch_size", "lr", "seed")},
                "seconds": told["seconds"],
            }
        return rows


def _figures(entry: Entry) -> str:
    hidden = ("step", "lr", "seconds", "gradient")
    return ", ".join(f"{name} {entry[name]:.4g}" for name in entry if name not in hidden)
