"""Measuring a domain of rendered faces: quality.json and MODEL_CARD.md, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ... import draws
from ...files import write_json
from .. import Domain, load_domain
from ..evaluate import LabeledImages, measure_all
from ..model_card import write_card
from ..reader import Target
from .attributes import ATTRIBUTES
from .edits import EDITS
from .measure import agreement
from .renderer import render, sample_faces

# prompts that the diffusion model is sampled from: those of the edits, and the other attributes
SAMPLED: dict[str, Target] = EDITS | {
    "a face with blue hair": ("hair_color", ("blue",)),
    "a face with long hair": ("hair_length", ("long",)),
    "a face with dark skin": ("skin", ("dark",)),
    "a face, on a green background": ("background", ("green",)),
}
_ABOUT = (
    "faces drawn by the procedural renderer of this project, and every network the "
    "method needs, trained on them from scratch. No photograph of a person was used. The weights "
    "are good for learning, testing and demonstrating the method; they know nothing of real faces."
)


def held_out_faces(domain: Domain, *, images: int = 512, seed: int = 30_000) -> LabeledImages:
    """Draw faces that no part was trained on."""
    people = sample_faces(images, draws.generator(seed))
    return LabeledImages(render(people, domain.resolution), people.labels, ATTRIBUTES, agreement)


def measure_domain(out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
    """Measure everything on held-out faces; write quality.json and MODEL_CARD.md.

    Args:
        record: of each part's training, for the card.
    """
    domain = load_domain(out, device=device)
    held_out = held_out_faces(domain)
    write_json(out / "quality.json", measure_all(domain, held_out, EDITS, SAMPLED, record))
    write_card(out, "faces", _ABOUT, "sdd train-domain OUT")
