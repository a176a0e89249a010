"""One distillation at a time, in a process of its own, which a page starts, watches and stops.

The process is this file run as a program; it tells of its progress in lines of JSON. The page's
server stays responsive beside it, and outlives whatever happens to it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..domains import Domain
from ..files import read_json
from ..progress import Progress
from ..run_folder import CURVE_PICTURE, GRID_FILE, HISTORY_FILE, SAMPLES_FOLDER

MOST_STEPS = 5000
_SAMPLES = 6
_LINES = 8  # of what the process said, kept
_BETWEEN = 0.25  # seconds between two reports of progress


@dataclass(frozen=True)
class Request:
    """What to distill.

    Args:
        prompt: what edited pictures should show.
        steps: of the optimizer.
        timesteps: to distill from; (): those that the HQS selects.
        levels: of the generator to change; (): those that suit the prompt, where known, or all.
        seed: fixes what is drawn.
        restart: discard a run of the same prompt with other settings.
    """

    prompt: str
    steps: int = 200
    timesteps: tuple[int, ...] = ()
    levels: tuple[str, ...] = ()
    seed: int = 0
    restart: bool = False


@dataclass(frozen=True)
class Status:
    """How a distillation is doing.

    Args:
        state: "idle", "running", "stopping", "stopped", "done" or "failed".
        said: the last lines that it said.
        progress: of the task at hand; None: none yet.
        verdict: of a run that is done: its level, headline and advice.
        since: files that are older, in seconds of the epoch, are of a run that is discarded.
    """

    state: str = "idle"
    prompt: str = ""
    folder: Path | None = None
    said: tuple[str, ...] = ()
    progress: Progress | None = None
    verdict: Mapping[str, str] = field(default_factory=dict)
    since: float = 0.0

    @property
    def at_work(self) -> bool:
        return self.state in ("running", "stopping")

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was measured so far, as the run's folder has it."""
        path = self._there(HISTORY_FILE)
        try:
            found = [] if path is None else read_json(path)
        except (OSError, ValueError):
            return []
        return found if isinstance(found, list) else []

    @property
    def curve(self) -> Path | None:
        """The picture of the HQS curve, once it is there."""
        return self._there(CURVE_PICTURE)

    @property
    def sample(self) -> Path | None:
        """The latest picture of held-out images before and after; at the end the run's grid."""
        if self.state == "done":
            return self._there(GRID_FILE)
        if self.folder is None:
            return None
        found = sorted((self.folder / SAMPLES_FOLDER).glob("step-*.png"))
        return self._there(f"{SAMPLES_FOLDER}/{found[-1].name}") if found else None

    def _there(self, name: str) -> Path | None:
        path = None if self.folder is None else self.folder / name
        try:
            return path if path is not None and path.stat().st_mtime >= self.since else None
        except OSError:
            return None


