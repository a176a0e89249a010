"""What a kind of labeled images brings along: attributes that can be read, samples, its own words.

Most domains have none of this. One that has it is recognized by what its classifier reads, so that
domains which users train on the same kind of images have it too, see `Domain.reader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from .._deprecated import renamed_fields

Target = tuple[str, tuple[str, ...]]
"""The attribute that an edit is about, and the values that count as success."""


@renamed_fields(faces="images")
@dataclass(frozen=True)
class EditQuality:
    """One edit, measured.

    Args:
        prompt, attribute, values: the target: an image counts if the classifier reads one of
            `values` as its `attribute` after the edit.
        images: number of held-out images that lacked the target before.
        success: share of them that have it after the edit, 0…1.
        kept: share whose other attributes read as labeled, per attribute, of those of which it
            can be asked: a bald head has no color of hair.
        identity: mean cosine similarity of identity embeddings before and after.
        strength: of the edit.
    """

    prompt: str
    attribute: str
    values: tuple[str, ...]
    images: int
    success: float
    kept: dict[str, float]
    identity: float
    strength: float = 1.0

    @property
    def kept_mean(self) -> float:
        return sum(self.kept.values()) / len(self.kept)

    @property
    def kept_worst(self) -> tuple[str, float]:
        return min(self.kept.items(), key=lambda item: item[1])

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"kept_mean": self.kept_mean, "kept_worst": list(self.kept_worst)}


class AttributeReader(Protocol):
    """A module such as `faces64.reader`. `domain` is a `Domain` that has this reader."""

    HEADS: dict[str, int]
    """Attribute → number of its values, as the classifier of such a domain has them."""
    ATTRIBUTES: dict[str, tuple[str, ...]]
    """Attribute → names of its values, in the order in which the classifier numbers them."""
    NOUNS: dict[str, str]
    """See `DomainSpec.nouns`; here also attributes whose names are not the words people use."""
    LIMITS: str
    """What a report says about the images; "{size}" is that of the domain."""
    DEMO_PROMPTS: tuple[str, ...]

    def target_in(self, prompt: str) -> Target | None:
        """The attribute that a prompt is about; None if it names none or several."""

    def sample_images(self, domain: Any, count: int, lacking: Sequence[Target] = ()) -> Tensor:
        """[count, 3, R, R] images in [-1, 1] that no network has seen, and that lack the targets.

        Raises:
            ValueError: hardly any image lacks all of them.
            FileNotFoundError: the domain's file of such images is missing.
        """

    def measure_edit(
        self,
        domain: Any,
        mapper: nn.Module,
        lam: float,
        prompt: str,
        *,
        target: Target,
        strength: float,
        images: int,
    ) -> EditQuality:
        """What an edit does to the attributes of `images` held-out images that lacked the target,
        fewer if there are."""


@dataclass(frozen=True, eq=False)
class RightAnswers:
    """Drawn images, and what the right edit of each looks like.

    Args:
        target: what the edit is about.
        images: [N, 3, R, R] in [-1, 1], before the edit; all lack the target. labels: attribute →
            number of its value, int64 [N].
        answers: [N, 3, R, R] for each value of the target: the same images with that one value,
            and nothing else changed. Of several, each is right.
        answer_labels: of each of the answers.
    """

    target: Target
    images: Tensor
    labels: dict[str, Tensor]
    answers: tuple[Tensor, ...]
    answer_labels: tuple[dict[str, Tensor], ...]


class DrawingReader(AttributeReader, Protocol):
    """What a reader may have besides: that of photographs has no right answers to give."""

    def asked(self, labels: Mapping[str, Tensor], edited: str | None) -> dict[str, Tensor]:
        """Of which images each attribute but the edited one can be asked: bool [N].

        Without it, each of all images.
        """

    def right_answers(
        self, count: int, resolution: int, target: Target, *, seed: int | None = None
    ) -> RightAnswers:
        """Draw held-out images that lack the target, and the right edits of them.

        Args:
            seed: of the images; None: those that edits are measured on.

        Raises:
            ValueError: hardly any image lacks the target.
        """
