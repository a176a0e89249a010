"""What is measured on: a prompt, its target, and images that lack it and that nothing has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..domains.reader import RightAnswers, Target
from ..memory import rendering_batch
from ..metrics.counterfactual import right_answers
from ..selection.in_domain import held_out_of

if TYPE_CHECKING:
    from ..domains import Domain


@dataclass(frozen=True, eq=False)
class Subject:
    """A prompt and images to edit by it.

    Args:
        target: what counts as success; None: nothing in the domain tells.
        before: [m, 3, R, R] in [-1, 1], images that lack the target.
        answers: what a right edit makes of each, where the domain draws its images.
        latents: [m, num_layers, w_dim] of the images, in a domain without an encoder.
    """

    prompt: str
    target: Target | None
    before: Tensor
    answers: RightAnswers | None = None
    latents: Tensor | None = None

    def first(self, count: int) -> Subject:
        """Return a subject of the first images alone; those of a smaller one may be others."""
        answers = self.answers
        if answers is not None:
            answers = RightAnswers(
                answers.target,
                answers.images[:count],
                _first(answers.labels, count),
                tuple(one[:count] for one in answers.answers),
                tuple(_first(one, count) for one in answers.answer_labels),
            )
        latents = None if self.latents is None else self.latents[:count]
        return Subject(self.prompt, self.target, self.before[:count], answers, latents)

    @property
    def given(self) -> Tensor:
        """What our own editor is given: the images, or where it has no encoder their latents."""
        return self.before if self.latents is None else self.latents


def _first(labels: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: values[:count] for name, values in labels.items()}


def prompts_of(domain: Domain, count: int | None = None) -> tuple[str, ...]:
    """Return the first `count` prompts of a domain, of those whose success can be told if any can.

    Args:
        count: None: all.

    Raises:
        ValueError: the domain names no prompts.
    """
    reader = domain.reader
    told = [p for p in domain.prompts if reader is not None and reader.target_in(p) is not None]
    prompts = told or list(domain.prompts)
    if not prompts:
        raise ValueError(
            f'the domain {domain.name} names no prompts to measure with; list some as "prompts" '
            "in its domain file"
        )
    return tuple(prompts[:count])


@torch.no_grad()
def subject_of(domain: Domain, prompt: str, count: int) -> Subject:
    """Return what a prompt is measured on: the same images whenever it is asked for.

    Raises:
        ValueError: hardly any image lacks the target.
    """
    reader = domain.reader
    target = None if reader is None else reader.target_in(prompt)
    if reader is not None and target is not None and hasattr(reader, "right_answers"):
        answers = right_answers(domain, target, count)
        return Subject(prompt, target, answers.images, answers)
    if reader is not None:
        lacking = [] if target is None else [target]
        return Subject(prompt, target, reader.sample_images(domain, count, lacking))
    w_plus = held_out_of(domain, count)
    chunks = w_plus.split(rendering_batch(domain.generator))
    images = torch.cat([domain.generator.synthesis(w) for w in chunks]).clamp(-1, 1).cpu()
    return Subject(prompt, None, images, latents=w_plus if domain.encoder is None else None)
