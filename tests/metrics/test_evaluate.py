"""Edits of rendered faces, measured; the right answer has no error, and whatever else has more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_domain import write_tiny_domain
from torch import Tensor

from sdd_fast.domains import Domain, load_domain
from sdd_fast.domains.faces64.attributes import ATTRIBUTES
from sdd_fast.domains.faces64.renderer import Faces, render
from sdd_fast.domains.reader import RightAnswers
from sdd_fast.metrics import (
    EditMetrics,
    Reference,
    counterfactual_error,
    domain_distance,
    domain_features,
    evaluate,
    measure_attributes,
    read_attributes,
    right_answers,
)

COUNT = 16
PROMPT = "a face with a beard"


@pytest.fixture(scope="module")
def faces() -> Domain:
    return load_domain("faces64")


@pytest.fixture(scope="module")
def answers(faces: Domain) -> RightAnswers:
    return right_answers(faces, PROMPT, COUNT)


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Domain:
    return load_domain(write_tiny_domain(tmp_path_factory.mktemp("t") / "d", tiny_sd, faces=False))


def test_a_right_answer_differs_in_the_target_alone(answers: RightAnswers) -> None:
    assert answers.target == ("beard", ("yes",))
    assert (answers.labels["beard"] == 0).all()
    (labels,), (right,) = answers.answer_labels, answers.answers
    assert (labels["beard"] == 1).all()
    assert all(torch.equal(labels[k], answers.labels[k]) for k in ATTRIBUTES if k != "beard")
    changed = (right != answers.images).any(1)  # [N, H, W]
    assert changed[:, 32:].any((1, 2)).all() and not changed[:, :16].any()  # below the eyes only


def test_the_right_answer_has_no_error(faces: Domain, answers: RightAnswers) -> None:
    found = counterfactual_error(faces, answers.answers[0], answers)
    assert (found.error == 0).all() and (found.distance == 0).all() and (found.psnr > 125).all()
    assert found.distance_by == "faces64 classifier"
    assert set(found.by_attribute) == set(ATTRIBUTES)


@pytest.mark.parametrize(
    "wrong", ["nothing", "mirrored", "another attribute too", "brighter", "someone else"]
)
def test_whatever_else_has_more(faces: Domain, answers: RightAnswers, wrong: str) -> None:
    right = answers.answers[0]
    images = {
        "nothing": answers.images,
        "mirrored": answers.images.flip(3),
        "another attribute too": _drawn(faces, glasses="yes", beard="yes"),
        "brighter": (right + 0.1).clamp(max=1),
        "someone else": right.roll(1, 0),
    }[wrong]
    some = slice(None) if wrong != "another attribute too" else _without_glasses(answers)
    found = counterfactual_error(faces, images, answers)
    assert (found.distance[some] > 0).all() and (found.psnr[some] < 40).all()
    if wrong in ("nothing", "another attribute too"):
        attribute = "beard" if wrong == "nothing" else "glasses"
        assert found.by_attribute[attribute][some].mean() > 0.95
        assert (found.error[some] > 0).double().mean() > 0.95


def _drawn(faces: Domain, **values: str) -> Tensor:
    """The faces of `answers`, drawn with other values."""
    from sdd_fast.domains.faces64.held_out import faces_without

    people: Faces = faces_without("beard", ("yes",), COUNT)
    return render(people.with_labels(**values), faces.resolution)


def _without_glasses(answers: RightAnswers) -> Tensor:
    return answers.labels["glasses"] == 0


def test_errors_are_those_of_their_definitions(faces: Domain, answers: RightAnswers) -> None:
    found = counterfactual_error(faces, answers.images, answers)
    error = (answers.images.double() - answers.answers[0].double()).square().mean((1, 2, 3))
    torch.testing.assert_close(found.psnr, 10 * torch.log10(4 / error))
    read = [read_attributes(faces, x) for x in (answers.images, answers.answers[0])]
    bald = answers.labels["hair_length"] == 0
    assert bald.any() and found.by_attribute["hair_color"][bald].isnan().all()
    differs = torch.stack([(read[0][k] != read[1][k]).double() for k in ATTRIBUTES])
    differs[list(ATTRIBUTES).index("hair_color"), bald] = torch.nan
    torch.testing.assert_close(found.error, differs.nanmean(0))


def test_of_several_right_answers_the_nearest_counts(faces: Domain) -> None:
    sides = right_answers(faces, "a face in side view", 6)
    assert [labels["yaw"].unique().tolist() for labels in sides.answer_labels] == [[1], [2]]
    mixed = torch.stack([sides.answers[i % 2][i] for i in range(6)])
    found = counterfactual_error(faces, mixed, sides)
    assert found.chosen.tolist() == [0, 1, 0, 1, 0, 1]
    assert (found.error == 0).all() and (found.psnr > 125).all()


def test_success_and_others_kept_of_the_right_answer(faces: Domain, answers: RightAnswers) -> None:
    right = answers.answers[0]
    done = measure_attributes(faces, answers.images, right, answers.target, labels=answers.labels)
    assert done.success is not None and done.had is not None
    assert done.success.double().mean() > 0.95 and not done.had.any()
    assert set(done.kept) == set(ATTRIBUTES) - {"beard"}
    assert done.kept_mean.mean() > 0.95
    both = _drawn(faces, beard="yes", glasses="yes", background="purple")
    less = measure_attributes(faces, answers.images, both, answers.target, labels=answers.labels)
    glasses = less.kept["glasses"] == (answers.labels["glasses"] == 1).double()
    assert glasses.double().mean() > 0.95  # kept by those who had them


def test_everything_at_once(faces: Domain, answers: RightAnswers) -> None:
    right = answers.answers[0]
    done = evaluate(faces, answers.images, right, PROMPT, answers=answers)
    nothing = evaluate(faces, answers.images, answers.images, PROMPT, answers=answers)
    assert done.target == ("beard", ("yes",)) and done.kept_against == "labels"
    means, unedited = done.means(), nothing.means()
    assert means["success"] > 0.95 and unedited["success"] < 0.05
    assert unedited["identity"] == pytest.approx(1) and means["identity"] < 1
    assert means["clip_direction"] > 0.2 and unedited["clip_direction"] == 0
    assert means["clip_absolute"] > unedited["clip_absolute"]
    assert means["counterfactual_error"] == 0 and unedited["counterfactual_error"] > 0.1
    for name in ("psnr", "distance", "error"):
        assert means[f"nothing_{name}"] == unedited[f"counterfactual_{name}"]
    assert all(v.shape == (COUNT,) for v in done.per_image().values())
    assert done.success is not None and done.success.dtype == torch.bool
    assert done.lpips is None and done.distances is None
    assert "16 images" in repr(done) and "success=" in repr(done)
    worst = done.kept_worst()
    assert worst is not None and done.kept_by_attribute is not None
    assert worst[1] == min(float(v.nanmean()) for v in done.kept_by_attribute.values())


def test_metrics_survive_json(faces: Domain, answers: RightAnswers) -> None:
    network = domain_features(faces, "clip")
    reference = Reference.of(network, answers.answers[0], kinds=["kid"], subset_size=10)
    done = evaluate(
        faces, answers.images, answers.images.flip(3), PROMPT, answers=answers, reference=reference
    )
    back = EditMetrics.from_json(json.loads(json.dumps(done.to_json(), allow_nan=False)))
    assert back.to_json() == done.to_json() and back.means() == done.means()
    assert back.target == done.target and back.distances == done.distances
    assert back.distances is not None and back.distances.features == "faces64 CLIP"
    for name, values in done.per_image().items():
        assert torch.equal(getattr(back, name), values), name


def test_what_a_domain_has_no_means_for_is_none(unlabeled: Domain) -> None:
    rng = torch.Generator().manual_seed(0)
    before, after = (torch.rand(3, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
    done = evaluate(unlabeled, before, after, "white hair")
    assert set(done.per_image()) == {"identity", "clip_direction", "clip_absolute", "saturated"}
    assert done.target is None and done.kept_by_attribute is None and done.source_text
    assert done.kept_worst() is None
    distance = domain_distance(unlabeled)
    assert distance is not None and distance.name == "tiny CLIP"
    assert domain_features(unlabeled).name == "tiny CLIP"


def test_without_labels_those_read_before_count(faces: Domain, answers: RightAnswers) -> None:
    done = evaluate(faces, answers.images, answers.images, PROMPT)
    assert done.kept_against == "readings" and done.counterfactual_psnr is None
    assert done.kept is not None and (done.kept == 1).all()
    several = evaluate(faces, answers.images, answers.images, "an angry face with white hair")
    assert several.target is None and several.success is None and several.kept is not None


def test_what_does_not_fit_is_refused(
    faces: Domain, unlabeled: Domain, answers: RightAnswers
) -> None:
    images = answers.images
    short = {k: v[:5] for k, v in answers.labels.items()}
    fewer = {k: v for k, v in answers.labels.items() if k != "skin"}
    tiny = torch.zeros(2, 3, 32, 32)
    reference = Reference.of(domain_features(faces), images, kinds=["kid"], subset_size=5)
    refused = {
        r"the same images in the same order": lambda: evaluate(faces, images, images[:5], PROMPT),
        r"clamp\(-1, 1\)": lambda: evaluate(faces, images, images * 1.5, PROMPT),
        r"labels must be \[16\].*\[5\]": lambda: evaluate(
            faces, images, images, PROMPT, labels=short
        ),
        r"missing: skin": lambda: evaluate(faces, images, images, PROMPT, labels=fewer),
        r"does not read 'nose'": lambda: evaluate(
            faces, images, images, PROMPT, target=("nose", ("long",))
        ),
        r"unknown beard 'red'; its values are no, yes": lambda: evaluate(
            faces, images, images, PROMPT, target=("beard", ("red",))
        ),
        r"answers are of \[16": lambda: evaluate(
            faces, images[:5], images[:5], PROMPT, answers=answers
        ),
        r"those of other images: 16 of 16": lambda: evaluate(
            faces, images.roll(1, 0), images, PROMPT, answers=answers
        ),
        r"answers are for the target": lambda: evaluate(
            faces, images, images, PROMPT, answers=answers, target=("glasses", ("yes",))
        ),
        r"no attribute classifier": lambda: evaluate(
            unlabeled, tiny, tiny, "beard", target=("beard", ("yes",))
        ),
        r"at least 5; got 2 images": lambda: evaluate(
            faces, images[:2], images[:2], PROMPT, reference=reference
        ),
        r"has no classifier to compare": lambda: domain_features(unlabeled, "classifier"),
        r"classifier, clip": lambda: domain_features(faces, "inception"),
        r"are not drawn": lambda: right_answers(unlabeled, "beard", 4),
        r"names no attribute": lambda: right_answers(faces, "a zombie", 4),
        r"count must be a positive integer.* got 0": lambda: right_answers(faces, PROMPT, 0),
        r"count must be a positive integer.* got -1": lambda: right_answers(faces, PROMPT, -1),
        r"of 32 rendered faces lack skin": lambda: right_answers(
            faces, ("skin", ("pale", "tan", "brown", "dark")), 4
        ),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_features_before_the_last_layer_are_what_it_sees(faces: Domain) -> None:
    assert faces.classifier is not None
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = domain_features(faces)(images)
    head = faces.classifier.head
    logits = features @ head.weight.double().T + head.bias.double()
    with torch.no_grad():
        expected = torch.cat(list(faces.classifier(images).values()), 1).double()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


class Brightness:
    """Reads whether an image is bright, and whether it is bright on the left."""

    heads = {"bright": 2, "left": 2}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        parts = {"bright": images.mean((1, 2, 3)), "left": images[..., :4].mean((1, 2, 3))}
        return {name: torch.stack([-value, value], 1) for name, value in parts.items()}


class Unnamed:
    """A domain whose classifier nobody has given names for: no reader."""

    name, device, classifier, reader = "unnamed", "cpu", Brightness(), None


def test_where_values_have_no_names_their_numbers_are_given() -> None:
    dark, half = torch.full((1, 3, 8, 8), -0.5), torch.full((1, 3, 8, 8), -0.5)
    half[..., 4:] = 0.9  # bright as a whole, dark on the left
    bright = -dark
    before, after = torch.cat([dark, dark, dark]), torch.cat([dark, half, bright])
    done = measure_attributes(Unnamed(), before, after, ("bright", (1,)))
    assert done.success is not None and done.success.tolist() == [False, True, True]
    assert {name: kept.tolist() for name, kept in done.kept.items()} == {"left": [1.0, 1.0, 0.0]}
    with pytest.raises(ValueError, match="unknown bright 'yes'; its values are 0, 1"):
        measure_attributes(Unnamed(), before, after, ("bright", ("yes",)))
    everything = measure_attributes(Unnamed(), before, after, None)
    assert everything.success is None and set(everything.kept) == {"bright", "left"}
