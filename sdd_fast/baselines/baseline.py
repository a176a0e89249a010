"""What all baselines have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from ..domains import Domain


class Baseline(ABC):
    """An editor of images by a prompt.

    What is done once for a prompt (a training, an encoding) is `prepare`, what is done for each
    image is `edit`, so that tables can state the seconds of both.
    """

    name: ClassVar[str]
    """In tables, such as "SDEdit"."""

    paper: ClassVar[str]
    """Where it is from, such as "Meng et al. 2022"."""

    supervised: ClassVar[bool] = False
    """Whether it was trained on what success is measured by: no rival, and its name says so."""

    optimizes: ClassVar[tuple[str, ...]] = ()
    """Of "clip" and "identity", those networks of the domain by which its edits are made; what they
    judge of these edits is flattered."""

    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Settings of the constructor that are searched on validation images, and the values tried.

    benchmarks/baselines-faces64.json has the trials; whence each default is, docs/guide.md tells.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def prepare_domain(self) -> None:  # noqa: B027  # most have nothing to do
        """Do once what all prompts share; `prepare` does it where it was not done."""

    def prepare(self, prompt: str) -> None:  # noqa: B027  # most have nothing to do
        """Do once what all edits with a prompt share; `edit` does it where it was not done."""

    @abstractmethod
    def edit(self, images: Tensor, prompt: str, *, seed: int = 0) -> Tensor:
        """Edit images.

        Args:
            images: [B, 3, R, R] in [-1, 1], of the domain's resolution.
            seed: of all noise; an image's result depends neither on the others beside it nor on
                how many they are, but for rounding.

        Returns:
            [B, 3, R, R] in [-1, 1], on the device of `images`.

        Raises:
            ValueError: images of another shape or range, or a prompt that cannot be encoded.
        """
