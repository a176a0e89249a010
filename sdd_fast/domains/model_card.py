"""The model card of a domain with labels: generated from what was trained and measured."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from ..files import load_tensors, read_json, write_text
from ..gradients.config import GUIDANCE_RMS
from ..training.card import CARD_FILE, training_table

_NETWORKS = {
    "diffusion/vae/diffusion_pytorch_model.safetensors": "AutoencoderKL",
    "diffusion/unet/diffusion_pytorch_model.safetensors": "UNet2DConditionModel",
    "diffusion/text_encoder/model.safetensors": "CLIP text encoder of the teacher",
    "clip/model.safetensors": "CLIP text tower of the judge",
    "clip/image.safetensors": "CLIP image tower of the judge",
    "generator.safetensors": "StyleGAN2 generator",
    "encoder.safetensors": "image → W+ encoder",
    "identity.safetensors": "identity embedding",
    "classifier.safetensors": "attribute classifier",
    "latents.safetensors": "encoded {images} to distill with",
}


def write_card(folder: Path, images: str, about: str, again: str) -> None:
    """Write MODEL_CARD.md from quality.json and the weights' sizes.

    Args:
        images: what the domain's images are called. about: what they are, as the rest of a sentence
            on the domain, and what else is to be known of it. again: the command that trained it.
    """
    quality = read_json(folder / "quality.json")
    spec = read_json(folder / "domain.json")
    side = spec["resolution"]
    lines = [
        f"# Model card: {spec['name']}",
        "",
        *textwrap.wrap(
            f"A complete small domain of {side} × {side} pixels for Selective Diffusion "
            f"Distillation: {about}",
            100,
        ),
        "",
        "This page is generated from `quality.json` and the files beside it.",
        "",
        "## Files",
        "",
        "| file | what it is | parameters | size (MB) |",
        "|---|---|---:|---:|",
    ]
    total = 0.0
    for file, what in _NETWORKS.items():
        path = folder / file
        size = path.stat().st_size / 1e6
        total += size
        count = sum(t.numel() for t in load_tensors(path)[0].values())
        lines.append(f"| `{file}` | {what.format(images=images)} | {count:,} | {size:.2f} |")
    lines += [f"| all | | | {total:.2f} |", "", "Weights are float16; computation is float32.", ""]
    lines += ["## Training", "", *training_table(quality["training"]), ""]
    lines += [
        "Minutes are wall-clock minutes of each part on one core of a two-core machine that was "
        "also doing other",
        f"work. `{again}` trains everything again from these seeds.",
        "",
    ]
    lines += _parts(quality["parts"], images) + _samples(quality["samples"], images)
    lines += _edits(quality, images)
    write_text(folder / CARD_FILE, "\n".join(lines) + "\n")


def _parts(parts: dict[str, Any], images: str) -> list[str]:
    lines = [
        "## Reconstruction and what survives it",
        "",
        f"{parts['images']} held-out {images}. PSNR: VAE **{parts['vae_psnr']:.1f} dB**, "
        f"encoder + generator **{parts['generator_psnr']:.1f} dB**.",
        "",
        f"Share of {images} whose attribute the classifier reads as it is labeled:",
        "",
        "| attribute | original | after the VAE | after encoder + generator |",
        "|---|---:|---:|---:|",
    ]
    for name, share in parts["classifier"].items():
        vae, gan = parts["survival_vae"][name], parts["survival_generator"][name]
        lines.append(f"| {name} | {share:.3f} | {vae:.3f} | {gan:.3f} |")
    return [*lines, ""]


def _samples(samples: dict[str, Any], images: str) -> list[str]:
    lines = [
        "## What the diffusion model makes",
        "",
        f"{samples['per_prompt']} images a prompt, {samples['steps']} DDIM steps, guidance scale "
        f"{samples['guidance_scale']:g}: share in which the classifier sees what was requested. "
        f"Largest difference of a mean color channel from held-out {images}: "
        f"{samples['color_cast']:.1f} of 255.",
        "",
        "| prompt | accuracy |",
        "|---|---:|",
    ]
    lines += [f"| {prompt} | {share:.2f} |" for prompt, share in samples["accuracy"].items()]
    return [*lines, f"| mean | {samples['accuracy_mean']:.2f} |", ""]


def _edits(quality: dict[str, Any], images: str) -> list[str]:
    config = quality["edit_config"]
    lines = [
        "## Edits",
        "",
        "Select the timesteps whose HQS is within 0.1 of the largest, distill a mapper "
        f"({config['steps']} steps of {config['batch_size']}, guidance scale g balanced to the "
        f"guidance RMS {GUIDANCE_RMS:g} unless domain.json names another), edit held-out {images} "
        "that lack the target.",
        "All levels of the mapper unless named. *Success*: the target is there afterwards.",
        "*Kept*: the other attributes read as labeled.",
        "",
        f"| prompt | t | g | {images} | success | kept, mean | kept, worst | identity |",
        "|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for row in quality["edits"]:
        worst, share = row["kept_worst"]
        steps = ", ".join(map(str, row["timesteps"]))
        some = "" if len(row["levels"]) == 3 else f" ({', '.join(row['levels'])})"
        lines.append(
            f"| {row['prompt']}{some} | {steps} | {row['guidance_scale']:g} | "
            f"{row['images']} | {row['success']:.3f} | {row['kept_mean']:.3f} | "
            f"{share:.3f} ({worst}) | {row['identity']:.2f} |"
        )
    return [*lines, ""]
