"""The file of a measurement, which has every sample as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..checks import check_number
from ..files import PathLike, expanded, read_json, write_json
from ..progress import Listener, Task
from .clock import Spread, Work, seconds, work_of
from .equations import Plan
from .stages import Stage
from .units import Unit

FORMAT = "sdd_fast time cost 1"
FILE = "time-cost.json"


class Record:
    """Samples in seconds, and work, of units and stages by their keys.

    Args:
        request: everything that the samples depend on, JSON values only.
        restart: drop what is there.

    Raises:
        ValueError: the file is damaged, or of another request; the message says what differs.
        FileExistsError: it is something else.
    """

    def __init__(
        self, path: PathLike, request: Mapping[str, Any], *, restart: bool = False
    ) -> None:
        self.path, self.request = expanded(path), dict(request)
        self.samples: dict[str, list[float]] = {}
        self.work: dict[str, Work] = {}
        self.results: dict[str, Any] = {}
        if not self.path.exists():
            return
        if restart:
            _content(self.path)
            return
        there = read_record(self.path)
        request, self.samples = dict(there["request"]), dict(there["samples_s"])
        self.work = {key: Work(**one) for key, one in there["work"].items()}
        self._check_same(request)
        known = ("format", "request", "samples_s", "work")
        self.results = {key: value for key, value in there.items() if key not in known}

    def _check_same(self, earlier: Mapping[str, Any]) -> None:
        differing = [
            f"{name} is {earlier.get(name)!r} there and {self.request.get(name)!r} now"
            for name in {**self.request, **earlier}
            if earlier.get(name) != self.request.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.path} is of another measurement: {'; '.join(differing)}. Choose another "
                "folder, or start over there with resume=False"
            )

    def add(self, key: str, sample: float) -> None:
        """Keep a sample, in the file too."""
        self.samples.setdefault(key, []).append(sample)
        self.save()

    def spread(self, key: str) -> Spread:
        return Spread.of(self.samples[key])

    def save(self) -> None:
        work = {key: asdict(one) for key, one in self.work.items()}
        content = {"format": FORMAT, "request": self.request, "samples_s": self.samples}
        write_json(self.path, content | {"work": work} | self.results)


def read_record(path: PathLike) -> dict[str, Any]:
    """Return the content of a measurement's file; `results_of` says what a finished one has.

    Raises:
        ValueError: it is damaged. FileExistsError: it is something else.
    """
    content = _content(path)
    try:
        dict(content["request"])
        for samples in content["samples_s"].values():
            Spread.of(samples)
        for one in content["work"].values():
            Work(**one)
        if "plan" in content:
            Plan(**content["plan"])
            for one in (content["ours"], *content["others"].values()):
                check_number("total", one["total"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged: {error!r}. Delete it, or choose another folder"
        ) from error
    return content


def _content(path: PathLike) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}. Delete it, or choose another folder") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileExistsError(
            f"{path} is no measurement of `sdd bench time-cost`, and is kept; choose another folder"
        )
    return content


def measure(
    units: Sequence[Unit],
    stages: Sequence[Stage],
    record: Record,
    *,
    rounds: int,
    device: str,
    progress: bool | Listener = True,
) -> None:
    """Time units and stages until the record has `rounds` samples of each.

    In a round each takes one turn, after one to warm up, and none always follows the same other.

    Raises:
        KeyboardInterrupt: the samples until then are in the record's file.
    """
    turns: dict[str, Unit | Stage] = {unit.name: unit for unit in units}
    turns |= {stage.key: stage for stage in stages}
    lacking = {key: rounds - len(record.samples.get(key, ())) for key in turns}
    left = sum(max(0, count) for count in lacking.values())
    total, warm = rounds * len(turns), set[str]()
    with Task("time cost", total, progress, unit="samples", done=total - left) as task:
        try:
            for turn in range(rounds):
                keys = list(turns)
                for key in keys[turn % len(keys) :] + keys[: turn % len(keys)]:
                    if len(record.samples.get(key, ())) > turn:
                        continue
                    if key not in warm:
                        _warm_up(key, turns[key], record)
                        warm.add(key)
                    sample = _sample(turns[key], device)
                    record.add(key, sample)
                    task.advance(text=f"{key} {1e3 * sample:.3g} ms")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped after {task.done} of {total} samples; they are kept in {record.path}. "
                "Run the same again to go on"
            ) from None


def _warm_up(key: str, one: Unit | Stage, record: Record) -> None:
    if isinstance(one, Unit):
        one.warm_up()
    elif key not in record.work:
        record.work[key] = work_of(one.ready())
    else:
        one.ready()()


def _sample(one: Unit | Stage, device: str) -> float:
    return one.seconds() if isinstance(one, Unit) else seconds(one.ready(), device)
