"""Experiment trackers (accelerate's: TensorBoard, W&B, …): told of a training while it goes on.

A tracker gets every history entry, the settings, and a grid of samples at each measurement. What it
was told stands in the run's folder, so that a resumed training goes on in the same log. One that
fails costs the training nothing: what it lacks is sent at the end, or when the run is resumed.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image
from torch import nn

from ..files import os_error_text, read_json, write_json
from ..grid import grid
from ..images import save_png
from ..run_folder import SAMPLES_FOLDER, TRACKED_FILE, RunFolder
from ..training_state import TrainingState
from .config import DistillConfig
from .monitor import EditMonitor

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Tracker = Union[str, "GeneralTracker"]

PROJECT = "sdd_fast"
_SAMPLES = 6  # where a tracker shows them
_CONTINUED = ("tensorboard", "wandb")
"""Of these several can be open at once, and a log can be continued; the others begin a new one."""


def trackers_of(tracker: Any, prompts: int, has_folder: bool) -> list[list[Tracker]]:
    """Return the trackers of each prompt, after making sure that they can be used.

    Args:
        tracker: None, a name, a `GeneralTracker` or a list of them; of several prompts, names for
            all, or a list of one or of a list for each.
        has_folder: whether the runs have a folder.

    Raises:
        ValueError, TypeError: something else. ModuleNotFoundError: a package is not installed.
    """
    if tracker is None:
        return [[] for _ in range(prompts)]
    listed = list(tracker) if isinstance(tracker, list | tuple) else [tracker]
    if prompts == 1 and len(listed) == 1 and isinstance(listed[0], list | tuple):
        listed = list(listed[0])
    if prompts == 1 or all(isinstance(one, str) for one in listed):
        each = [list(listed) for _ in range(prompts)]
    elif len(listed) == prompts:
        each = [list(one) if isinstance(one, list | tuple) else [one] for one in listed]
    else:
        raise ValueError(
            "of several prompts, tracker must be names for all, or a list of one for each of the "
            f"{prompts}, got {tracker!r:.200}"
        )
    for some in filter(None, each):
        _check(some, prompts, has_folder)
    return each


def _check(trackers: Sequence[Any], prompts: int, has_folder: bool) -> None:
    try:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers
    except ImportError as error:
        raise ModuleNotFoundError(
            "trackers are those of accelerate: pip install 'sdd_fast[track]'"
        ) from error
    names = [one if isinstance(one, str) else getattr(one, "name", None) for one in trackers]
    for one in trackers:
        if isinstance(one, GeneralTracker):
            continue
        if not isinstance(one, str):
            raise TypeError(
                "a tracker must be a name or a GeneralTracker of accelerate (accelerate.tracking), "
                f"got {one!r:.200}"
            )
        if one not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ValueError(f"there is no tracker {one!r}; accelerate knows {known}")
        PartialState()  # accelerate reports through it
        if not filter_trackers([one], logging_dir="."):
            package = "'sdd_fast[track]'" if one == "tensorboard" else one.replace("_", "-")
            raise ModuleNotFoundError(
                f"the package of the tracker {one} is not installed: pip install {package}"
            )
        if LOGGER_TYPE_TO_CLASS[one].requires_logging_directory and not has_folder:
            raise ValueError(f"the tracker {one} writes files into the run's folder: give run_dir")
        if prompts > 1 and one not in _CONTINUED:
            raise ValueError(
                f"the tracker {one} follows one training at a time; of several prompts give "
                f"{' or '.join(_CONTINUED)}, or a GeneralTracker for each"
            )
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"the trackers of a prompt must differ, but {twice[0]!r} is given twice")


class _Log:
    """What one tracker is told of one training."""

    def __init__(self, tracker: Tracker) -> None:
        self.given = tracker
        self.name: str = tracker if isinstance(tracker, str) else tracker.name
        self.tracker: Any = None  # once it is open
        self.step = 0  # of the last entry that it was told
        self.failed = self.warned = False

    @property
    def continued(self) -> bool:
        """Whether what it was told in an earlier sitting is in the log that is opened now."""
        return not isinstance(self.given, str) or self.name in _CONTINUED

    def tell(self, training: Tracking, picture: Image.Image | None = None) -> None:
        """Send the entries that it lacks, and the `picture` of the last; warn once if it fails."""
        try:
            if self.tracker is None:
                self.tracker = self._open(training)
            new = [entry for entry in training.state.history if entry["step"] > self.step]
            for entry in new:
                self.tracker.log(_numbers(entry), step=entry["step"])
                self.step = entry["step"]
            if new and picture is not None and hasattr(self.tracker, "log_images"):
                images = {"samples": _as_taken_by(self.name, picture)}
                self.tracker.log_images(images, step=self.step)
        except Exception as error:  # noqa: BLE001 (whatever a tracker raises: the training goes on)
            self.failed = True
            if isinstance(self.given, str):
                self.tracker = None  # to be opened anew
            self._warn(error)

    def close(self, training: Tracking) -> None:
        """Try once more what failed, and close it."""
        if self.failed:
            self.tell(training)
        try:
            if self.tracker is not None:
                self.tracker.finish()
        except Exception as error:  # noqa: BLE001
            self._warn(error)

    def _open(self, training: Tracking) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        tracker, settings = self.given, training.settings
        place = None if training.folder is None else training.folder.path
        if isinstance(tracker, str):
            kind = LOGGER_TYPE_TO_CLASS[tracker]
            if tracker == "tensorboard":
                # What a killed process had logged from there on counts as not logged.
                made = kind(tracker, place, purge_step=self.step + 1)
            elif tracker == "wandb":
                # Its config is that of the process; the run's own is given when it is opened.
                made = kind(
                    PROJECT, name=settings["prompt"], id=training.id, resume="allow",
                    reinit="create_new", config=settings,
                )  # fmt: skip
            elif kind.requires_logging_directory:
                made = kind(PROJECT, place)
            else:
                made = kind(PROJECT)
        else:
            made = tracker
        made.start()
        if self.step == 0 and tracker != "wandb":
            _tell_settings(made, settings)
        return made

    def _warn(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"the tracker {self.name} failed: {type(error).__name__}: {error}. The training "
                "goes on; what the log lacks is sent at the end, if that works",
                stacklevel=1,
            )


class Tracking:
    """What is told and shown of the training of one prompt; a context manager, while it goes on.

    Args:
        trackers: those of `trackers_of`.
        state: of the training, whose history is told. settings: its config, nested or not.
        folder: of the run, if it has one: the log of a run with other settings is not continued.
        sample: an entry of the history → the grid to show of that moment; None: no samples.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        state: TrainingState,
        settings: Mapping[str, Any],
        folder: RunFolder | None,
        sample: Callable[[Mapping[str, Any]], Image.Image] | None = None,
    ) -> None:
        self.state, self.settings, self.sample = state, dict(_flat(settings)), sample
        self.folder, self.id = folder, uuid.uuid4().hex[:12]
        self.logs = [_Log(one) for one in trackers]

    def __enter__(self) -> Tracking:
        """Open the logs, and tell what they lack of earlier sittings."""
        if self.folder is not None and self.logs and self.folder.resume:
            with suppress(OSError, ValueError, LookupError, TypeError):
                self._recall(read_json(self.folder.path / TRACKED_FILE))
        self._tell()
        return self

    def __exit__(self, *error: object) -> None:
        """Try once more what failed, and close the logs."""
        for log in self.logs:
            log.close(self)
        self._remember()

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Tell of a new entry of the history, and show what was measured."""
        picture = None
        if self.sample is not None and "edit_size" in entry:
            picture = self.sample(entry)
            if self.folder is not None:
                path = self.folder.path / SAMPLES_FOLDER / f"step-{entry['step']:06d}.png"
                try:
                    save_png(path, picture)
                except OSError as error:
                    warnings.warn(f"the samples are not kept: {os_error_text(error)}", stacklevel=1)
        self._tell(picture)

    def _tell(self, picture: Image.Image | None = None) -> None:
        for log in self.logs:
            if not log.failed:
                log.tell(self, picture)
        self._remember()

    def _recall(self, found: Any) -> None:
        """Take over which log is to be continued, and from where."""
        if self.folder is None or found["request"] != self.folder.digest:
            return
        self.id = str(found["id"])
        for log in self.logs:
            log.step = int(found["steps"].get(log.name, 0)) if log.continued else 0

    def _remember(self) -> None:
        if self.folder is None or not self.logs:
            return
        steps = {log.name: log.step for log in self.logs}
        with suppress(OSError):  # a full disk, of which the checkpoint tells
            told = {"request": self.folder.digest, "id": self.id, "steps": steps}
            write_json(self.folder.path / TRACKED_FILE, told)


def sampler(
    monitor: Any,
    mapper: nn.Module,
    config: DistillConfig,
    trackers: Sequence[Tracker],
    folder: RunFolder | None,
) -> Callable[[Mapping[str, Any]], Image.Image] | None:
    """Return what draws held-out images before and after the edit, as it is at an entry.

    None if none are wanted, or by default if the monitor is not one that has images.

    Raises:
        ValueError: they are wanted, and there are no images, or nowhere to show them.
    """
    count = (_SAMPLES if trackers else 0) if config.samples is None else config.samples
    if not count or not isinstance(monitor, EditMonitor):
        if config.samples:
            raise ValueError(
                f"samples={config.samples} are of held-out images, of which there are none: give "
                "held_out, or an EditMonitor as monitor"
            )
        return None
    if folder is None and not trackers:
        raise ValueError(
            f"samples={config.samples} have nowhere to go: give run_dir, where they are kept, or a "
            "tracker"
        )

    def sample(entry: Mapping[str, Any]) -> Image.Image:
        before, after = monitor.sample(mapper, config.lam, count)
        return grid(
            [before, after],
            row_labels=["before", "after"],
            title=f"“{monitor.prompt}” after {entry['step']} steps",
            cell=256 if before.shape[-1] > 256 else None,
        )

    return sample


def _tell_settings(tracker: GeneralTracker, settings: dict[str, Any]) -> None:
    """Tell a tracker the settings: TensorBoard within the log that is open.

    Left to itself, accelerate leaves them in two folders beside it, named by the time.
    """
    from accelerate.tracking import TensorBoardTracker

    if not isinstance(tracker, TensorBoardTracker):
        tracker.store_init_configuration(settings)
        return
    # torch.utils.tensorboard, or tensorboardX, which accelerate takes as well.
    package = type(tracker.tracker).__module__.rpartition(".")[0]
    for summary in import_module(f"{package}.summary").hparams(settings, {}):
        tracker.tracker.file_writer.add_summary(summary)
    tracker.tracker.flush()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as trackers take them: one level of numbers and texts."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield prefix + name, ", ".join(map(str, value))
        elif value is not None:
            yield prefix + name, value


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an entry; its verdict is for people, who see it where the run is reported."""
    return {k: v for k, v in entry.items() if k != "step" and isinstance(v, int | float)}


def _as_taken_by(name: str, picture: Image.Image) -> Any:
    if name == "tensorboard":
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)[None]  # [1, 3, H, W], uint8
    return picture if name in ("aim", "clearml") else [picture]
