"""The one training loop: resumable, interruptible, and quick to notice that something is NaN.

Whatever step k draws must be a function of k alone (see `draws.stream`): then a training that was
stopped and resumed equals one that was not, bit for bit on the same device and versions.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .interrupt import InterruptAfterStep
from .progress import Listener, Task
from .training_state import TrainingState

Loss = Callable[[int], tuple[Tensor, dict[str, Tensor]]]
"""Step from 0 → scalar loss, and scalars to log."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a module learns.

    Args:
        lr_at: learning rate of step 0 … steps − 1.
        ema: decay of the moving average of the weights that is kept; 0: none.
        clip_grad: largest norm of the gradient; infinity: not clipped.
        log_every, measure_every, save_every: steps between history entries, between measurements
            and between saved states. All of them happen after the last step, too.
    """

    steps: int
    lr_at: Callable[[int], float]
    ema: float = 0.0
    clip_grad: float = math.inf
    log_every: int = 10
    measure_every: int = 50
    save_every: int = 50


class Store(Protocol):
    """Where a training is saved: a `StateFile`, or what keeps more than that."""

    @property
    def path(self) -> Path: ...

    def save(self, state: TrainingState) -> None: ...


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


def train(
    state: TrainingState,
    loss: Loss,
    schedule: Schedule,
    name: str,
    *,
    store: Store | None = None,
    measure: Callable[[], Entry] | None = None,
    on_entry: Callable[[Entry], None] | None = None,
    text: Callable[[Entry], str] | None = None,
    advice: str = "",
    progress: bool | Listener = True,
) -> None:
    """Minimize `loss` from where `state` stands to the end of the schedule, in place.

    Args:
        name: of what is trained, for people.
        measure: what is measured now and then besides, as part of a history entry.
        on_entry: gets every history entry: "step" (completed steps), "lr", "seconds", and the means
            since the last one of "gradient" (norm over the weights) and of what `loss` logs.
        text: figures of an entry to show beside the progress.
        advice: what to try when the loss becomes NaN.

    Raises:
        FloatingPointError: a loss or gradient is NaN or infinite; the last saved state remains.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP. The step is completed and the state
            saved first; a second signal does not wait.
    """
    loop = _Loop(state, schedule, name, store, advice)
    state.module.train()
    task = Task(name, schedule.steps, progress, unit="steps", done=state.step)
    with task, InterruptAfterStep() as interrupt:
        try:
            while state.step < schedule.steps:
                loop.learn(loss)
                last = state.step == schedule.steps
                measuring = measure is not None and (
                    last or state.step % schedule.measure_every == 0
                )
                logging = last or measuring or state.step % schedule.log_every == 0
                saving = last or interrupt.requested or state.step % schedule.save_every == 0
                if logging or saving or loop.device.type == "cpu":
                    loop.check_finite()
                state.seconds = time.perf_counter() - loop.began
                shown = None
                if logging:
                    entry = loop.entry()
                    if measuring and measure is not None:
                        entry |= measure()
                    state.history.append(entry)
                    shown = text(entry) if text else None
                    if on_entry:
                        on_entry(entry)
                loop.updating = False
                if saving:
                    loop.save()
                task.advance(text=shown)
                if interrupt.requested:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            loop.save_after_interrupt(interrupt)
            raise KeyboardInterrupt(loop.stopped()) from None
    state.module.eval()


class _Loop:
    """What the loop remembers between steps, besides the state that is saved."""

    def __init__(
        self,
        state: TrainingState,
        schedule: Schedule,
        name: str,
        store: Store | None,
        advice: str,
    ) -> None:
        self.state, self.schedule, self.name = state, schedule, name
        self.store, self.advice = store, advice
        self.parameters = list(state.trained.values())
        self.device = self.parameters[0].device
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self.began = time.perf_counter() - state.seconds
        self.saved, self.updating = state.step, False

    def learn(self, loss_of: Loss) -> None:
        """Make one step. Nothing in it waits for the device."""
        state, schedule, step = self.state, self.schedule, self.state.step
        loss, measured = loss_of(step)
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        measured["gradient"] = nn.utils.get_total_norm(gradients)
        # Found on the device, so that the host need not wait for it at every step.
        bad = ~torch.isfinite(torch.stack(list(measured.values()))).all()
        self.first_bad = torch.where((self.first_bad < 0) & bad, step, self.first_bad)
        if schedule.clip_grad < math.inf:
            nn.utils.clip_grads_with_norm_(
                self.parameters, schedule.clip_grad, measured["gradient"]
            )
        for group in state.optimizer.param_groups:
            group["lr"] = schedule.lr_at(step) * group["factor"]

        self.updating = True  # weights, average, sums and history belong together
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step, state.count = step + 1, state.count + 1
        if state.average is not None:
            _follow(state.average, state.module, schedule.ema, step)
        for name, value in measured.items():
            state.sums[name] = state.sums.get(name, 0) + value.float()

    def entry(self) -> Entry:
        """Return the means since the last entry, and start new ones."""
        state = self.state
        entry: Entry = {"step": state.step, "lr": self.schedule.lr_at(state.step - 1)}
        entry["seconds"] = round(state.seconds, 3)
        entry |= {name: float(value) / state.count for name, value in state.sums.items()}
        state.sums, state.count = {}, 0
        return entry

    def save(self) -> None:
        if self.store is not None:
            self.store.save(self.state)
            self.saved = self.state.step

    def save_after_interrupt(self, interrupt: InterruptAfterStep) -> None:
        """Save a step that was completed but not saved; never one that was torn apart."""
        consistent = not self.updating and not interrupt.insisted and int(self.first_bad) < 0
        if consistent and self.saved < self.state.step:
            self.save()

    def check_finite(self) -> None:
        step = int(self.first_bad)
        if step < 0:
            return
        kept = (
            f"The checkpoint after step {self.saved} is kept in {self.store.path}"
            if self.store and self.saved
            else "No checkpoint had been written"
        )
        raise FloatingPointError(
            f"training {self.name}: a loss or gradient became NaN or infinite in step {step + 1} "
            f"of {self.schedule.steps}. {kept}. {self.advice}"
        )

    def stopped(self) -> str:
        done = f"stopped after step {self.state.step} of {self.schedule.steps} of {self.name}. "
        if self.store is None:
            return done + "Nothing is saved, because no run_dir was given"
        if self.saved == 0:
            return done + f"No checkpoint had been written to {self.store.path}"
        return done + (
            f"A checkpoint of step {self.saved} is in {self.store.path}; run the same again to "
            "resume from it"
        )


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, ema: float, step: int) -> None:
    # A short memory at first, so that the average forgets the random start.
    decay = min(ema, (1 + step) / (10 + step))
    live = module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(live[name], 1.0 - decay)