class Trainer:
    """Starts a distillation, unless one is at work.

    Args:
        domain: to distill in; its teacher runs in the other process only.
        folder: the runs go into folders of it.
        command: what does the same in a terminal, for the report; a function of request and folder.
    """

    program = (sys.executable, "-m", __name__)
    """What distills: told what in one more argument, it answers in lines of JSON."""

    def __init__(
        self, domain: Domain, folder: Path, command: Callable[[Request, Path], str] | None = None
    ) -> None:
        self.domain, self.folder = domain, folder
        self._command = command or (lambda request, folder: "")
        self._changing = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._status = Status()

    @property
    def status(self) -> Status:
        return self._status

    def start(self, request: Request) -> Status:
        """Begin, or go on where an earlier distillation of the same settings was stopped.

        Raises:
            ValueError: an empty prompt or settings out of range, or one is at work already.
        """
        from ..runs.prepare import slug
        from ..teacher.text import check_prompt

        check_prompt(request.prompt)
        if not 1 <= request.steps <= MOST_STEPS:
            raise ValueError(f"steps must be 1 to {MOST_STEPS} here, got {request.steps}")
        with self._changing:
            if self._status.at_work:
                raise ValueError(
                    f"“{self._status.prompt}” is being distilled, one at a time: wait until it is "
                    "done, or stop it"
                )
            folder = self.folder / slug(request.prompt)
            process = subprocess.Popen(
                [*self.program, json.dumps(self.job(request, folder))],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace",
                start_new_session=True,  # Ctrl-C of the server is not its: `close` stops it
            )  # fmt: skip
            since = time.time() if request.restart else 0.0
            self._status = Status("running", request.prompt, folder, ("starting …",), since=since)
            self._process = process
            self._reader = threading.Thread(target=self._follow, args=(process,), daemon=True)
            self._reader.start()
            return self._status

    def job(self, request: Request, folder: Path) -> dict[str, Any]:
        """What the program is told."""
        return {
            "request": asdict(request),
            "folder": str(folder),
            "domain": self.domain.reference,
            "device": self.domain.device,
            "command": self._command(request, folder),
        }

    def stop(self) -> Status:
        """Let the step at hand end and what there is be saved, so that it can be resumed."""
        with self._changing:
            if self._status.state == "running" and self._process is not None:
                self._process.send_signal(signal.SIGINT)
                self._tell(state="stopping", said="finishing this step and saving …")
            return self._status

    def close(self, seconds: float = 60.0) -> None:
        """Stop what is at work and wait for it; after so many seconds, end it as it is."""
        self.stop()
        if self._process is None or self._reader is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(5)

    def _tell(self, said: str = "", **changes: Any) -> None:
        with self._changing:
            lines = (*self._status.said, *([said] if said.strip() else []))[-_LINES:]
            self._status = replace(self._status, said=lines, **changes)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Read what the process tells until it ends."""
        assert process.stdout is not None and process.stderr is not None
        errors: list[str] = []
        other = threading.Thread(target=_last_lines, args=(process.stderr, errors), daemon=True)
        other.start()
        verdict, failure = None, ""
        for line in process.stdout:
            try:
                told = json.loads(line)
                kind, value = told["kind"], told["value"]
            except (ValueError, KeyError, TypeError):
                continue  # of a library that prints
            if kind == "progress":
                self._tell(progress=Progress(**value))
            elif kind == "say":
                self._tell(said=value)
            elif kind == "verdict":
                verdict = value
            elif kind == "error":
                failure = value
        code = process.wait()
        other.join(5)
        with self._changing:
            if code == 0 and verdict is not None:
                self._tell(state="done", said="done", verdict=verdict)
            elif self._status.state == "stopping" or code == 130:
                failure = failure or "stopped before there was anything to keep"
                self._tell(state="stopped", said=failure)
            else:
                errors = [failure] if failure else errors or [f"it ended with status {code}"]
                self._tell(state="failed", said=errors[-1])


def _last_lines(stream: Any, into: list[str]) -> None:
    for line in stream:
        if line.strip():
            into.append(line.strip()[:2000])
            del into[:-_LINES]


# --- the process ----------------------------------------------------------------------------------


def _print(kind: str, value: Any) -> None:
    print(json.dumps({"kind": kind, "value": value}), flush=True)


class _Listener:
    """Tells of progress, but not more often than anybody could read."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        if event.closed or now - self._last >= _BETWEEN:
            self._last = now
            _print("progress", asdict(event))


def main(told: str) -> int:
    """Distill what a `Trainer` asks for; return the exit status."""
    from ..interrupt import stopped_by_signals

    with stopped_by_signals():
        try:
            _distill(json.loads(told))
            return 0
        except KeyboardInterrupt as error:
            _print("error", str(error) or "stopped before the first step")
            return 130
        except Exception as error:  # noqa: BLE001 (told on the page; the traceback to nobody)
            _print("error", _message(error))
            return 1


def _distill(job: dict[str, Any]) -> None:
    from ..domains import load_domain
    from ..memory import training_batch
    from ..runs.run import default_config, run_edit

    asked = Request(**job["request"])
    domain = load_domain(job["domain"], device=job["device"])
    config = default_config(steps=asked.steps, seed=asked.seed)
    every = max(1, min(config.monitor_every, 25))
    config = replace(
        config,
        batch_size=training_batch(domain.generator, domain.prior),
        samples=_SAMPLES,
        monitor_every=every,
        checkpoint_every=every,
    )
    run = run_edit(
        domain,
        asked.prompt,
        job["folder"],
        timesteps=asked.timesteps or None,
        levels=asked.levels or None,
        config=config,
        resume=not asked.restart,
        progress=_Listener(),
        say=lambda line: _print("say", line),
        command=job["command"],
    )
    _print("verdict", {"level": run.verdict.level, "headline": run.headline, "advice": run.advice})


def _message(error: Exception) -> str:
    from ..files import os_error_text

    if isinstance(error, OSError):
        return os_error_text(error)
    text = str(error).replace("resume=False", "“start over”")
    return (
        text
        if isinstance(error, (ValueError, FloatingPointError))
        else (f"{type(error).__name__}: {text}")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
