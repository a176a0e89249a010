"""How far an edit is from the right answer: the same image, drawn with only the target changed.

Only a domain whose images are drawn has right answers, see `DrawingReader`. The geometry stays as
it is: same person, same pose, same light. Where several values of the target fit a prompt ("side
view": left or right), each is right, and an image is compared with the answer that it is nearest to
in mean squared error; all figures of the image are against that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import check_count
from ..domains.reader import RightAnswers, Target
from ..images import psnr
from ..shield import shielded
from .attributes import asked, differing, mean_over_attributes, read_attributes, value_numbers
from .feature_distance import domain_distance
from .pairs import check_pairs

if TYPE_CHECKING:
    from ..domains import Domain


@dataclass(frozen=True, eq=False)
class CounterfactualError:
    """How far images are from the right answers.

    Args:
        psnr: [N] in dB, of the nearest answer; 126 for the answer itself.
        distance: [N], see `FeatureDistance`; by the network `distance_by`.
        by_attribute: attribute → [N]: 1 where the classifier reads another value than off the
            answer, else 0; NaN where it cannot be asked. The target is one of them.
        chosen: int64 [N], which of several answers an image is compared with.
    """

    psnr: Tensor
    distance: Tensor
    distance_by: str
    by_attribute: dict[str, Tensor]
    chosen: Tensor

    @property
    def error(self) -> Tensor:
        """[N]: share of the attributes that read differently than off the right answer."""
        return mean_over_attributes(self.by_attribute)


@shielded(grad=False)
def right_answers(
    domain: Domain, prompt: str | Target, count: int, *, seed: int | None = None
) -> RightAnswers:
    """Draw held-out images that lack a prompt's target, with what a right edit makes of each.

    Args:
        prompt: its target must be one attribute; or the target itself.
        count: of the images.
        seed: of them; None: those that edits of the domain are measured on.

    Raises:
        ValueError: the images of the domain are not drawn, the prompt is about none of its
            attributes or several, hardly any image lacks the target, or a count of none.
    """
    check_count("count", count)
    reader = domain.reader
    if reader is None or not hasattr(reader, "right_answers"):
        raise ValueError(
            f"the images of the domain {domain.name} are not drawn: nothing knows what a right "
            "edit of one looks like. Edits of photographs are measured by attributes, CLIP and "
            "identity"
        )
    target = reader.target_in(prompt) if isinstance(prompt, str) else prompt
    if target is None:
        raise ValueError(
            f"{prompt!r} names no attribute of the domain {domain.name}, or several; give the "
            f"target itself: (attribute, values), with one of {', '.join(reader.ATTRIBUTES)}"
        )
    value_numbers(domain, target)
    found: RightAnswers = reader.right_answers(count, domain.resolution, target, seed=seed)
    return found


@shielded(grad=False)
def counterfactual_error(
    domain: Domain, images: Tensor, answers: RightAnswers
) -> CounterfactualError:
    """Compare edited images with the right answers.

    Args:
        images: [N, 3, R, R] in [-1, 1]: edits of `answers.images`, in the same order; those
            themselves give the error of doing nothing.

    Raises:
        ValueError: other images, or a domain without a classifier.
    """
    _, images = check_pairs(answers.images, images)
    seen = read_attributes(domain, images)
    distance = domain_distance(domain)
    assert distance is not None  # there is a classifier: attributes were read
    errors = torch.stack(
        [(images.double() - right).square().mean((1, 2, 3)) for right in answers.answers]
    )
    chosen = errors.argmin(0)
    nearest = pick(answers.answers, chosen)
    names = answers.answer_labels[0]
    labels = {k: pick([one[k] for one in answers.answer_labels], chosen) for k in names}
    masks = asked(domain, labels, None)
    return CounterfactualError(
        psnr=psnr(images, nearest),
        distance=distance(images, nearest),
        distance_by=distance.name,
        by_attribute=differing(seen, read_attributes(domain, nearest), masks),
        chosen=chosen,
    )


def pick(parts: list[Tensor] | tuple[Tensor, ...], chosen: Tensor) -> Tensor:
    """Return [N, …]: of each row that of the part which was chosen for it, [N]."""
    return torch.stack(list(parts))[chosen, torch.arange(len(chosen))]
