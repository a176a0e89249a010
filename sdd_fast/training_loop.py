"""The one training loop: resumable, interruptible, and quick to notice that something is NaN.

Whatever step k draws must be a function of k alone (see `draws.stream`): then a training that was
stopped and resumed equals one that was not, bit for bit on the same device and versions.

Several trainings go through it together, such as those of several prompts, if one call of the
networks serves all of them. Each has its state, its optimizer and its files, as if it were alone:
those that lag behind catch up first, and one that fails does not stop the others.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .interrupt import InterruptAfterStep
from .out_of_memory import ran_out, release
from .progress import Listener, Task
from .training_setup import (
    Entry,
    Part,
    Parts,
    Schedule,
    Store,
    Training,
    told_when_stopped,
)
from .training_state import ENDS_AT, TrainingState, end_of

SAVE_AFTER = 60.0
"""Seconds after which a state is saved, however many steps they were: what a kill may cost."""

Loss = Callable[[int], tuple[Tensor, dict[str, Tensor]]]
"""Step from 0 → scalar loss, and scalars to log."""


def train(
    state: TrainingState,
    loss: Loss,
    schedule: Schedule,
    name: str,
    *,
    store: Store | None = None,
    text: Callable[[Entry], str] | None = None,
    advice: str = "",
    progress: bool | Listener = True,
) -> None:
    """Minimize `loss` from where `state` stands to the end of the schedule, in place.

    Args:
        name, store, advice: see `Training`.
        text: figures of an entry to show beside the progress.

    Raises:
        FloatingPointError: a loss or gradient is NaN or infinite; the last saved state remains.
        KeyboardInterrupt: see `train_together`.
    """

    def parts(step: int, of: Sequence[int]) -> Iterable[Part]:
        value, measured = loss(step)
        value.backward()
        yield Part(of, {name: log[None] for name, log in measured.items()})

    training = Training(state, name, store, advice=advice)
    train_together([training], parts, schedule, text=text, progress=progress)
    if training.failure:
        raise FloatingPointError(training.failure)


def train_together(
    trainings: Sequence[Training],
    parts: Parts,
    schedule: Schedule,
    *,
    compiling: Callable[[], float] | None = None,
    text: Callable[[Entry], str] | None = None,
    progress: bool | Listener = True,
    take_less: Callable[[Exception], None] | None = None,
) -> None:
    """Make the steps of all `trainings` from where each stands to its end, in place.

    A history entry holds "step" (completed steps), "lr", "seconds" (of several trainings, each
    one's share), the means since the last one of "gradient" (norm over the weights) and of what
    `parts` measures, and "compile_seconds", if something was compiled since. One whose loss or
    gradient becomes NaN or infinite stops at its last good state, with its `failure`; the others
    go on. Of several, so does one whose own part of a step, measure or store raises an error.

    Args:
        compiling: how many seconds of what passed since it was last asked went into compiling,
            which are not counted as training.
        text: figures of an entry to show beside the progress, of the first that has any.
        take_less: told of an error in a step; makes `parts` smaller if memory ran out, so that the
            step is made again, from the same weights and draws, and raises it otherwise.

    Raises:
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP. The step is completed and the states
            saved first; a second signal does not wait.
        MemoryError and whatever says that memory ran out, and an error that is everybody's.
    """
    loop = _Loop(trainings, schedule, compiling, take_less)
    for training in trainings:
        training.state.module.train()
    name = trainings[0].name if len(trainings) == 1 else f"{len(trainings)} prompts"
    task = Task(name, schedule.steps, progress, unit="steps", done=loop.done)
    with task, InterruptAfterStep() as interrupt:
        try:
            while of := loop.next():
                loop.learn(parts, of)
                entries = loop.log(of, interrupt.requested)
                loop.updating = False
                loop.save(of, interrupt.requested)
                shown = text(entries[0]) if text and entries else None
                task.advance(max(0, loop.done - task.done), shown)
                if interrupt.requested:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            loop.save_after_interrupt(interrupt)
            raise KeyboardInterrupt(
                told_when_stopped(trainings, loop.saved, loop.done, schedule.steps)
            ) from None
    for training in trainings:
        training.state.module.eval()


class _Loop:
    """What the loop remembers between steps, besides the states that are saved."""

    def __init__(
        self,
        trainings: Sequence[Training],
        schedule: Schedule,
        compiling: Callable[[], float] | None,
        take_less: Callable[[Exception], None] | None,
    ) -> None:
        self.trainings, self.schedule, self.compiling = trainings, schedule, compiling
        self.take_less = take_less
        self.parameters = [list(training.state.trained.values()) for training in trainings]
        self.device = self.parameters[0][0].device
        self.first_bad = [torch.full((), -1, device=self.device) for _ in trainings]
        self.saved = [training.state.step for training in trainings]
        self.updating = False
        self.since = self.saved_at = time.perf_counter()

    @property
    def done(self) -> int:
        """Steps that all trainings which have not ended have made."""
        states = [self.trainings[i].state.step for i in self._going()]
        return min(states, default=max(training.state.step for training in self.trainings))

    def _going(self) -> list[int]:
        return [
            i
            for i, training in enumerate(self.trainings)
            if not training.failure and training.state.step < self._end(i)
        ]

    def _end(self, i: int) -> int:
        return end_of(self.trainings[i].state.history, self.schedule.steps)

    def next(self) -> list[int]:
        """Return who takes the next step: of those that have not ended, the furthest behind."""
        first = self.done
        return [i for i in self._going() if self.trainings[i].state.step == first]

    def learn(self, parts: Parts, of: list[int]) -> None:
        """Make one step of the trainings `of`. Nothing in it waits for a GPU.

        What turns out to be NaN leaves `of` on a CPU at once, before it reaches the weights.
        """
        step = self.trainings[of[0]].state.step
        measured = self._add_what_fits(parts, step, of)
        for i in of:
            gradients = [p.grad for p in self.parameters[i] if p.grad is not None]
            measured[i]["gradient"] = nn.utils.get_total_norm(gradients)
        # Found on the device, so that the host need not wait for it at every step.
        for i in of:
            bad = ~torch.isfinite(torch.stack(list(measured[i].values()))).all()
            self.first_bad[i] = torch.where((self.first_bad[i] < 0) & bad, step, self.first_bad[i])
        if self.device.type == "cpu":
            self._find_failures(of)
        self.updating = True  # weights, average, sums and history belong together
        for i in of:
            self._update(i, measured[i])
        now, compiled = time.perf_counter(), self.compiling() if self.compiling else 0.0
        for i in of:
            state = self.trainings[i].state
            state.seconds += (now - self.since - compiled) / len(of)
            state.compile_seconds += compiled / len(of)
        self.since = now

    def _add_what_fits(
        self, parts: Parts, step: int, of: list[int]
    ) -> dict[int, dict[str, Tensor]]:
        """Add up the gradients of a step, in smaller parts where memory runs out."""
        while True:
            try:
                return self._add_gradients(parts, step, of)
            except (RuntimeError, MemoryError) as error:
                if self.take_less is None:
                    raise
                self.take_less(error)
            self._drop_gradients(of)
            release()

    def _add_gradients(
        self, parts: Parts, step: int, of: list[int]
    ) -> dict[int, dict[str, Tensor]]:
        """Add up the gradients of a step; return what was measured of each.

        Where an error ends a step of several, each makes it alone: whose fault it is fails again.
        """
        try:
            return _measured(parts(step, of), of)
        except Exception as error:
            if len(self.trainings) == 1 or ran_out(error):
                raise
            self._drop_gradients(of)
            many = len(of) > 1
            found: dict[int, dict[str, Tensor]] = {}
            for i in list(of):
                with self._alone(i, of, "an error", step + 1):
                    found |= _measured(parts(step, [i]), [i])
            if many and not found:  # it is everybody's, such as that of a network which all share
                raise
            return found

    @contextmanager
    def _alone(self, i: int, of: list[int], what: str, step: int) -> Iterator[None]:
        """Let an error end training `i` of several, but none of the others."""
        try:
            yield
        except Exception as error:
            if len(self.trainings) == 1 or ran_out(error):
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            what = f"{what} ({told}; {frame.filename}, line {frame.lineno})"
            self._fail(i, what, step)
            if i in of:
                of.remove(i)

    def _drop_gradients(self, of: Iterable[int]) -> None:
        for i in of:
            self.trainings[i].state.optimizer.zero_grad(set_to_none=True)

    def _update(self, i: int, measured: dict[str, Tensor]) -> None:
        """Move the weights of training `i` along their gradient."""
        state, schedule = self.trainings[i].state, self.schedule
        if schedule.clip_grad < math.inf:
            nn.utils.clip_grads_with_norm_(
                self.parameters[i], schedule.clip_grad, measured["gradient"]
            )
        for group in state.optimizer.param_groups:
            group["lr"] = schedule.lr_at(state.step, self._end(i)) * group["factor"]
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step, state.count = state.step + 1, state.count + 1
        if state.average is not None:
            _follow(state.average, state.module, schedule.ema, state.step - 1)
        for name, value in measured.items():
            state.sums[name] = state.sums.get(name, 0) + value.float()

    def log(self, of: list[int], interrupted: bool) -> list[Entry]:
        """Add to the histories what is due after this step; return the new entries."""
        if any(self._due(i)[0] for i in of) or self._saves(of, interrupted):
            self._find_failures(of)
        entries = []
        for i in list(of):
            logging, measuring = self._due(i)
            if logging:
                training = self.trainings[i]
                entry = self._entry(training.state)
                with self._alone(i, of, "its monitor failed", training.state.step):
                    if measuring and training.measure is not None:
                        entry |= training.measure()
                        entry |= self._stop([*training.state.history, entry])
                    training.state.history.append(entry)
                    entries.append(entry)
                    if training.listen is not None:
                        training.listen(entry)
        return entries

    def _due(self, i: int) -> tuple[bool, bool]:
        """Return whether training `i` is to log now, and whether it is to measure."""
        training, step = self.trainings[i], self.trainings[i].state.step
        last = step == self._end(i)
        measuring = training.measure is not None and (
            last or step % self.schedule.measure_every == 0
        )
        return last or measuring or step % self.schedule.log_every == 0, measuring

    def _stop(self, history: Sequence[Entry]) -> Entry:
        """Return what ends a training early, as part of its last entry; {} if nothing does."""
        stop = self.schedule.stop
        if stop is None or any(ENDS_AT in entry for entry in history):
            return {}
        found = stop(history)
        return {} if found is None else {ENDS_AT: found[0], **found[1]}

    def _saves(self, of: list[int], interrupted: bool) -> list[int]:
        states = {i: self.trainings[i].state for i in of}
        every, now = self.schedule.save_every, self.since - self.saved_at >= SAVE_AFTER
        return [
            i
            for i, state in states.items()
            if interrupted or now or state.step % every == 0 or state.step == self._end(i)
        ]

    def _entry(self, state: TrainingState) -> Entry:
        """Return the means since the last entry, and start new ones."""
        lr = self.schedule.lr_at(state.step - 1, end_of(state.history, self.schedule.steps))
        entry: Entry = {"step": state.step, "lr": lr, "seconds": round(state.seconds, 3)}
        entry |= {name: float(value) / state.count for name, value in state.sums.items()}
        if state.compile_seconds:
            entry["compile_seconds"] = round(state.compile_seconds, 3)
        state.sums, state.count, state.compile_seconds = {}, 0, 0.0
        return entry

    def save(self, of: list[int], interrupted: bool) -> None:
        """Save what is due after this step."""
        due = self._saves(of, interrupted)
        for i in due:
            self._save(i, of)
        if due:
            self.saved_at = self.since

    def _save(self, i: int, of: list[int]) -> None:
        training = self.trainings[i]
        if training.store is not None:
            with self._alone(i, of, "it could not be saved", training.state.step):
                training.store.save(training.state)
                self.saved[i] = training.state.step

    def save_after_interrupt(self, interrupt: InterruptAfterStep) -> None:
        """Save a step that was completed but not saved; never one that was torn apart."""
        if self.updating or interrupt.insisted:
            return
        everybody = [i for i, training in enumerate(self.trainings) if not training.failure]
        self._find_failures(everybody)
        for i in list(everybody):
            if self.saved[i] < self.trainings[i].state.step:
                self._save(i, everybody)

    def _find_failures(self, of: list[int]) -> None:
        """Take those out of `of` whose loss or gradient was NaN or infinite."""
        for i in list(of):
            step, training = int(self.first_bad[i]), self.trainings[i]
            if step < 0:
                continue
            of.remove(i)
            why = training.explain(step) if training.explain else ""
            what = "a loss or gradient became NaN or infinite"
            self._fail(i, what, step + 1, why or training.advice)

    def _fail(self, i: int, what: str, step: int, why: str = "") -> None:
        """End training `i`, which keeps what was saved of it."""
        training = self.trainings[i]
        kept = (
            f"The checkpoint after step {self.saved[i]} is kept in {training.store.path}"
            if training.store and self.saved[i]
            else "No checkpoint had been written"
        )
        training.failure = (
            f"training {training.name}: {what} in step {step} of "
            f"{self.schedule.steps}. {kept}. {why}"
        ).strip()
        self._drop_gradients([i])


def _measured(parts: Iterable[Part], of: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """Make the parts of a step; return the means of what they measure of each training."""
    logs: dict[int, dict[str, list[Tensor]]] = {i: {} for i in of}
    for part in parts:
        for name, values in part.measured.items():
            for i, value in zip(part.of, values.unbind(), strict=True):
                logs[i].setdefault(name, []).append(value)
    return {i: {name: _mean(values) for name, values in logs[i].items()} for i in of}


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(0)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, ema: float, step: int) -> None:
    # A short memory at first, so that the average forgets the random start.
    decay = min(ema, (1 + step) / (10 + step))
    live = module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(live[name], 1.0 - decay)
