"""What is measured of a whole domain with labels, for its quality.json and its model card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..images import psnr
from ..manipulator import manipulate
from ..metrics.attributes import Labels, measure_attributes, read_attributes
from ..metrics.identity import identity_similarity
from ..selection.hqs import hqs
from ..shield import shielded
from .domain import Domain
from .reader import EditQuality, Target


@dataclass(frozen=True)
class LabeledImages:
    """Held-out images of a domain, and how labels that a classifier reads off are compared.

    Args:
        images: [N, 3, R, R] in [-1, 1]. labels: of each. attributes: their values, in order.
        agreement: (labels read, true labels) → share that agrees of each attribute.
    """

    images: Tensor
    labels: Labels
    attributes: Mapping[str, Sequence[str]]
    agreement: Callable[[Labels, Labels], dict[str, float]]


@shielded(grad=False)
def measure_on(
    domain: Domain,
    mapper: nn.Module,
    lam: float,
    prompt: str,
    before: Tensor,
    labels: Labels,
    target: Target,
    strength: float,
) -> EditQuality:
    """Encode images [N, 3, R, R] that lack the target, edit them and read the attributes off.

    Args:
        labels: of the images.

    Raises:
        ValueError: the domain has no classifier or no encoder.
    """
    encoder = domain.encoder
    if encoder is None:
        raise ValueError(f"domain {domain.name} has no encoder to measure edits of pictures with")
    after = torch.cat(
        [
            manipulate(domain.generator, encoder(x), [(mapper, lam * strength)]).images
            for x in before.to(domain.device).split(64)
        ]
    )
    after = after.nan_to_num(0.0).clamp(-1, 1).cpu()  # what cannot be shown is gray
    outcome = measure_attributes(domain, before, after, target, labels=labels)
    assert outcome.success is not None
    identity = math.nan
    if domain.identity is not None:
        vectors = identity_similarity(domain.identity, before, after, device=domain.device)
        identity = vectors.mean().item()
    return EditQuality(
        prompt=prompt,
        attribute=target[0],
        values=target[1],
        images=len(before),
        success=outcome.success.double().mean().item(),
        kept=shares_of(outcome.kept),
        identity=identity,
        strength=strength,
    )


def shares_of(kept: Mapping[str, Tensor]) -> dict[str, float]:
    """Return means over the images that were asked; attributes of which none was are left out."""
    asked_of = {name: values[~values.isnan()] for name, values in kept.items()}
    return {name: values.mean().item() for name, values in asked_of.items() if len(values)}


@torch.no_grad()
def measure_parts(domain: Domain, held_out: LabeledImages) -> dict[str, Any]:
    """Measure reconstruction by VAE and by encoder + generator, and what survives of attributes."""
    decoded, generated = [], []
    for x in held_out.images.split(64):
        decoded.append(domain.prior.decode(domain.prior.encode(x)).clamp(-1, 1))
        assert domain.encoder is not None
        generated.append(domain.generator.synthesis(domain.encoder(x)).clamp(-1, 1))
    vae, gan = torch.cat(decoded), torch.cat(generated)

    def share(images: Tensor) -> dict[str, float]:
        return held_out.agreement(read_attributes(domain, images), held_out.labels)

    return {
        "images": len(held_out.images),
        "vae_psnr": psnr(vae, held_out.images).mean().item(),
        "generator_psnr": psnr(gan, held_out.images).mean().item(),
        "classifier": share(held_out.images),
        "survival_vae": share(vae),
        "survival_generator": share(gan),
    }


def measure_samples(
    domain: Domain,
    held_out: LabeledImages,
    prompts: Mapping[str, Target],
    *,
    per_prompt: int = 32,
    steps: int = 30,
    scale: float = 5.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure whether the diffusion model makes what is requested, and in natural colors.

    `color_cast` is the largest difference of a channel's mean between sampled and held-out images,
    on the scale 0…255.
    """
    accuracy = {}
    for prompt, (attribute, values) in prompts.items():
        images = domain.prior.sample(
            [prompt] * per_prompt,
            num_inference_steps=steps,
            guidance_scale=scale,
            rng=draws.generator(seed),
        ).clamp(-1, 1)
        read = read_attributes(domain, images)[attribute]
        known = held_out.attributes[attribute]
        wanted = torch.tensor([known.index(value) for value in values])
        accuracy[prompt] = torch.isin(read, wanted).double().mean().item()
    plain = domain.prior.sample(
        [domain.source_text] * 2 * per_prompt,
        num_inference_steps=steps,
        guidance_scale=1.5,
        rng=draws.generator(seed),
    ).clamp(-1, 1)
    cast = (plain.mean((0, 2, 3)) - held_out.images.mean((0, 2, 3))).abs().max().item() * 127.5
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
    prompts: Mapping[str, Target],
    *,
    selected_on: int = 16,
    measured_on: int = 256,
) -> list[dict[str, Any]]:
    """Run the whole method for every prompt: select by HQS, distill, edit held-out images.

    Args:
        selected_on: number of held-out images that timesteps are selected on. measured_on: of those
            that the edit is measured on.
    """
    reader = domain.reader
    if reader is None:
        raise ValueError(f"domain {domain.name} has no labels to measure edits by")
    rows = []
    for prompt, target in prompts.items():
        curve = hqs(
            domain.prior, domain.held_out[:selected_on], prompt, generator=domain.generator,
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
        quality = reader.measure_edit(
            domain, result.mapper, config.lam, prompt,
            target=target, strength=1.0, images=measured_on,
        )  # fmt: skip
        rows.append(
            quality.to_json()
            | {"timesteps": timesteps, "levels": list(result.info.levels)}
            | {"distill_seconds": result.seconds}
            | {"guidance_scale": result.config.guidance.guidance_scale}
        )
    return rows


def measure_all(
    domain: Domain,
    held_out: LabeledImages,
    edits: Mapping[str, Target],
    sampled: Mapping[str, Target],
    record: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of quality.json.

    Args:
        domain: one with a reader. edits: prompt → target, of what is distilled. sampled: of what
            the diffusion model is asked for.
        record: of each part's training, see `PartTrainer.record`.
    """
    config = DistillConfig()
    return {
        "training": record,
        "parts": measure_parts(domain, held_out),
        "samples": measure_samples(domain, held_out, sampled),
        "edit_config": asdict(config),
        "edits": measure_edits(domain, config, edits),
    }
