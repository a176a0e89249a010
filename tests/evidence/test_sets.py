"""FID and KID of what units keep, and what a table says of them where they are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from sdd_fast.evidence.sets import (
    ImageSet,
    about_sets,
    distances,
    distances_unedited,
    features_of,
    photographs_of,
    references,
)
from sdd_fast.evidence.store import Store
from sdd_fast.evidence.subject import subject_of
from sdd_fast.metrics.distributions import frechet_distance, kernel_distance_of_all
from sdd_fast.metrics.features import FeatureNetwork
from sdd_fast.metrics.interval import Interval


@pytest.fixture
def case(tiny: Domain, tmp_path: Path) -> Case:
    return Case(tiny, Plan.quick(), Store(tmp_path))


def normal(count: int, seed: int) -> ImageSet:
    """Made-up images, each of a photograph of its own."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 4, generator=rng, dtype=torch.float64)
    return ImageSet(features, [f"{seed} {i}" for i in range(count)])


def measure(case: Case) -> None:
    for prompt in case.prompts:
        case.store.keep(references(case, prompt), references(case, prompt).run())


def test_too_few_different_images_for_fid_are_told_with_the_number_that_is_needed(
    case: Case, tiny: Domain
) -> None:
    features = features_of(case, subject_of(tiny, "white hair", 3).before)
    assert features is not None
    needed = len(features[0]) + 1
    units: dict[str, dict[str, Any]] = {
        prompt: {"features": features * needed, "photographs": [*"abc"] * needed}
        for prompt in case.prompts
    }
    told = about_sets(case, [units])
    assert told is not None and told.startswith("FID and KID by the features of the tiny")
    assert told.endswith(
        f" FID needs more different images than there are features, {needed} at least of all "
        "prompts together; there are 3 of an editor."
    )
    rows = torch.randn(needed, needed - 1, generator=torch.Generator().manual_seed(0)).tolist()
    enough = {case.prompts[0]: {"features": rows, "photographs": [*map(str, range(needed))]}}
    assert "at least" not in str(about_sets(case, [enough]))
    measure(case)
    of_all = [subject_of(tiny, prompt, 8).before for prompt in case.prompts]
    count = len(set(photographs_of(torch.cat(of_all))))
    told = str(about_sets(case, [enough]))
    assert f"(8 of each prompt that lack its target, {count} different ones; of the {count}" in told
    assert told.endswith(
        f"; there are {count} of no edit, 16 of right answers, {count} of the images compared with."
    )


def test_units_keep_more_images_to_compare_with_than_are_edited_and_right_answers(
    tiny: Domain, tmp_path: Path
) -> None:
    case = Case(tiny, Plan.quick(images=4, reference_images=6), Store(tmp_path))
    values = references(case, "white hair").run().values
    for key, count in (("reference", 6), ("edited", 4)):
        before = subject_of(tiny, "white hair", count).before
        assert values[key]["before"] == features_of(case, before)
        assert values[key]["photographs"] == photographs_of(before)
    answers = subject_of(tiny, "white hair", 4).answers
    assert answers is not None
    assert values["edited"]["right"] == features_of(case, answers.answers[0])
    more = replace(case, plan=replace(case.plan, reference_images=7))
    assert references(more, "white hair").digest != references(case, "white hair").digest
    assert editing(more, "ours", "white hair").digest == editing(case, "ours", "white hair").digest
    many = replace(case, plan=replace(case.plan, images=8))
    assert len(references(many, "white hair").run().values["reference"]["before"]) == 8


