"""Search the settings of each baseline on validation images of faces64.

    python tools/tune_baselines.py                    # all of them; stop it and go on at will
    python tools/tune_baselines.py sdedit ddib        # some

A baseline that was not tuned would be a false claim. Each is run on faces that no table shows, with
prompts about a color, an object and an expression, and is judged by

    score = mean over prompts of (share of faces that show the target afterwards)
            × (mean share of faces whose other attributes read as they were drawn)

A product, since either factor alone is had for nothing: an unchanged image keeps everything, and
another face altogether shows the target. The best settings are taken for all prompts. (Ours has a
guidance strength of its own for two of the prompts of faces64, see `Domain.guidance_rms`.) They are
found by climbing: from the defaults, the next value of one setting after the other is tried, and
the first that is better is gone on from, until none is. What was tried before is begun from where
it was best. Methods of 50 steps are searched at fewer (FIXED), to save time. That is imperfect: at
50 steps the same settings change an image more (white hair by DDIB at a scale of 10: others kept
0.65, where 15 steps keep 0.88), so that other ones may be best there. Writes every trial to
benchmarks/baselines-faces64.json as soon as it is measured; the best ones are the defaults of the
classes.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import sdd_fast as sdd
from sdd_fast.baselines import BASELINES, load_baseline
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.held_out import faces_without
from sdd_fast.domains.faces64.renderer import Faces, render
from sdd_fast.files import read_json, write_json
from sdd_fast.metrics.attributes import measure_attributes

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "baselines-faces64.json"
PROMPTS = ("a face with white hair", "a face with glasses", "a surprised face")
SEED = 40_001  # of the faces: neither training, nor measuring, nor reports draw from it
FACES = 32  # for each prompt
OBJECTIVE = "mean over prompts of success × others kept"


@dataclass(frozen=True)
class Search:
    """What is searched of a baseline.

    Args:
        values: setting → what it may be, in order. start: where the climb begins.
        fixed: settings of all trials in place of the defaults.
    """

    values: Mapping[str, Sequence[Any]]
    start: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def neighbors(self, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield `settings` with one of them a value further, either way."""
        for name, values in self.values.items():
            at = values.index(settings[name])
            for other in [*values[max(0, at - 1) : at], *values[at + 1 : at + 2]]:
                yield {**settings, name: other}


FIXED: dict[str, dict[str, Any]] = {
    "sdedit": {"steps": 10}, "edit-friendly": {"steps": 15}, "ddib": {"steps": 15},
    "ledits": {"steps": 15},
}  # fmt: skip


def search_of(name: str) -> Search:
    """Return the search of a baseline's `GRID`, from the defaults of its class on.

    A default that is no value of the grid, such as that of a paper, is replaced by the nearest one.
    """
    kind = BASELINES[name]
    defaults = inspect.signature(kind).parameters
    start = {name: _nearest(values, defaults[name].default) for name, values in kind.GRID.items()}
    return Search(kind.GRID, start, FIXED.get(name, {}))


def _nearest(values: Sequence[Any], default: Any) -> Any:
    return default if default in values else min(values, key=lambda value: abs(value - default))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BASELINES)}; default: all")
    names = parser.parse_args().names or list(BASELINES)
    if unknown := [name for name in names if name not in BASELINES]:
        parser.error(f"unknown {', '.join(unknown)}; there are: {', '.join(BASELINES)}")
    domain = sdd.load_domain("faces64")
    for name in names:
        tune(domain, name, search_of(name), RESULTS)


def tune(
    domain: Domain,
    name: str,
    search: Search,
    path: Path,
    prompts: Sequence[str] = PROMPTS,
    faces: int = FACES,
) -> dict[str, Any]:
    """Climb, running the trials that are not in the file yet; return the best settings."""
    request: dict[str, Any] = {
        "domain": domain.name, "objective": OBJECTIVE, "prompts": list(prompts),
        "faces": faces, "seed": SEED,
    }  # fmt: skip
    content = read_json(path) if path.exists() else {**request, "baselines": {}}
    if differing := [key for key in request if content[key] != request[key]]:
        raise ValueError(f"{path} is of other trials ({', '.join(differing)}); delete it")
    found = content["baselines"].setdefault(name, {})
    trials = found.get("trials", [])
    if trials and found["fixed"] != dict(search.fixed):
        raise ValueError(
            f"{path} has trials of {name} with {found['fixed']}, not with {dict(search.fixed)}; "
            "delete these"
        )
    best = max(trials, key=lambda trial: float(trial["score"]))["settings"] if trials else {}
    found |= {"fixed": dict(search.fixed), "best": best, "finished": False, "trials": trials}
    shown = {prompt: faces_without(*EDITS[prompt], faces, SEED) for prompt in prompts}

    def score(settings: Mapping[str, Any]) -> float:
        for trial in trials:
            if trial["settings"] == settings:
                return float(trial["score"])
        measured = measure(domain, name, {**search.fixed, **settings}, shown)
        trials.append({"settings": dict(settings), **measured})
        found["best"] = max(trials, key=lambda trial: float(trial["score"]))["settings"]
        print(f"{name} {settings}: {measured['score']:.4f}", flush=True)
        write_json(path, content)
        return float(measured["score"])

    best = dict(best or search.start)
    while higher := next((s for s in search.neighbors(best) if score(best) < score(s)), None):
        best = higher
    found |= {"best": best, "finished": True}
    write_json(path, content)
    return best


def measure(
    domain: Domain, name: str, settings: Mapping[str, Any], shown: Mapping[str, Faces]
) -> dict[str, Any]:
    """Edit the faces of every prompt; return the score, and what it is made of."""
    editor = load_baseline(name, domain, **settings)
    before, began = domain.prior.unet_rows, time.process_time()
    each = {}
    for prompt, people in shown.items():
        images = render(people, domain.resolution).to(domain.device)
        success, kept = judge(domain, images, editor.edit(images, prompt), people, prompt)
        each[prompt] = {"success": round(success, 4), "kept": round(kept, 4)}
    count = sum(len(people) for people in shown.values())
    products = [one["success"] * one["kept"] for one in each.values()]
    return {
        "score": round(sum(products) / len(products), 5),
        "unet_rows": (domain.prior.unet_rows - before) / count,
        "cpu_seconds": round(time.process_time() - began, 1),
        "prompts": each,
    }


def judge(
    domain: Domain, images: torch.Tensor, edited: torch.Tensor, people: Faces, prompt: str
) -> tuple[float, float]:
    """Return success, and the mean share of kept attributes, of images [N, 3, R, R] of faces."""
    found = measure_attributes(domain, images, edited, EDITS[prompt], labels=people.labels)
    assert found.success is not None
    return found.success.double().mean().item(), found.kept_mean.mean().item()


if __name__ == "__main__":
    main()
