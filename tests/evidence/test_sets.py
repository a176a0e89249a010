"""What a table says of FID and KID where they are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdd_fast.domains import Domain
from sdd_fast.evidence import sets
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.editing import editing
from sdd_fast.evidence.judge import Judges
from sdd_fast.evidence.plan import Plan
from sdd_fast.evidence.sets import about_sets, features_of, references
from sdd_fast.evidence.store import Store
from sdd_fast.evidence.subject import subject_of
from sdd_fast.metrics.distributions import frechet_distance, kernel_distance_of_all
from sdd_fast.metrics.features import FeatureNetwork
from sdd_fast.metrics.interval import Interval


@pytest.fixture
def case(tiny: Domain, tmp_path: Path) -> Case:
    return Case(tiny, Plan.quick(), Store(tmp_path))


def test_too_few_images_for_fid_are_told_with_the_number_that_is_needed(
    case: Case, tiny: Domain
) -> None:
    features = features_of(case, subject_of(tiny, "white hair", 3).before)
    assert features is not None
    dimensions = len(features[0])
    units: dict[str, dict[str, Any]] = {
        p: {"features": features, "photographs": [f"{p} {i}" for i in range(len(features))]}
        for p in ("a", "b")
    }
    told = about_sets(case, [units])
    assert told is not None and told.startswith("FID and KID by the features of the tiny")
    assert f"{dimensions + 1} at least of all prompts together; an editor has 6." in told
    enough = {"a": {"features": features * dimensions}}
    assert "at least" not in str(about_sets(case, [enough]))


def test_fid_has_an_interval_where_enough_images_are_left_without_a_group() -> None:
    rng = torch.Generator().manual_seed(0)
    after, reference = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (60, 80))
    found = sets._fid(after, reference, [str(i) for i in range(60)])
    assert isinstance(found, Interval) and found.low < found.estimate < found.high
    assert found.estimate == pytest.approx(frechet_distance(after, reference))
    few = sets._fid(after[:5], reference, [str(i) for i in range(5)])
    assert few == pytest.approx(frechet_distance(after[:5], reference))


def test_a_missing_extra_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "find_spec", lambda name: None)
    assert "pip install 'sdd_fast[metrics]'" in str(about_sets(case, []))


def test_kid_has_an_interval_too_and_of_few_images_none() -> None:
    rng = torch.Generator().manual_seed(1)
    after, reference = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (60, 80))
    found = sets._kid(after, reference, [str(i) for i in range(60)])
    assert isinstance(found, Interval) and found.low < found.estimate < found.high
    assert found.estimate == kernel_distance_of_all(after, reference)
    few = sets._kid(after[:6], reference, [str(i) for i in range(6)])
    assert few == kernel_distance_of_all(after[:6], reference)


def test_edits_of_one_photograph_are_left_out_together() -> None:
    rng = torch.Generator().manual_seed(2)
    of_each = torch.randn(30, 4, generator=rng, dtype=torch.float64)
    reference = torch.randn(80, 4, generator=rng, dtype=torch.float64) + 0.5
    after = of_each.repeat(4, 1)  # by four prompts, whose edits are the same
    names = [str(i) for i in range(30)]
    alone = sets._kid(after, reference, [str(i) for i in range(120)])
    together = sets._kid(after, reference, names * 4)
    assert isinstance(alone, Interval) and isinstance(together, Interval)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_features_are_by_inception_where_it_was_given(case: Case, tiny: Domain) -> None:
    images = subject_of(tiny, "white hair", 2).before
    network = FeatureNetwork("Inception of mine", nn.Flatten())
    given = replace(case, judges=Judges(inception=network))
    features = features_of(given, images)
    assert features is not None and len(features[0]) == images[0].numel()
    told = str(about_sets(given, []))
    assert "by the features of the Inception of mine" in told and "cannot be compared" not in told
    assert "cannot be compared with those by Inception" in str(about_sets(case, []))
    prompt = case.prompts[0]
    assert references(given, prompt).digest != references(case, prompt).digest
    assert editing(given, "ours", prompt).digest != editing(case, "ours", prompt).digest
    assert given.everywhere == case.everywhere  # what they do not judge stays
