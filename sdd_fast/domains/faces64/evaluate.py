"""Measuring a domain of rendered faces: quality.json and MODEL_CARD.md, beside its weights."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ... import draws
from ...distillation.config import DistillConfig
from ...distillation.distill import distill
from ...files import write_json
from ...selection.hqs import hqs
from .. import Domain, load_domain
from .attributes import ATTRIBUTES
from .edits import EDITS
from .measure import agreement, measure_edit, psnr, read_attributes
from .model_card import write_card
from .renderer import render, sample_faces

# prompts that the diffusion model is sampled from: those of the edits, and the other attributes
SAMPLED: dict[str, tuple[str, tuple[str, ...]]] = EDITS | {
    "a face with blue hair": ("hair_color", ("blue",)),
    "a face with long hair": ("hair_length", ("long",)),
    "a face with dark skin": ("skin", ("dark",)),
    "a face, on a green background": ("background", ("green",)),
}


def measure_domain(out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
    """Measure everything on held-out faces; write quality.json and MODEL_CARD.md.

    Args:
        record: of each part's training, for the card.
    """
    domain = load_domain(out, device=device)
    config = DistillConfig()
    report = {
        "training": record,
        "parts": measure_parts(domain),
        "samples": measure_samples(domain),
        "edit_config": asdict(config),
        "edits": measure_edits(domain, config),
    }
    write_json(out / "quality.json", report)
    write_card(out)


@torch.no_grad()
def measure_parts(domain: Domain, *, faces: int = 512, seed: int = 30_000) -> dict[str, Any]:
    """Measure reconstruction by VAE and by encoder + generator, and what survives of attributes."""
    people = sample_faces(faces, draws.generator(seed))
    images = render(people, domain.resolution)
    decoded, generated = [], []
    for x in images.split(64):
        decoded.append(domain.prior.decode(domain.prior.encode(x)).clamp(-1, 1))
        assert domain.encoder is not None
        generated.append(domain.generator.synthesis(domain.encoder(x)).clamp(-1, 1))
    vae, gan = torch.cat(decoded), torch.cat(generated)
    return {
        "faces": faces,
        "vae_psnr": psnr(vae, images).mean().item(),
        "generator_psnr": psnr(gan, images).mean().item(),
        "classifier": agreement(read_attributes(domain, images), people.labels),
        "survival_vae": agreement(read_attributes(domain, vae), people.labels),
        "survival_generator": agreement(read_attributes(domain, gan), people.labels),
    }


def measure_samples(
    domain: Domain, *, per_prompt: int = 32, steps: int = 30, scale: float = 5.0, seed: int = 0
) -> dict[str, Any]:
    """Measure whether the diffusion model draws what is requested, and in natural colors.

    `color_cast` is the largest difference of a channel's mean between sampled and rendered
    faces, on the scale 0…255.
    """
    accuracy = {}
    for prompt, (attribute, values) in SAMPLED.items():
        rng = draws.generator(seed)
        images = domain.prior.sample(
            [prompt] * per_prompt, num_inference_steps=steps, guidance_scale=scale, rng=rng
        ).clamp(-1, 1)
        read = read_attributes(domain, images)[attribute]
        wanted = torch.tensor([ATTRIBUTES[attribute].index(v) for v in values])
        accuracy[prompt] = torch.isin(read, wanted).double().mean().item()
    rng = draws.generator(seed)
    plain = domain.prior.sample(
        ["a photo of a face"] * 2 * per_prompt,
        num_inference_steps=steps,
        guidance_scale=1.5,
        rng=rng,
    ).clamp(-1, 1)
    drawn = render(sample_faces(1024, rng), domain.resolution)
    cast = (plain.mean((0, 2, 3)) - drawn.mean((0, 2, 3))).abs().max().item() * 127.5
    means = list(accuracy.values())
    return {
        "per_prompt": per_prompt,
        "steps": steps,
        "guidance_scale": scale,
        "accuracy": accuracy,
        "accuracy_mean": sum(means) / len(means),
        "color_cast": cast,
    }


def measure_edits(
    domain: Domain,
    config: DistillConfig,
    *,
    prompts: tuple[str, ...] = tuple(EDITS),
    images: int = 16,
    faces: int = 256,
) -> list[dict[str, Any]]:
    """Run the whole method for every prompt: select by HQS, distill, edit held-out faces."""
    rows = []
    for prompt in prompts:
        curve = hqs(
            domain.prior, domain.held_out[:images], prompt, generator=domain.generator,
            config=config.guidance,
        )  # fmt: skip
        timesteps = curve.plateau()
        rms = config.guidance_rms or domain.guidance_rms.get(prompt)
        result = distill(
            domain.prior, domain.generator, domain.w_plus, prompt, timesteps,
            levels=domain.levels.get(prompt), identity=domain.identity, w_std=domain.w_std,
            config=replace(config, guidance_rms=rms),
        )  # fmt: skip
        assert result.config.guidance is not None
        quality = measure_edit(domain, result.mapper, config.lam, prompt, faces=faces)
        rows.append(
            quality.to_json()
            | {"timesteps": timesteps, "levels": list(result.info.levels)}
            | {"distill_seconds": result.seconds}
            | {"guidance_scale": result.config.guidance.guidance_scale}
        )
    return rows
