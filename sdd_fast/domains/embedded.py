"""The domains that come with the package: where their weights are, what reads their attributes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .reader import AttributeReader

if TYPE_CHECKING:
    from ..progress import Listener
    from ..training.data import Source

HERE = Path(__file__).parent


def find_weights(name: str) -> Path:
    """Return the folder of an embedded domain's weights: beside its code, as in a checkout and what
    is installed from one; else the package of their own that comes with a wheel (`make wheel`)."""
    inside = HERE / name / "weights"
    spec = None if (inside / "domain.json").exists() else find_spec(f"sdd_fast_{name}")
    return inside if spec is None or spec.origin is None else Path(spec.origin).parent


WEIGHTS = {"faces64": "sdd-fast-faces64==1.*", "fashion32": "sdd-fast-fashion32==1.*"}
"""The distribution of an embedded domain's weights, of the versions that go with this code."""
EMBEDDED = {name: find_weights(name) for name in WEIGHTS}


def missing_weights(name: str) -> str:
    """Return what is said where those of an embedded domain are not installed."""
    return f'the weights of {name} are not installed: pip install "{WEIGHTS[name]}"'


def source_of(
    name: str, images: str | Path | None, source_text: str | None, progress: bool | Listener
) -> Source:
    """Return the images that an embedded domain was trained on, to train one like it.

    Raises:
        ValueError: no such domain, or it takes no `images`.
    """
    if name not in WEIGHTS:
        raise ValueError(f"like={name!r}: expected one of {', '.join(WEIGHTS)}")
    module = import_module(f".{name}.training_data", __package__)
    found: Source = module.source(images, source_text, progress)
    return found


def kind_of(reader: AttributeReader | None) -> str | None:
    """Return the embedded domain whose kind of images a reader is for; None if there is none."""
    return next((name for name in WEIGHTS if reader and reader_of(name) is reader), None)


def reader_of(name: str) -> AttributeReader | None:
    """Return what knows the attributes of an embedded domain; None if it has no labels."""
    if find_spec(f"{__package__}.{name}.reader") is None:
        return None
    return import_module(f".{name}.reader", __package__)
