from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _figures(quick_figures: None) -> None:
    """Every run draws two."""
