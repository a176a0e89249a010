"""StyleCLIP's global direction: the channels of StyleSpace that CLIP finds relevant to a text.

What each channel does to images, as a direction in CLIP's space, is measured once for a domain; a
prompt then costs a matrix product. Source: Patashnik et al. 2021, Sec. 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count, check_number
from ..distillation.monitor import ImageTextEncoder
from ..manipulator import frozen
from ..memory import rendering_batch
from .clip_loss import clip_of
from .style_shift import StyleShift, style_scales
from .through_latents import ManipulatorBaseline

if TYPE_CHECKING:
    from ..domains import Domain

_measured: WeakKeyDictionary[Domain, dict[tuple[int, float], Tensor]] = WeakKeyDictionary()
"""Of each domain, (images, step) → `channel_directions`: minutes of work that settings share."""


class StyleClipDirection(ManipulatorBaseline):
    """Change the style channels whose effect agrees with the text direction, in proportion to that.

    The text direction is that from the domain's source text to the prompt.

    Args:
        strength: α, standard deviations by which the most relevant channel changes.
        threshold: β: channels below this share of the largest relevance do not change. StyleCLIP's
            is not a share; that depends on how large the directions of a CLIP are.
        images: that every channel is tried on. step: by how many standard deviations, either way.
    """

    name: ClassVar[str] = "StyleCLIP direction"
    paper: ClassVar[str] = "Patashnik et al. 2021"
    optimizes: ClassVar[tuple[str, ...]] = ("clip",)
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "strength": (2.0, 4.0, 8.0, 16.0), "threshold": (0.0, 0.05, 0.1, 0.3, 0.5),
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        *,
        strength: float = 8.0,
        threshold: float = 0.3,
        images: int = 16,
        step: float = 5.0,
    ) -> None:
        super().__init__(domain)
        for name, value in (("strength", strength), ("step", step)):
            check_number(name, value, positive=True)
        check_number("threshold", threshold)
        if threshold >= 1:
            raise ValueError(f"threshold is a share, from 0 to below 1, got {threshold!r}")
        self.strength, self.threshold, self.step = strength, threshold, step
        self.images = check_count("images", images)

    def prepare_domain(self) -> None:
        """Measure what every style channel does."""
        self._directions()

    def _directions(self) -> Tensor:
        known, how = _measured.setdefault(self.domain, {}), (self.images, self.step)
        if how not in known:
            known[how] = channel_directions(self.domain, clip_of(self.domain, self.name), *how)
        return known[how]

    def _find(self, prompt: str) -> StyleShift:
        domain, clip = self.domain, clip_of(self.domain, self.name)
        texts = F.normalize(clip.encode_texts([domain.source_text, prompt]), dim=1)
        if torch.equal(texts[0], texts[1]):
            raise ValueError(
                f"the prompt {prompt!r} means to the CLIP of {domain.name} what unedited images "
                f"show, {domain.source_text!r}; there is no direction to go"
            )
        relevance = self._directions() @ F.normalize(texts[1] - texts[0], dim=0)
        share = relevance / relevance.abs().max()
        shift = StyleShift(style_scales(domain)).requires_grad_(False)
        shift.direction.copy_(torch.where(share.abs() >= self.threshold, share, 0.0))
        return shift


@torch.no_grad()
def channel_directions(domain: Domain, clip: ImageTextEncoder, images: int, step: float) -> Tensor:
    """Measure what each style channel does to images, as CLIP sees it.

    Args:
        images: held-out latents are not used: these are the first of `domain.w_plus`.
        step: standard deviations.

    Returns:
        [channels, D]: means over images of the unit vectors from the image with a channel lowered
        to that with it raised. In the order of `StyleShift`.
    """
    generator, w = domain.generator, domain.w_plus[:images]
    shift = StyleShift(style_scales(domain)).requires_grad_(False)
    channels = len(shift.direction)
    styles, found = generator.style_vectors(w), []
    at_once = max(1, rendering_batch(generator) // len(w))
    with frozen(generator):
        for some in torch.arange(channels).split(at_once):
            ends = []
            for sign in (-step, step):
                changed = []
                for channel in some.tolist():
                    shift.direction.zero_()[channel] = sign
                    changed.append([s + by for s, by in zip(styles, shift(styles), strict=True)])
                joined = [torch.cat(parts) for parts in zip(*changed, strict=True)]
                seen = generator.synthesis_from_styles(joined).clamp(-1, 1)
                ends.append(F.normalize(clip.encode_images(seen), dim=1))
            moved = F.normalize(ends[1] - ends[0], dim=1, eps=1e-8)
            found.append(moved.unflatten(0, (len(some), -1)).mean(1))
    return torch.cat(found)
