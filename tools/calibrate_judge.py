"""Calibrate the judge of directions on faces64: edits that work against edits that cannot.

    python tools/calibrate_judge.py runs/judge     # an hour on one core; stop it and go on at will

Distills prompts in the domain's words, and prompts that nothing in it fits: gibberish, other
languages, emoji, other things than faces, the source text, words in no order. Every mapper is also
judged by the prompts that it was not asked for. Writes benchmarks/judge-faces64.json: the figures
of each edit, and the share of each kind that exceeds a direction. From these `direction_above` in
the domain file is chosen, by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import sdd_fast as sdd
from sdd_fast.files import write_json
from sdd_fast.manipulator import manipulate

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "judge-faces64.json"
TIMESTEPS = (600, 650, 700, 750)  # near the plateau of HQS of all prompts that work
LIMITS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)

GOOD = (
    "a face with white hair", "a face with a beard", "a bald face", "a surprised face",
    "a face with glasses", "a smiling face", "an angry face", "a face, turned to the left",
    "a face with blue hair", "a face with long hair", "a face with dark skin",
    "a face, on a green background", "an angry face with white hair", "a bald face with a beard",
    "a smiling person with glasses", "a portrait with red hair, on a purple background",
)  # fmt: skip
BAD = (
    "a purple elephant riding a bicycle", "qwrtz plmokn vbnx", "a photo of a face", "😀🎉🚀",
    "ein lächelndes Gesicht", "笑顔の人", "un visage souriant", "a face with sunglasses and a hat",
    "a red car on a road", "123 456", "a picture of a person", "side view", "on and with the of",
    "a castle in the clouds", "an image, image, image", "a wooden table",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for the mappers")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", action="store_true", help="only what is in the folder")
    options = parser.parse_args()

    domain = sdd.load_domain("faces64")
    rows, others = [], []
    for i in range(max(len(GOOD), len(BAD))):
        for kind, prompts in (("good", GOOD), ("bad", BAD)):
            folder = options.work / f"{kind}-{i}-{options.seed}"
            done = (folder / "mapper.safetensors").exists()
            if i >= len(prompts) or (options.finished and not done):
                continue
            print(f"{kind}: {prompts[i]}", flush=True)
            row, elsewhere = _edit(domain, prompts[i], folder, options.steps, options.seed)
            rows.append({"kind": kind, "prompt": prompts[i], **row})
            others += elsewhere if kind == "good" else []
    bad = [row for row in rows if row["kind"] == "bad"]
    directions = {
        "good": [row["direction"] for row in rows if row["kind"] == "good"],
        "bad": [row["direction"] for row in bad],
        "bad, in known words": [row["direction"] for row in bad if not row["unknown_words"]],
        "good, by the prompts of others": others,
    }
    exceeding: dict[str, dict[str, float]] = {
        kind: {"edits": len(found)}
        | {f"{limit:g}": round(sum(d > limit for d in found) / len(found), 3) for limit in LIMITS}
        for kind, found in directions.items()
    }
    settings = {"steps": options.steps, "batch_size": 2, "timesteps": TIMESTEPS}
    content: dict[str, Any] = {"domain": domain.name, "settings": settings | {"seed": options.seed}}
    content |= {"direction_above": domain.spec.direction_above, "edits": rows}
    write_json(RESULTS, content | {"exceeding": exceeding})
    print(f"written: {RESULTS}")


def _edit(
    domain: Any, prompt: str, folder: Path, steps: int, seed: int
) -> tuple[dict[str, Any], list[float]]:
    """Distill a prompt, or take what is there: its figures, and its directions to other prompts."""
    config = sdd.DistillConfig(
        steps=steps, batch_size=2, seed=seed, guidance_rms=domain.guidance_rms.get(prompt)
    )
    if not (folder / "mapper.safetensors").exists():
        sdd.distill(
            domain.prior, domain.generator, domain.w_plus, prompt, TIMESTEPS, config=config,
            w_std=domain.w_std, identity=domain.identity, run_dir=folder, domain=domain.name,
        )  # fmt: skip
    mapper, _ = sdd.load_mapper(folder / "mapper.safetensors")
    monitor = domain.monitor(prompt)
    measured = monitor(mapper, config.lam)
    names = ("direction", "clip_gain", "peak_change", "saturated_share", "identity")
    row = {name: round(measured[name], 4) for name in names}
    row |= {"unknown_words": list(monitor.unknown_words), "verdict": measured["verdict"]}

    with torch.no_grad():
        before, after = (
            domain.clip.encode_images(
                manipulate(domain.generator, monitor.w_plus, edits).images.clamp(-1, 1)
            )
            for edits in ([], [(mapper, config.lam)])
        )
    texts = domain.clip.encode_texts([domain.source_text, *GOOD])  # unit vectors, as the images
    elsewhere = [
        round(float(F.cosine_similarity(after - before, text - texts[0]).mean()), 4)
        for other, text in zip(GOOD, texts[1:], strict=True)
        if not _alike(prompt, other)
    ]
    return row, elsewhere


def _alike(prompt: str, other: str) -> bool:
    """Whether the two ask for something in common, such as white hair alone and with glasses."""
    common = {"a", "an", "face", "person", "portrait", "with", "on", "hair,", "background", "hair"}
    return bool((set(prompt.split()) & set(other.split())) - common)


if __name__ == "__main__":
    main()
