"""What baselines share that edit in the latent space of the domain's generator.

image ──encoder──► W+ ──what was found for the prompt──► generator ──► edited image
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..editing.edit_inputs import input_size
from ..images import fit
from ..manipulator import frozen, manipulate
from ..memory import rendering_batch
from ..out_of_memory import halving
from ..shield import shielded
from ..teacher.text import check_prompt
from .baseline import Baseline
from .clip_loss import clip_of
from .inputs import check_images, image_size

if TYPE_CHECKING:
    from ..domains import Domain

Found = TypeVar("Found")


class LatentBaseline(Baseline, Generic[Found]):
    """A baseline whose edit is found once for a prompt, and applied to latents of images.

    What settings of several of these editors are, where one does not say otherwise:
        steps, batch_size, lr, seed: of the training, see `DistillConfig`.
        l2_weight, identity_weight: of what a change costs, see there and `clip_loss`.

    Raises:
        ValueError: the domain has no encoder, or no CLIP for an editor that is guided by one, or a
            setting is out of its range.
    """

    guided_by_clip: ClassVar[bool] = True
    optimizes: ClassVar[tuple[str, ...]] = ("clip", "identity")
    most_at_once: ClassVar[int] = 64
    """Images that go through the networks together; fewer of large ones."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        if domain.encoder is None:
            raise ValueError(
                f"{self.name} edits latents, so it needs an encoder, which the domain "
                f"{domain.name} lacks; name one: load_domain(…, encoder=…)"
            )
        self._encoder: nn.Module = domain.encoder
        if self.guided_by_clip:
            clip_of(domain, self.name)
        self._found: dict[str, Found] = {}

    @shielded(grad=False)
    def prepare(self, prompt: str) -> None:
        """Find the edit of a prompt, unless that was done."""
        check_prompt(prompt)
        if prompt not in self._found:
            self._found[prompt] = self._find(prompt)

    @shielded(grad=False)
    def edit(self, images: Tensor, prompt: str, *, seed: int = 0) -> Tensor:
        """Edit images, see `Baseline`; nothing here is drawn for an image, so `seed` is not used.

        Raises:
            ValueError: images of another shape or range, or an empty prompt.
        """
        checked = check_images(images, image_size(self.domain))
        self.prepare(prompt)
        if not len(checked):
            return checked
        at_once = rendering_batch(self.domain.generator, most=self.most_at_once)
        found = self._found[prompt]
        edited = halving(partial(self._edit, checked, found), at_once, f"editing by {self.name}")
        return edited.clamp(-1, 1).to(images.device)

    def _edit(self, images: Tensor, found: Found, at_once: int) -> Tensor:
        size, generator = input_size(self._encoder), self.domain.generator
        with frozen(self._encoder, generator, self.domain.identity):
            chunks = fit(images.to(self.domain.device), size).split(at_once)
            return torch.cat([self._apply(self._encoder(chunk), found) for chunk in chunks])

    @abstractmethod
    def _find(self, prompt: str) -> Found:
        """Return what edits with a prompt share."""

    @abstractmethod
    def _apply(self, w_plus: Tensor, found: Found) -> Tensor:
        """Return edited images [B, 3, R, R], not clamped, of latents [B, num_layers, w_dim]."""


class ManipulatorBaseline(LatentBaseline[nn.Module]):
    """A baseline that finds a manipulator for a prompt, which `manipulate` applies."""

    strength: float
    """The factor on what the manipulator changes."""

    def _apply(self, w_plus: Tensor, found: nn.Module) -> Tensor:
        return manipulate(self.domain.generator, w_plus, [(found, self.strength)]).images
