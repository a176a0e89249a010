"""The attribute classifier (for measuring edits) and the identity embedding of rendered faces."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.models import ConvClassifier, ConvEmbedding

from .. import draws
from ..training_loop import Schedule, train
from .data import Pictures

CLASSIFIER = Schedule(steps=1500, batch_size=48, lr=2e-3, weight_decay=0.01, ema=0.99)
IDENTITY = Schedule(steps=600, batch_size=48, lr=2e-3, weight_decay=0.01, ema=0.99, seed=5)
_TEMPERATURE = 0.1


def train_classifier(
    pictures: Pictures, folder: Path, *, device: str = "cpu", schedule: Schedule = CLASSIFIER
) -> ConvClassifier:
    """Cross-entropy on every labelled attribute.

    Blurred and noisy copies stand in for decoded and generated pictures, which the classifier has
    to judge without having seen one.
    """
    heads = {k: int(v.max()) + 1 for k, v in pictures.labels.items()}
    with draws.private(schedule.seed):
        model = ConvClassifier(heads, pictures.resolution, width=16)
    model.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = pictures.batch(schedule.batch_size, rng)
        images = degrade(pictures.images(index, device), rng)
        logits = model(images)
        losses = {
            k: F.cross_entropy(v.float(), pictures.labels[k][index].to(device))
            for k, v in logits.items()
        }
        return torch.stack(list(losses.values())).sum(), {
            k: v.detach() for k, v in losses.items() if k in ("expression", "hair_color")
        }

    trained = train("classifier", model, loss_fn, schedule, folder)
    assert isinstance(trained, ConvClassifier)
    return trained


def degrade(images: Tensor, rng: torch.Generator) -> Tensor:
    """A random mix with a blurred copy, plus noise: [B, 3, R, R] → the same."""
    n = len(images)
    mix = torch.rand(n, 1, 1, 1, generator=rng).to(images.device)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    sigma = 0.06 * torch.rand(n, 1, 1, 1, generator=rng).to(images.device)
    noise = torch.randn(images.shape, generator=rng).to(images.device)
    return images.lerp(blurred, 0.8 * mix) + sigma * noise


def train_identity(
    pictures: Pictures, folder: Path, *, device: str = "cpu", schedule: Schedule = IDENTITY
) -> ConvEmbedding:
    """Contrastive training (NT-Xent): two pictures of a person are closer than any two persons.

    For rendered faces the second picture differs in pose and in every attribute but skin. For a
    user's folder, where a picture is all that is known of a person, it is the same picture
    cropped, recoloured and degraded.
    """
    with draws.private(schedule.seed):
        model = ConvEmbedding(64, pictures.resolution, width=16)
    model.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if pictures.labels:
            faces = sample_faces(schedule.batch_size, rng)
            first = render(faces, pictures.resolution)
            second = render(faces.same_person(rng), pictures.resolution)
        else:
            first = pictures.images(pictures.batch(schedule.batch_size, rng))
            second = augment(first, rng)
        pair = degrade(torch.cat([first, second]), rng).to(device)
        z = model(pair).float()
        logits = z @ z.t() / _TEMPERATURE
        n = len(z)
        logits = logits.masked_fill(torch.eye(n, dtype=torch.bool, device=device), -1e4)
        target = torch.arange(n, device=device).roll(n // 2)
        hits = (logits.argmax(1) == target).float().mean()
        return F.cross_entropy(logits, target), {"top1": hits}

    trained = train("identity", model, loss_fn, schedule, folder)
    assert isinstance(trained, ConvEmbedding)
    return trained


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Random shift, zoom, mirror and color gain of each picture: [B, 3, R, R] → the same."""
    n = len(images)
    zoom = 1.0 - 0.25 * torch.rand(n, generator=rng)
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * mirror, zoom
    theta[:, :, 2] = (torch.rand(n, 2, generator=rng) - 0.5) * 2 * (1.0 - zoom)[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = 1.0 + 0.2 * (torch.rand(n, 3, 1, 1, generator=rng) - 0.5)
    return (moved * gain).clamp(-1, 1)
