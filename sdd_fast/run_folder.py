"""The folder of a run: the names of its files, and how a distillation is resumed in it.

config.json              what was requested, what that came to, and the checksum of the mapper
checkpoint.safetensors   mapper, optimizer, history and step: all of a moment in one file
mapper.safetensors       the mapper alone, once training is complete
history.json             the measurements, for plots and reports
samples/                 with samples: held-out images before and after, at each measurement
tracked.json             with a tracker: of what it was told already

A finished mapper is kept: only a restart of its run replaces it, once its own mapper is complete.
Without its checkpoint, which may be deleted, a finished run is known by config.json. A mapper that
somebody put in the place of a run's own is known by its checksum, and is neither used nor replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from .distillation.config import LATER, ONLY_SHOWN
from .files import PathLike, load_tensors, read_json, read_metadata, settled, write_json
from .gradients.config import GuidanceConfig
from .manipulator import MapperInfo, save_mapper
from .out_of_memory import check_ran_out
from .outputs import check_free
from .training_state import StateFile, TrainingState, differences, end_of

CONFIG_FILE, CHECKPOINT_FILE = "config.json", "checkpoint.safetensors"
MAPPER_FILE, HISTORY_FILE = "mapper.safetensors", "history.json"
TRAINED = (CONFIG_FILE, CHECKPOINT_FILE, MAPPER_FILE, HISTORY_FILE)
"""What `distill` writes."""

RUN_FILE, RUN_FORMAT = "run.json", "sdd_fast.run"
CURVE_FILE, CURVE_PICTURE = "curve.json", "curve.png"
SAMPLES_FOLDER, TRACKED_FILE = "samples", "tracked.json"
PARTIAL_CURVE = "curve.partial.safetensors"
GRID_FILE, TRAINING_FILE, REPORT_FILE = "before-after.png", "training.png", "report.html"
WRITTEN = (RUN_FILE, CURVE_FILE, CURVE_PICTURE, GRID_FILE, TRAINING_FILE, REPORT_FILE)
"""What `run_edit` writes besides."""

_PENDING = ".pending-"
_pending: ContextVar[Mapping[Path, Path]] = ContextVar("_pending", default=MappingProxyType({}))
"""Folder → where the `run_edit` at work there writes what is to replace an earlier run's."""

_OTHERWISE = "choose another run folder, or pass resume=False to start over and discard it"
_REQUEST = "request"  # in a mapper's metadata: the digest of the request that it answers
_MADE, _REPLACED = "mapper_sha256", "replaces_sha256"
"""In config.json: of the finished mapper, and, until there is one, of what lies in its place."""


def remembered_domain(folder: Path) -> str | dict[str, Any] | None:
    """Return the domain that the run in a folder was distilled in, as its run.json names it.

    Raises:
        ValueError: run.json is damaged, or not of a run.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return None
    found = read_json(path)
    if isinstance(found, dict):
        home = found.get("domain_reference")
        if home is None or isinstance(home, (str, dict)):
            return home
    raise ValueError(
        f"{path} is damaged, or not of a run, and does not tell the domain; name it yourself "
        "(domain=…, --domain on the command line)"
    )


def check_mapper_is_own(folder: Path, answers: bool = True) -> None:
    """Raise ValueError if a run's mapper is whole, but not the one that the run finished with.

    Args:
        answers: whether it says that it is of this run; if not, one in the folder of an unfinished
            run has to be that which was there when the run began.
    """
    path = folder / MAPPER_FILE
    try:
        config, _ = read_json(folder / CONFIG_FILE), read_metadata(path)
    except (OSError, ValueError):
        return  # it says nothing, or is damaged, which is told where it is loaded
    if not isinstance(config, dict):
        return
    found = _sha256(path)
    if config.get(_MADE, found) != found or not (answers or config.get(_REPLACED, found) == found):
        raise ValueError(
            f"{path} is not the mapper of the run in {folder}: it was changed, or another was put "
            "in its place. It is kept. Move it out of the folder, where it can be used by itself, "
            "and give the same distillation again to have the run's; or pass resume=False to train "
            "that again and replace what is there"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def is_of_a_run(path: Path) -> bool:
    """Return whether a run.json or config.json, as far as it can be read, is that of a run."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return False
    except ValueError:
        return path.name == RUN_FILE  # damaged, which is what a restart is for
    if not isinstance(found, dict):
        return False
    return found.get("format") == RUN_FORMAT or {"prompt", "distill"} <= set(found)


