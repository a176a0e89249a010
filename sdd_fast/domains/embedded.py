"""The domains that come with the package: where their weights are, what reads their attributes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .reader import AttributeReader

HERE = Path(__file__).parent


def find_weights(name: str) -> Path:
    """Return the folder of an embedded domain's weights: beside its code, as in a checkout and what
    is installed from one; else the package of their own that comes with a wheel (`make wheel`)."""
    inside = HERE / name / "weights"
    spec = None if (inside / "domain.json").exists() else find_spec(f"sdd_fast_{name}")
    return inside if spec is None or spec.origin is None else Path(spec.origin).parent


EMBEDDED = {"faces64": find_weights("faces64")}
WEIGHTS = {"faces64": "sdd-fast-faces64==1.*"}
"""The distribution of an embedded domain's weights, of the versions that go with this code."""


def missing_weights(name: str) -> str:
    """Return what is said where those of an embedded domain are not installed."""
    return f'the weights of {name} are not installed: pip install "{WEIGHTS[name]}"'


def reader_of(name: str) -> AttributeReader | None:
    """Return what knows the attributes of an embedded domain; None if it has no labels."""
    if find_spec(f"{__package__}.{name}.reader") is None:
        return None
    return import_module(f".{name}.reader", __package__)
