"""Distill edits of faces64 in the authors' steps and in fewer of ours; compare what they reach.

    python tools/compare_steps.py runs/steps     # stop it and go on at will

Six prompts and three seeds, the prompts of a seed trained together, all sides at the timesteps that
compare_guidance.py selected. Sides: the authors' 4000 steps of 2 images; ours, whole trainings of
several lengths; and ours of 300 steps that ends at a plateau. Success and what else was kept are
read off faces that no part has seen. Writes benchmarks/steps-faces64.json after every side.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import sdd_fast as sdd
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.measure import measure_edit
from sdd_fast.draws import private
from sdd_fast.files import write_json
from sdd_fast.models import LevelsMapper

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULTS = BENCHMARKS / "steps-faces64.json"
CHOSEN = BENCHMARKS / "guidance-faces64.json"

FOUR = sdd.DistillConfig(steps=250, batch_size=4)
SIDES = {
    "authors, 4000 of 2": sdd.DistillConfig.paper(generator_dtype="auto"),
    "ours, 300 of 8": sdd.DistillConfig(steps=300, batch_size=8),
    "ours, 150 of 8": sdd.DistillConfig(steps=150, batch_size=8),
    "ours, 250 of 4": FOUR,
    "ours, 200 of 4": sdd.DistillConfig(steps=200, batch_size=4),
    "ours, 250 of 4, stopped early": replace(FOUR, monitor_every=25, stop_early=sdd.EarlyStop()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    options = parser.parse_args()
    domain = sdd.load_domain("faces64")
    rows = json.loads(CHOSEN.read_text(encoding="utf-8"))["prompts"]
    chosen = {row["prompt"]: row["chosen"]["100"] for row in rows}
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["edits"] if RESULTS.exists() else []
    for seed in options.seeds:
        for side in options.sides:
            if any(row["side"] == side and row["seed"] == seed for row in found):
                continue
            print(f"{side}, seed {seed}", flush=True)
            found += edits(domain, chosen, side, seed, options.work)
            write_json(RESULTS, {"domain": domain.name, "edits": found})
    print(f"written: {RESULTS}")


def edits(
    domain: Domain, chosen: dict[str, list[int]], side: str, seed: int, work: Path
) -> list[dict[str, Any]]:
    """Distill all prompts together, or take what is there; measure each."""
    prompts = list(chosen)
    settings = SIDES[side]
    authors = settings.reduction == "sum"
    configs = [
        sdd.DistillConfig(
            **vars(settings)
            | {"seed": seed}
            | ({} if authors else {"guidance_rms": domain.guidance_rms.get(prompt)})
        )
        for prompt in prompts
    ]
    levels = [domain.levels.get(prompt) for prompt in prompts]
    given: dict[str, Any] = {"levels": levels, "w_std": domain.w_std}
    if authors:
        given = {"mapper": [authors_mapper(domain, its, seed) for its in levels]}
    if settings.stop_early is not None:
        given["monitor"] = [domain.monitor(prompt) for prompt in prompts]
    name = side.replace(", ", "-").replace(" ", "-")
    results = sdd.distill(
        domain.prior, domain.generator, domain.w_plus, prompts, list(chosen.values()),
        identity=domain.identity, config=configs, domain=domain.name,
        run_dir=[work / f"{name}-{seed}" / str(i) for i in range(len(prompts))], **given,
    )  # fmt: skip
    return [
        {"prompt": prompt, "side": side, "seed": seed, **figures(domain, prompt, result)}
        for prompt, result in zip(prompts, results, strict=True)
    ]


def authors_mapper(domain: Domain, levels: Any, seed: int) -> LevelsMapper:
    generator = domain.generator
    some = {} if levels is None else {"levels": levels}
    with private(seed):
        return LevelsMapper(generator.num_layers, generator.w_dim, **some, zero_init=False)


def figures(domain: Domain, prompt: str, result: sdd.DistillResult) -> dict[str, Any]:
    lam = result.config.lam
    measured = domain.monitor(prompt)(result.mapper, lam)
    quality = measure_edit(domain, result.mapper, lam, prompt)
    return {
        "steps": result.history[-1]["step"],
        "batch_size": result.config.batch_size,
        "success": round(quality.success, 4),
        "kept": round(quality.kept_mean, 4),
        "identity": round(quality.identity, 4),
        "direction": round(measured["direction"], 4),
        "saturated_share": round(measured["saturated_share"], 4),
    }


if __name__ == "__main__":
    main()
