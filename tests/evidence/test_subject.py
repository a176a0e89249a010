"""What is measured on, in domains of drawings, of labeled photographs, and of no labels at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdd_fast.domains import Domain, load_domain
from sdd_fast.evidence.subject import prompts_of, subject_of

PHOTOS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_drawings_come_with_right_answers_and_lack_the_target(tiny: Domain) -> None:
    subject = subject_of(tiny, "white hair", 5)
    assert subject.target == ("hair_color", ("white",)) and subject.answers is not None
    assert torch.equal(subject.before, subject.answers.images) and len(subject.before) == 5
    assert torch.equal(subject_of(tiny, "white hair", 5).before, subject.before)
    assert subject.given is subject.before


def test_the_first_of_many_are_those_of_the_many(tiny: Domain) -> None:
    many = subject_of(tiny, "white hair", 9)
    few = many.first(4)
    assert torch.equal(few.before, many.before[:4]) and few.target == many.target
    assert few.answers is not None and many.answers is not None
    assert torch.equal(few.answers.answers[0], many.answers.answers[0][:4])
    assert torch.equal(few.answers.labels["hair_color"], many.answers.labels["hair_color"][:4])
    assert few.answers.answer_labels[0].keys() == few.answers.labels.keys()


def test_photographs_are_those_of_the_domain_s_reader(tiny_folder: Path) -> None:
    domain, asked = load_domain(tiny_folder), list[Any]()

    def sample_images(*given: Any) -> torch.Tensor:
        asked.append(given)
        return PHOTOS

    target = ("kind", ("dress",))
    reader = SimpleNamespace(target_in=lambda prompt: target, sample_images=sample_images)
    domain.__dict__["reader"] = reader
    subject = subject_of(domain, "a dress", 3)
    assert asked == [(domain, 3, [target])]
    assert subject.before is PHOTOS and subject.target == target and subject.answers is None


def test_without_labels_they_are_rendered_of_held_out_latents(unlabeled: Domain) -> None:
    subject = subject_of(unlabeled, "white hair", 4)
    assert subject.target is None and subject.before.shape == (4, 3, 32, 32)
    assert float(subject.before.abs().max()) <= 1 and subject.latents is None
    unlabeled.__dict__["encoder"], encoder = None, unlabeled.encoder
    try:
        given = subject_of(unlabeled, "white hair", 4).given
    finally:
        unlabeled.__dict__["encoder"] = encoder
    assert torch.equal(given, unlabeled.held_out[:4])


def test_a_domain_without_prompts_is_told_where_to_list_some(tiny_folder: Path) -> None:
    domain = load_domain(tiny_folder)
    assert prompts_of(domain, 1) == ("white hair",)
    domain.prompts = ("an old dog", "a smiling face")
    assert prompts_of(domain, 5) == ("a smiling face",)  # of the other nothing tells success
    domain.prompts = ()
    with pytest.raises(ValueError, match='list some as "prompts" in its domain file'):
        prompts_of(domain, 1)
