"""Measuring a domain of clothing: quality.json and MODEL_CARD.md, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...files import write_json
from .. import Domain, load_domain
from ..evaluate import LabeledImages, measure_all
from ..model_card import write_card
from .attributes import ATTRIBUTES
from .edits import EDITS, SAMPLED
from .held_out import LICENSE, load_held_out, to_images
from .measure import agreement

_ABOUT = (
    "photographs of clothing, 28 × 28 pixels of gray on a margin of white, and every network the "
    "method needs, trained on them from scratch. The photographs are those of Fashion-MNIST (Xiao, "
    "Rasul and Vollgraf 2017, https://github.com/zalandoresearch/fashion-mnist), © 2017 Zalando "
    f"SE, MIT licence (`{LICENSE.name}`), with their negation undone. As many dark, medium and "
    "light ones of each of the ten kinds were trained on. `held-out.safetensors` holds photographs "
    "of its test set with their labels; no network has seen them, and edits are measured on them."
)


def held_out_garments(domain: Domain) -> LabeledImages:
    """Return the photographs that no part was trained on."""
    photographs = load_held_out(domain)
    return LabeledImages(to_images(photographs), photographs.labels, ATTRIBUTES, agreement)


def measure_domain(out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
    """Measure everything on held-out photographs; write quality.json and MODEL_CARD.md.

    Args:
        record: of each part's training, for the card.
    """
    domain = load_domain(out, device=device)
    held_out = held_out_garments(domain)
    write_json(out / "quality.json", measure_all(domain, held_out, EDITS, SAMPLED, record))
    write_card(out, "garments", _ABOUT, "sdd train-domain OUT --like fashion32")
