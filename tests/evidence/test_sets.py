"""What a table says of FID and KID where they are missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdd_fast.domains import Domain
from sdd_fast.evidence import sets
from sdd_fast.evidence.sets import about_sets, features_of
from sdd_fast.evidence.subject import subject_of
from sdd_fast.metrics.distributions import frechet_distance
from sdd_fast.metrics.interval import Interval


def test_too_few_images_for_fid_are_told_with_the_number_that_is_needed(tiny: Domain) -> None:
    features = features_of(tiny, subject_of(tiny, "white hair", 3).before)
    assert features is not None
    dimensions = len(features[0])
    units: dict[str, dict[str, Any]] = {p: {"features": features} for p in ("a", "b")}
    told = about_sets(tiny, [units])
    assert told is not None and told.startswith("FID and KID by the features of the tiny")
    assert f"{dimensions + 1} at least of all prompts together; an editor has 6." in told
    enough = {"a": {"features": features * dimensions}}
    assert "at least" not in str(about_sets(tiny, [enough]))


def test_fid_has_an_interval_where_enough_images_are_left_without_a_group() -> None:
    rng = torch.Generator().manual_seed(0)
    after, reference = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (60, 80))
    found = sets._fid(after, reference)
    assert isinstance(found, Interval) and found.low < found.estimate < found.high
    assert found.estimate == pytest.approx(frechet_distance(after, reference))
    few = sets._fid(after[:5], reference)
    assert few == pytest.approx(frechet_distance(after[:5], reference))


def test_a_missing_extra_is_named(tiny: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "find_spec", lambda name: None)
    assert "pip install 'sdd_fast[metrics]'" in str(about_sets(tiny, []))