@contextmanager
def pending(folder: Path) -> Iterator[Path]:
    """Yield where `run_edit` writes before its training begins: in the folder itself, if it is new.

    In the folder of an earlier run a folder apart, so that nothing is replaced by a run that is
    refused or stopped: what is in it goes where it belongs with the first file of the training.
    """
    for left in folder.glob(f"{_PENDING}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    apart = folder / f"{_PENDING}{os.getpid()}"
    token = _pending.set({**_pending.get(), folder: apart})
    try:
        earlier = any((folder / name).exists() for name in (RUN_FILE, *TRAINED))
        yield apart if earlier else folder
    except OSError as error:
        if error.filename is None or apart not in (named := Path(error.filename), *named.parents):
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        _pending.reset(token)
        shutil.rmtree(apart, ignore_errors=True)


def restore(place: Path, folder: Path) -> None:
    """Give a finished run in `folder` the curve in `place` again, if its own is lost."""
    for name in (CURVE_FILE, CURVE_PICTURE):
        if (place / name).exists() and not (folder / name).exists():
            os.replace(place / name, folder / name)


class RunFolder:
    """Reads and writes the files of one distillation.

    Args:
        path: the folder; made when first written to.
        request: everything that determines the run's result, JSON values only. A checkpoint is
            resumed, and a finished mapper returned, only for the same request.
        info: of the mapper. steps: of the training.
        resume: whether to go on with what is there.

    Raises:
        ValueError: with `resume`, the folder holds another run, or files of these names that are
            not of a run.
        IsADirectoryError: a folder is where a file is to be written.
    """

    def __init__(
        self,
        path: PathLike,
        request: Mapping[str, Any],
        info: MapperInfo,
        steps: int,
        resume: bool = True,
    ) -> None:
        self.path, self.info = settled(path), info
        self.request: dict[str, Any] = json.loads(json.dumps(request))
        self.state_file = StateFile(
            self.path / CHECKPOINT_FILE, self.request, steps, _OTHERWISE, implied=ONLY_SHOWN
        )
        self.resume = resume
        self._config: dict[str, Any] = {}
        self._described = False
        check_free((self.path / name for name in TRAINED), overwrite=True)
        self._check_record()
        self.finished = resume and self._is_finished()

    def begin(self, config: Mapping[str, Any], state: TrainingState) -> None:
        """Write config.json and restore the state of an earlier sitting, if there is one.

        What a restart is to replace stays as it is until the first checkpoint.
        """
        there = self.path / MAPPER_FILE
        replaced = _sha256(there) if there.is_file() else None
        self._config = {**config, _REQUEST: self.request, _REPLACED: replaced}
        kept = (MAPPER_FILE, CHECKPOINT_FILE)
        loaded = self.resume and self.state_file.load(state)
        if self.resume or not any((self.path / name).exists() for name in kept):
            self._describe()
        if loaded:
            self._write_history(state)
        else:
            for shown in (self.path / SAMPLES_FOLDER).glob("step-*.png"):  # of another training
                shown.unlink(missing_ok=True)

    def save(self, state: TrainingState) -> None:
        """Write the checkpoint and the history so far."""
        self.state_file.save(state)
        if not self._described:
            self._describe()
        self._write_history(state)

    def finish(self, mapper: nn.Module, trained: bool) -> None:
        """Write the mapper, unless it is there already and was not trained since."""
        if trained or self._answered() not in self._digests:
            save_mapper(self.path / MAPPER_FILE, mapper, self.info, {_REQUEST: self.digest})
        self._config[_MADE] = _sha256(self.path / MAPPER_FILE)
        del self._config[_REPLACED]
        write_json(self.path / CONFIG_FILE, self._config)

    def load_finished(self, mapper: nn.Module) -> list[dict[str, Any]]:
        """Restore the finished mapper; return the history.

        Raises:
            ValueError: the mapper or its history is damaged or missing.
        """
        try:
            path = self.path / MAPPER_FILE
            tensors, _ = load_tensors(path)
            if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                raise ValueError(f"{path} holds NaN or infinity")
            mapper.load_state_dict(tensors)
            return self._read_history()
        except (OSError, RuntimeError, ValueError) as error:
            check_ran_out(error, path)
            raise ValueError(
                f"{error}. The run in {self.path} is finished, but not all of it is left, nor its "
                f"checkpoint; to train it again, {_OTHERWISE}"
            ) from error

    def balanced_guidance(self) -> GuidanceConfig | None:
        """The guidance that a finished run was trained with, as config.json tells it."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            return GuidanceConfig(**read_json(self.path / CONFIG_FILE)["distill"]["guidance"])
        return None

    @property
    def digest(self) -> str:
        """What tells this run from those of other settings."""
        return self._digests[0]

    @property
    def _digests(self) -> tuple[str, str]:
        """Of the request, and of what earlier versions had of it: not the networks."""
        earlier = {key: value for key, value in self.request.items() if key != "networks"}
        texts = [json.dumps(told, sort_keys=True) for told in (self.request, earlier)]
        now, before = (hashlib.blake2b(t.encode(), digest_size=16).hexdigest() for t in texts)
        return now, before

    def _answered(self) -> str | None:
        """The digest of the request that the mapper in the folder answers, if it tells one."""
        try:
            return read_metadata(self.path / MAPPER_FILE).get(_REQUEST)
        except (OSError, ValueError):
            return None

    def _read_history(self) -> list[dict[str, Any]]:
        path = self.path / HISTORY_FILE
        history: list[dict[str, Any]] = read_json(path)
        last = history[-1] if isinstance(history, list) and history else None
        if not isinstance(last, dict) or last.get("step") != end_of(history, self.state_file.steps):
            raise ValueError(f"{path} is not the history of a whole training")
        return history

    def _is_finished(self) -> bool:
        """Whether the requested mapper is there, and no checkpoint has more to tell."""
        mapper = self.path / MAPPER_FILE
        done = self._answered() in self._digests
        check_mapper_is_own(self.path, done)
        if done:
            with suppress(OSError, ValueError):
                self._read_history()
                return True
        # Beside a finished mapper the checkpoint of an earlier version has nothing left to tell.
        if self.state_file.path.exists() and not (
            mapper.exists() and self.state_file.is_of_an_earlier_version()
        ):
            self.state_file.check_same(self.state_file.read().get("description"))
            return False
        config = self._earlier_config()
        if not mapper.exists():
            if config is None and (self.path / HISTORY_FILE).exists():
                raise self._foreign(HISTORY_FILE)
            return False
        if done:
            return True
        try:
            read_metadata(mapper)
        except ValueError as error:
            raise ValueError(
                f"{error}. No checkpoint is left to make it again from; to train it again, "
                f"{_OTHERWISE}"
            ) from error
        if config is None:
            raise self._foreign(MAPPER_FILE)
        if _REQUEST in config:
            asked = config[_REQUEST]
            lines = differences(asked, self.request, old_name="there", implied=ONLY_SHOWN)
        else:
            now = {**asdict(self.info), "distill": self.request["config"]}
            old, new = _comparable(config), _comparable(json.loads(json.dumps(now)))
            lines = differences(old, new, old_name="there")
            if not lines:
                return True
        raise ValueError(
            f"{self.path} holds the finished mapper of a run with other settings:\n  "
            + "\n  ".join(lines or [f"(not those in {CONFIG_FILE})"])
            + f"\nIt is kept. Repeat those settings to have it again, or {_OTHERWISE}"
        )

    def _check_record(self) -> None:
        """Refuse a run.json that is of something else, or of another run than is continued."""
        path = self.path / RUN_FILE
        if self.path in _pending.get() or not path.exists():
            return  # `run_edit` has looked, and writes it
        if not is_of_a_run(path):
            raise self._foreign(RUN_FILE)
        prompt = None
        with suppress(ValueError):  # damaged: then the other files tell
            prompt = read_json(path).get("prompt")
        if self.resume and prompt not in (None, self.info.prompt):
            raise ValueError(f"{path} tells of a run of another prompt; {_OTHERWISE}")

    def _earlier_config(self) -> dict[str, Any] | None:
        """The config.json of a run in the folder, None if there is none.

        Raises:
            ValueError: there is one that is not of a run.
        """
        path = self.path / CONFIG_FILE
        if not path.exists():
            return None
        if not is_of_a_run(path):
            raise self._foreign(CONFIG_FILE)
        return dict(read_json(path))

    def _foreign(self, name: str) -> ValueError:
        return ValueError(
            f"{self.path / name} is not of a run that can be continued, and would be replaced; "
            "choose another run folder, or pass resume=False to replace it"
        )

    def _describe(self) -> None:
        """Write config.json, and let what `run_edit` wrote take its place.

        Without `run_edit`, what one wrote of the mapper that is replaced goes.
        """
        write_json(self.path / CONFIG_FILE, self._config)
        self._described = True
        apart = _pending.get().get(self.path)
        if apart is None:
            if not self.resume and (self.path / RUN_FILE).exists():
                for name in WRITTEN:
                    (self.path / name).unlink(missing_ok=True)
        elif apart.exists():
            for name in (CURVE_FILE, CURVE_PICTURE, RUN_FILE):
                if (apart / name).exists():
                    os.replace(apart / name, self.path / name)
                else:
                    (self.path / name).unlink(missing_ok=True)
            apart.rmdir()

    def _write_history(self, state: TrainingState) -> None:
        # JSON has no NaN, which a monitor may well return.
        history = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in e.items()}
            for e in state.history
        ]
        write_json(self.path / HISTORY_FILE, history)


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json of an earlier version tells of the request: not its guidance, which may
    have been balanced, nor what changes nothing."""
    settings = dict(config["distill"])
    settings["guidance_rms"] = settings.pop("pull", settings.get("guidance_rms"))
    for name in ("guidance", *ONLY_SHOWN):
        settings.pop(name, None)
    told = {k: v for k, v in settings.items() if k not in LATER or v != LATER[k]}
    return {**config, "distill": told}
