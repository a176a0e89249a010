"""What a kind of labeled images brings along: attributes that can be read, samples, its own words.

Most domains have none of this. One that has it is recognized by what its classifier reads, so that
domains which users train on the same kind of images have it too, see `Domain.reader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

Target = tuple[str, tuple[str, ...]]
"""The attribute that an edit is about, and the values that count as success."""


class AttributeReader(Protocol):
    """A module such as `faces64.reader`."""

    HEADS: dict[str, int]
    """Attribute → number of its values, as the classifier of such a domain has them."""
    NOUNS: dict[str, str]
    """See `DomainSpec.nouns`; here also attributes whose names are not the words people use."""
    LIMITS: str
    """What a report says about the images; "{size}" is that of the domain."""
    DEMO_PROMPTS: tuple[str, ...]

    def target_in(self, prompt: str) -> Target | None:
        """The attribute that a prompt is about; None if it names none or several."""

    def sample_images(self, count: int, resolution: int, lacking: Sequence[Target] = ()) -> Tensor:
        """[count, 3, R, R] images in [-1, 1] that no network has seen, and that lack the targets.

        Raises:
            ValueError: hardly any image lacks all of them.
        """

    def measure(
        self,
        domain: Any,  # a `Domain`, which knows its reader
        mapper: nn.Module,
        lam: float,
        prompt: str,
        *,
        target: Target,
        strength: float,
        faces: int,
    ) -> Mapping[str, Any]:
        """What an edit does to the attributes of `faces` images that lacked the target, as JSON."""
