"""Search the settings of each baseline on validation images of an embedded domain.

    python tools/tune_baselines.py                       # of faces64; stop it and go on at will
    python tools/tune_baselines.py sdedit ddib           # some of them
    python tools/tune_baselines.py --domain fashion32
    python tools/tune_baselines.py --trained editors     # and those that sdd bench train made

A baseline that was not tuned would be a false claim. Each is run on images that no table shows,
with a few of the domain's prompts, and is judged by

    score = mean over prompts of (share of images that show the target afterwards)
            × (mean share of images whose other attributes read as they are labeled)

A product, since either factor alone is had for nothing: an unchanged image keeps everything, and
another image altogether shows the target. The best settings are taken for all prompts. (Ours has a
guidance strength of its own for some prompts, see `Domain.guidance_rms`.) They are found by
climbing: from the defaults, the next value of one setting after the other is tried, and the first
that is better is gone on from, until none is. What was tried before is begun from where it was
best. Writes every trial to benchmarks/baselines-DOMAIN.json as soon as it is measured. The best
settings of faces64 are the defaults of the classes; those of another domain are written to
benchmarks/settings-DOMAIN.json besides, for `sdd bench paper --settings`.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sdd_fast as sdd
from sdd_fast.baselines import BASELINES, TRAINED, load_baseline
from sdd_fast.baselines.trained import TrainedFolder
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.held_out import faces_without
from sdd_fast.domains.faces64.renderer import render
from sdd_fast.domains.fashion32.held_out import load_held_out, to_images, without
from sdd_fast.domains.reader import Target
from sdd_fast.evidence.paper import trained_in
from sdd_fast.evidence.settings import with_tuples
from sdd_fast.files import read_json, write_json
from sdd_fast.metrics.attributes import Labels, measure_attributes

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
DEFAULTS_OF = "faces64"  # the domain whose best settings are the defaults
PROMPTS = {
    "faces64": ("a face with white hair", "a face with glasses", "a surprised face"),
    "fashion32": ("dark clothes", "a bag", "trousers"),
}
SEED = 40_001  # of rendered faces: neither training, nor measuring, nor reports draw from it
IMAGES = 32  # for each prompt
OBJECTIVE = "mean over prompts of success × others kept"


@dataclass(frozen=True)
class Shown:
    """What a prompt is tried on: images [N, 3, R, R] in [-1, 1] without the target, and labels."""

    target: Target
    images: torch.Tensor
    labels: Labels


@dataclass(frozen=True)
class Search:
    """What is searched of a baseline.

    Args:
        values: setting → what it may be, in order. start: where the climb begins.
    """

    values: Mapping[str, Sequence[Any]]
    start: Mapping[str, Any]

    def neighbors(self, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield `settings` with one of them a value further, either way."""
        for name, values in self.values.items():
            at = values.index(settings[name])
            for other in [*values[max(0, at - 1) : at], *values[at + 1 : at + 2]]:
                yield {**settings, name: other}


def search_of(name: str) -> Search:
    """Return the search of a baseline's `GRID`, from the defaults of its class on.

    A default that is no value of the grid, such as that of a paper, is replaced by the nearest one.
    """
    kind = {**BASELINES, **TRAINED}[name]
    defaults = inspect.signature(kind).parameters
    start = {name: _nearest(values, defaults[name].default) for name, values in kind.GRID.items()}
    return Search(kind.GRID, start)


def _nearest(values: Sequence[Any], default: Any) -> Any:
    return default if default in values else min(values, key=lambda value: abs(value - default))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BASELINES)}; default: all")
    parser.add_argument("--domain", default=DEFAULTS_OF, choices=PROMPTS)
    parser.add_argument("--trained", type=Path, help="folder of sdd bench train; default: none")
    options = parser.parse_args()
    domain = sdd.load_domain(options.domain)
    trained = {} if options.trained is None else trained_in(options.trained, domain.name)
    there = [*BASELINES, *trained]
    names = options.names or there
    if unknown := [name for name in names if name not in there]:
        parser.error(f"unknown {', '.join(unknown)}; there are: {', '.join(there)}")
    path = results_of(domain.name)
    for name in names:
        tune(domain, name, search_of(name), path, network=trained.get(name))
        if domain.name != DEFAULTS_OF:
            write_json(settings_of(domain.name), best_of(path))


def results_of(domain: str) -> Path:
    return BENCHMARKS / f"baselines-{domain}.json"


def settings_of(domain: str) -> Path:
    return BENCHMARKS / f"settings-{domain}.json"