def test_a_domain_of_few_images_is_compared_with_those_that_it_has(
    unlabeled: Domain, tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.quick(images=3, reference_images=500)
    case = Case(unlabeled, plan, Store(tmp_path))
    values = references(case, "white hair").run().values  # and warns of nothing
    assert len(values["reference"]["before"]) == len(unlabeled.held_out) > 3
    # Rendered in batches of other sizes, they are the same photographs still.
    assert values["reference"]["photographs"][:3] == values["edited"]["photographs"]
    assert "right" not in values["edited"]
    photographs = subject_of(tiny, "white hair", 5).before

    def sample_images(domain: Domain, count: int, lacking: Any) -> torch.Tensor:
        if count > 5:
            raise ValueError("only 5 held-out photographs lack it")
        return photographs[:count]

    reader = SimpleNamespace(
        target_in=lambda prompt: ("hair_color", ("white",)), sample_images=sample_images
    )
    monkeypatch.setitem(vars(tiny), "reader", reader)
    case = Case(tiny, plan, Store(tmp_path))
    values = references(case, "white hair").run().values
    assert values["reference"] == values["edited"] and len(values["edited"]["before"]) == 3


def test_no_edit_and_right_answers_have_distances_too(tiny: Domain, tmp_path: Path) -> None:
    case = Case(tiny, Plan.quick(images=48, reference_images=64), Store(tmp_path))
    measure(case)
    nothing = distances_unedited(case, case.prompts, "before")
    right = distances_unedited(case, case.prompts, "right")
    assert all(isinstance(nothing[key], Interval | float) for key in ("fid", "kid", "fid_right"))
    assert isinstance(nothing["kid"], Interval) and nothing["kid"].low < 0 < nothing["kid"].high
    assert right["fid"] != nothing["fid"] and right["kid"] != nothing["kid"]
    assert right["fid_right"] is None  # to themselves
    for kind, expected in (("before", nothing), ("right", right | {"fid_right": 0.0})):
        edited = sets._kept(case, case.prompts, "edited")
        units = [dict(one, features=one[kind]) for one in edited if one is not None]
        found = distances(case, dict(zip(case.prompts, units, strict=True)))
        fid = found.pop("fid_right")
        assert found == {key: expected[key] for key in found}
        if kind == "right":
            assert isinstance(fid, Interval) and fid.estimate == pytest.approx(0, abs=1e-6)


def test_a_set_of_few_different_images_has_no_fid_and_of_few_photographs_no_kid() -> None:
    few, enough = normal(4, 1), normal(12, 2)
    repeated = ImageSet(few.features.repeat(5, 1), few.photographs * 5)
    assert repeated.different == 4 and repeated.different_left() == 0
    for images, reference in ((repeated, enough), (enough, repeated)):
        assert sets._fid(images, reference) is None
        assert sets._kid(images, reference) is not None
    assert sets._fid(enough, normal(9, 3)) is not None
    three = ImageSet(enough.features, [*"abc"] * 4)
    assert sets._kid(three, enough) is None and sets._kid(enough, three) is None


def test_fid_has_an_interval_where_enough_images_are_left_without_a_group() -> None:
    after, reference = normal(60, 0), normal(80, 1)
    found = sets._fid(after, reference)
    assert isinstance(found, Interval) and found.low < found.estimate < found.high
    expected = frechet_distance(after.features, reference.features)
    assert found.estimate == pytest.approx(expected)
    few = ImageSet(after.features[:5], after.photographs[:5])
    assert sets._fid(few, reference) == pytest.approx(
        frechet_distance(few.features, reference.features)
    )


def test_images_that_are_left_are_counted_once_each() -> None:
    # 10 photographs, each a group: without it 9 are left, of which two look alike.
    features = torch.arange(10.0, dtype=torch.float64)[:, None].clone()
    features[1] = features[0]
    images = ImageSet(features.repeat(2, 1), [str(i) for i in range(10)] * 2)
    assert images.different == 9 and images.different_left() == 8


def test_a_missing_extra_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "find_spec", lambda name: None)
    assert "pip install 'sdd_fast[metrics]'" in str(about_sets(case, []))


def test_kid_has_an_interval_too_and_of_few_images_none() -> None:
    after, reference = normal(60, 2), normal(80, 3)
    found = sets._kid(after, reference)
    assert isinstance(found, Interval) and found.low < found.estimate < found.high
    assert found.estimate == kernel_distance_of_all(after.features, reference.features)
    few = ImageSet(after.features[:6], after.photographs[:6])
    assert sets._kid(few, reference) == kernel_distance_of_all(few.features, reference.features)


def test_kid_leaves_out_pairs_of_one_photograph() -> None:
    of_each = normal(30, 4)
    names = of_each.photographs
    images = ImageSet(of_each.features.repeat(2, 1), names * 2)
    reference = ImageSet(of_each.features[:20].repeat(2, 1), names[:20] * 2)
    found = sets._kid(images, reference)
    assert isinstance(found, Interval)
    assert found.estimate == kernel_distance_of_all(
        images.features, reference.features, members=names * 2, reference_members=names[:20] * 2
    )
    assert found.estimate > kernel_distance_of_all(images.features, reference.features) + 0.1


def test_edits_of_one_photograph_are_left_out_together() -> None:
    of_each, reference = normal(30, 5), normal(80, 6)
    reference = ImageSet(reference.features + 0.5, reference.photographs)
    after = of_each.features.repeat(4, 1)  # by four prompts, whose edits are the same
    alone = sets._kid(ImageSet(after, [str(i) for i in range(120)]), reference)
    together = sets._kid(ImageSet(after, of_each.photographs * 4), reference)
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
