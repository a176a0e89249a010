"""Select timesteps of faces64 at a guidance scale of 100 and at that of the training; compare them.

    python tools/compare_guidance.py runs/guidance     # stop it and go on at will

Selection computes the HQS curve at 100, the scale of the authors' search, and training balances a
scale for each prompt. For six prompts this selects at both, distills a mapper with either choice,
everything else equal, and measures the edits. How far two choices differ by chance alone is told by
a third curve, at 100 again, on other images. Writes benchmarks/guidance-faces64.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sdd_fast as sdd
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.measure import measure_edit
from sdd_fast.files import write_json
from sdd_fast.gradients.balance import balanced_guidance_scale
from sdd_fast.gradients.config import GUIDANCE_RMS
from sdd_fast.selection.curve import HQSCurve

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "guidance-faces64.json"
SEARCH = 100.0  # the guidance scale of the search, unless one is given
IMAGES = 16  # of a curve, as the commands have it
MARGIN = 0.1  # of HQS, within which of the largest timesteps are chosen; likewise
BALANCED_ON = 64  # images, as of a training
PROMPTS = (
    "a face with white hair", "a face with a beard", "a bald face", "a surprised face",
    "a face with glasses", "a smiling face",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for curves and mappers")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    options = parser.parse_args()

    domain = sdd.load_domain("faces64")
    settings = {"images": IMAGES, "margin": MARGIN, "steps": options.steps}
    settings |= {"batch_size": options.batch_size}
    rows: list[dict[str, Any]] = []
    content = {"domain": domain.name, "settings": settings, "prompts": rows}
    for i, prompt in enumerate(PROMPTS):
        print(f"curves: {prompt}", flush=True)
        rows.append(compare_curves(domain, prompt, options.work / f"curves-{i}"))
        write_json(RESULTS, content)
    for seed in options.seeds:
        for i, row in enumerate(rows):
            for at in ("100", "training"):
                print(f"{row['prompt']}, selected at {at}, seed {seed}", flush=True)
                timesteps = row["chosen"][at]
                # Equal choices share one training.
                folder = options.work / f"{i}-{seed}-{'-'.join(map(str, timesteps))}"
                config = sdd.DistillConfig(
                    steps=options.steps, batch_size=options.batch_size, seed=seed,
                    guidance_rms=domain.guidance_rms.get(row["prompt"]),
                )  # fmt: skip
                figures = edit(domain, row["prompt"], timesteps, config, folder)
                row["edits"].append({"selected_at": at, "seed": seed, **figures})
                write_json(RESULTS, content)
    print(f"written: {RESULTS}")


def compare_curves(domain: Domain, prompt: str, folder: Path) -> dict[str, Any]:
    """Choose timesteps at both scales, and at 100 on other images; tell how they agree."""
    first, others = domain.held_out[:IMAGES], domain.held_out[IMAGES : 2 * IMAGES]
    at_100 = curve(domain, prompt, SEARCH, first, folder / "100.json")
    trained_at = partial(training_scale, domain, prompt, at_100.plateau(MARGIN))
    curves = {
        "100": at_100,
        "training": curve(domain, prompt, trained_at, first, folder / "training.json"),
        "100, other images": curve(domain, prompt, SEARCH, others, folder / "others.json"),
    }
    return {
        "prompt": prompt,
        "guidance_scale": curves["training"].config.guidance_scale,
        "chosen": {name: c.plateau(MARGIN) for name, c in curves.items()},
        "largest": {name: c.largest() for name, c in curves.items()},
        "overlap_with_100": {  # of the chosen sets: intersection over union
            name: round(overlap(at_100.plateau(MARGIN), c.plateau(MARGIN)), 3)
            for name, c in curves.items() if c is not at_100
        },
        "correlation_with_100": {
            name: round(float(torch.corrcoef(torch.stack([at_100.mean, c.mean]))[0, 1]), 4)
            for name, c in curves.items() if c is not at_100
        },
        "hqs": {name: [round(v, 4) for v in c.mean.tolist()] for name, c in curves.items()},
        "timesteps": list(at_100.timesteps),
        "edits": [],
    }  # fmt: skip


def curve(
    domain: Domain,
    prompt: str,
    scale: float | Callable[[], float],
    w_plus: torch.Tensor,  # [N, num_layers, w_dim]
    path: Path,
) -> HQSCurve:
    """Compute a curve, or take what is there."""
    if path.exists():
        return HQSCurve.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    config = sdd.GuidanceConfig(guidance_scale=scale() if callable(scale) else scale)
    made = sdd.hqs(
        domain.prior, w_plus, prompt, generator=domain.generator, config=config, progress=False
    )
    made.save(path)
    return made


def training_scale(domain: Domain, prompt: str, timesteps: list[int]) -> float:
    """Balance as `distill` does."""
    with torch.no_grad():
        images = domain.generator.synthesis(domain.held_out[:BALANCED_ON])
    rms = domain.guidance_rms.get(prompt, GUIDANCE_RMS)
    return balanced_guidance_scale(domain.prior, images, prompt, timesteps, guidance_rms=rms)


def overlap(a: Sequence[int], b: Sequence[int]) -> float:
    return len(set(a) & set(b)) / len(set(a) | set(b))


def edit(
    domain: Domain, prompt: str, timesteps: list[int], config: sdd.DistillConfig, folder: Path
) -> dict[str, Any]:
    """Distill, or take what is there; measure on faces that no part has seen."""
    result = sdd.distill(
        domain.prior, domain.generator, domain.w_plus, prompt, timesteps, config=config,
        levels=domain.levels.get(prompt), w_std=domain.w_std, identity=domain.identity,
        run_dir=folder, domain=domain.name, progress=False,
    )  # fmt: skip
    measured = domain.monitor(prompt)(result.mapper, config.lam)
    quality = measure_edit(domain, result.mapper, config.lam, prompt)
    guidance = result.config.guidance
    assert guidance is not None
    return {
        "trained_at": guidance.guidance_scale,
        "success": round(quality.success, 4),
        "kept": round(quality.kept_mean, 4),
        "identity": round(quality.identity, 4),
        "direction": round(measured["direction"], 4),
        "saturated_share": round(measured["saturated_share"], 4),
    }


if __name__ == "__main__":
    main()