def best_of(path: Path) -> dict[str, Any]:
    """Return the best settings of each baseline that was searched, as `--settings` takes them."""
    content = read_json(path)
    shown = ", ".join(f"“{prompt}”" for prompt in content["prompts"])
    note = (
        f"the best that `tools/tune_baselines.py` found on {content['images']} validation images "
        f"of {content['domain']} for each of {shown} (`benchmarks/{path.name}` has every trial)"
    )
    if begun := [n for n, found in content["baselines"].items() if not found["finished"]]:
        note += f"; the search of {', '.join(begun)} had not ended"
    best = {name: found["best"] for name, found in content["baselines"].items()}
    return {"note": note, "settings": best}


def shown_in(domain: Domain, prompt: str, count: int) -> Shown:
    """Return validation images that lack the target of a prompt."""
    assert domain.reader is not None
    target = domain.reader.target_in(prompt)
    assert target is not None
    if domain.name == "fashion32":
        photographs = without(load_held_out(domain), [target], sys.maxsize)
        last = photographs[torch.arange(len(photographs) - count, len(photographs))]
        return Shown(target, to_images(last), last.labels)  # tables begin with the first
    people = faces_without(*target, count, SEED)
    return Shown(target, render(people, domain.resolution), people.labels)


def tune(
    domain: Domain,
    name: str,
    search: Search,
    path: Path,
    prompts: Sequence[str] | None = None,
    images: int = IMAGES,
    network: TrainedFolder | None = None,
) -> dict[str, Any]:
    """Climb, running the trials that are not in the file yet; return the best settings.

    Args:
        network: of a baseline that was trained. Trials with another one are dropped.
    """
    prompts = PROMPTS[domain.name] if prompts is None else prompts
    request: dict[str, Any] = {
        "domain": domain.name, "objective": OBJECTIVE, "prompts": list(prompts),
        "images": images, "seed": SEED,
    }  # fmt: skip
    content = read_json(path) if path.exists() else {**request, "baselines": {}}
    if differing := [key for key in request if content.get(key) != request[key]]:
        raise ValueError(f"{path} is of other trials ({', '.join(differing)}); delete it")
    found = content["baselines"].setdefault(name, {})
    now = {"fixed": fixed_of(name)} | ({"network": network.digest} if network else {})
    if any(found.get(key, value) != value for key, value in now.items()):
        found.clear()  # trials with another network, or at other settings that are not searched
    found |= now
    trials = found.get("trials", [])
    best = max(trials, key=lambda trial: float(trial["score"]))["settings"] if trials else {}
    found |= {"best": best, "finished": False, "trials": trials}
    shown = {prompt: shown_in(domain, prompt, images) for prompt in prompts}

    def score(settings: Mapping[str, Any]) -> float:
        for trial in trials:
            if trial["settings"] == _as_json(settings):
                return float(trial["score"])
        given = settings if network is None else {**settings, "path": network.path}
        measured = measure(domain, name, given, shown)
        trials.append({"settings": _as_json(settings), **measured})
        found["best"] = max(trials, key=lambda trial: float(trial["score"]))["settings"]
        print(f"{name} {settings}: {measured['score']:.4f}", flush=True)
        write_json(path, content)
        return float(measured["score"])

    best = with_tuples(best) or dict(search.start)
    while higher := next((s for s in search.neighbors(best) if score(best) < score(s)), None):
        best = higher
    found |= {"best": _as_json(best), "finished": True}
    write_json(path, content)
    return best


def fixed_of(name: str) -> dict[str, Any]:
    """Return the settings that are not searched, at the defaults of the class."""
    kind = {**BASELINES, **TRAINED}[name]
    parameters = inspect.signature(kind).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return _as_json({k: v for k, v in given.items() if k not in kind.GRID and k != "batch_size"})


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def measure(
    domain: Domain, name: str, settings: Mapping[str, Any], shown: Mapping[str, Shown]
) -> dict[str, Any]:
    """Edit the images of every prompt; return the score, and what it is made of."""
    editor = load_baseline(name, domain, **settings)
    before, began = domain.prior.unet_rows, time.process_time()
    each = {}
    for prompt, its in shown.items():
        success, kept = judge(domain, its, editor.edit(its.images.to(domain.device), prompt))
        each[prompt] = {"success": round(success, 4), "kept": round(kept, 4)}
    count = sum(len(its.images) for its in shown.values())
    products = [one["success"] * one["kept"] for one in each.values()]
    return {
        "score": round(sum(products) / len(products), 5),
        "unet_rows": (domain.prior.unet_rows - before) / count,
        "cpu_seconds": round(time.process_time() - began, 1),
        "prompts": each,
    }


def judge(domain: Domain, shown: Shown, edited: torch.Tensor) -> tuple[float, float]:
    """Return success, and the mean share of kept attributes, of images edited to [N, 3, R, R]."""
    found = measure_attributes(
        domain, shown.images, edited.cpu(), shown.target, labels=shown.labels
    )
    assert found.success is not None
    return found.success.double().mean().item(), found.kept_mean.mean().item()


if __name__ == "__main__":
    main()
