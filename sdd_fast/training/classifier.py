"""The attribute classifier, which measures edits, and the identity embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import draws
from ..models import ConvClassifier, ConvEmbedding
from .data import CaptionedImages, Source
from .part import PartTrainer, Recipe

CLASSIFIER = Recipe(steps=1500, batch_size=48, lr=2e-3, weight_decay=0.01, ema=0.99)
IDENTITY = Recipe(steps=600, batch_size=48, lr=2e-3, weight_decay=0.01, ema=0.99, seed=5)
_TEMPERATURE = 0.1


def train_classifier(data: CaptionedImages, trainer: PartTrainer) -> ConvClassifier:
    """Train by cross-entropy on every labeled attribute.

    Blurred and noisy copies stand in for decoded and generated images, which the classifier has
    to judge without having seen one.
    """
    device = trainer.device
    heads = {k: int(v.max()) + 1 for k, v in data.labels.items()}
    with draws.private(CLASSIFIER.seed):
        model = ConvClassifier(heads, data.resolution, width=16)
    model.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = data.batch(CLASSIFIER.batch_size, rng)
        images = degrade(data.images(index, device), rng)
        logits = model(images)
        losses = {
            k: F.cross_entropy(v.float(), data.labels[k][index].to(device))
            for k, v in logits.items()
        }
        each = torch.stack(list(losses.values()))
        return each.sum(), {"hardest": each.detach().max()}

    return trainer.train("classifier", model, loss_fn, CLASSIFIER)


def degrade(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mix images [B, 3, R, R] with a blurred copy, at random, and add noise."""
    n = len(images)
    mix = torch.rand(n, 1, 1, 1, generator=rng).to(images.device)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    sigma = 0.06 * torch.rand(n, 1, 1, 1, generator=rng).to(images.device)
    noise = torch.randn(images.shape, generator=rng).to(images.device)
    return images.lerp(blurred, 0.8 * mix) + sigma * noise


def train_identity(data: CaptionedImages, source: Source, trainer: PartTrainer) -> ConvEmbedding:
    """Train by contrast (NT-Xent): two images of a subject are closer than any two subjects.

    Where the source has no second image of a subject, it is the same one cropped, recolored and
    degraded.
    """
    device = trainer.device
    with draws.private(IDENTITY.seed):
        model = ConvEmbedding(64, data.resolution, width=16)
    model.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        pair = source.pair(IDENTITY.batch_size, data.resolution, rng)
        if pair is None:
            first = data.images(data.batch(IDENTITY.batch_size, rng))
            pair = (first, augment(first, rng))
        images = degrade(torch.cat(pair), rng).to(device)
        z = model(images).float()
        logits = z @ z.t() / _TEMPERATURE
        n = len(z)
        logits = logits.masked_fill(torch.eye(n, dtype=torch.bool, device=device), -1e4)
        target = torch.arange(n, device=device).roll(n // 2)
        hits = (logits.argmax(1) == target).float().mean()
        return F.cross_entropy(logits, target), {"top1": hits}

    return trainer.train("identity", model, loss_fn, IDENTITY)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, zoom, mirror and recolor each of the images [B, 3, R, R] at random."""
    n = len(images)
    zoom = 1.0 - 0.25 * torch.rand(n, generator=rng)
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0).float()
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * mirror, zoom
    theta[:, :, 2] = (torch.rand(n, 2, generator=rng) - 0.5) * 2 * (1.0 - zoom)[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = 1.0 + 0.2 * (torch.rand(n, 3, 1, 1, generator=rng) - 0.5)
    return (moved * gain).clamp(-1, 1)
