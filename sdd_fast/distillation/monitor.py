"""Measures, on held-out latents, what a mapper does: how large the edit is, and whether it goes
towards the prompt. An edit that does nothing, burns the image or goes astray is called so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..manipulator import frozen, manipulate, rendered_at_once

NOTHING_BELOW = 0.05
"""peak_change below this share of the full range is "nothing": a person would hardly see it."""
BURNT_ABOVE = 0.05
"""burnt_share above this is "burnt": one value in twenty was pushed out of range by the edit."""
ASTRAY_BELOW = 0.05
"""direction below this is "astray": what changed is unrelated to the prompt, or opposed to it."""
STRANGER_BELOW = 0.3
"""identity below this adds a word of advice: the face has become another person's."""
OUT_OF_RANGE = 1.02
"""Values beyond this count as burnt. Generators overshoot ±1 slightly on perfectly good images."""

ADVICE = {
    "ok": "",
    "nothing": (
        "the edit hardly changes the image. Try, in this order: more steps (twice as many), a "
        "higher guidance_scale (30 → 100), a smaller l2_weight and identity_weight, other "
        "timesteps (select again, or the largest HQS alone), more levels"
    ),
    "burnt": (
        "the edit pushes many values out of range (over-saturated, flat areas). Try, in this "
        "order: a lower guidance_scale (100 → 30), a larger range_weight or l2_weight, fewer "
        "steps or a lower lr, a strength below 1 when editing, smaller timesteps"
    ),
    "astray": (
        "the image changes, but not towards the prompt. Try, in this order: other timesteps "
        "(select again with this prompt), a higher guidance_scale, a prompt in the words the "
        "diffusion model was trained on, fewer levels, a larger l2_weight"
    ),
}


class ImageTextEncoder(Protocol):
    """A CLIP: images [B, 3, R, R] in [-1, 1] and texts to vectors [B, D] of one space."""

    def encode_images(self, images: Tensor) -> Tensor: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


class EditMonitor:
    """Judges a mapper on held-out latents: `monitor(mapper, lam)` → a flat dict for the history.

    Args:
        generator: a `StyleGAN2`.
        w_plus: [M, num_layers, w_dim] latents that are not trained on; 16 are plenty.
        prompt: the target. source_text: what the images show before, such as "a photo of a face".
        clip: measures the direction of the edit; None leaves out `direction` and what begins with
            `clip_`.
        identity: images → embeddings; None leaves `identity` out.
        w_std: [num_layers or 1, w_dim] the unit of `latent_change`; None: 1.
        batch_size: latents rendered at once; default: 16, fewer of large pictures.

    The dict holds, as means over the held-out images:
        edit_size: |ŷ − y| as a share of the full range, 0…1 (both clamped to it);
        peak_change: the change that 1 % of an image's pixels exceed, 0…1: sees small edits too;
        latent_change: root mean square of (ŵ − w) / w_std, or of the change of styles;
        burnt_share: share of values beyond ±1.02 after the edit, less that before it;
        direction: cos(I(ŷ) − I(y), T(prompt) − T(source_text)), the directional CLIP similarity;
        clip_similarity: cos(I(ŷ), T(prompt)), of the edited pictures (the paper's Table 1);
        clip_gain: by how much that is more than cos(I(y), T(prompt)): the direction alone can be
            good for a change of almost nothing;
        identity: cos(R(ŷ), R(y)), 1 is the same person;
        verdict: "ok", "nothing", "burnt" or "astray" (thresholds: the constants of this module);
        advice: what to try next; "" if all is well.
    """

    def __init__(
        self,
        generator: Any,
        w_plus: Tensor,
        *,
        prompt: str,
        source_text: str = "",
        clip: ImageTextEncoder | None = None,
        identity: Callable[[Tensor], Tensor] | None = None,
        w_std: Tensor | None = None,
        batch_size: int | None = None,
    ) -> None:
        if w_plus.ndim != 3 or len(w_plus) == 0:
            raise ValueError(
                "the monitor needs held-out latents [M, num_layers, w_dim] with M ≥ 1, got "
                f"{list(w_plus.shape)}"
            )
        if clip is not None and not (prompt.strip() and source_text.strip()):
            raise ValueError(
                "the direction of an edit needs a prompt and a source_text that says what the "
                f"images show before, got {prompt!r} and {source_text!r}"
            )
        self.generator, self.clip, self.identity = generator, clip, identity
        self.prompt, self.source_text = prompt, source_text
        self.batch_size = batch_size or min(16, rendered_at_once(generator))
        self.w_plus = w_plus.detach()
        self.w_std = w_std
        self._before: list[_Seen] = []
        self._texts: Tensor | None = None

    @torch.no_grad()
    def __call__(self, mapper: nn.Module, lam: float = 1.0) -> dict[str, Any]:
        """Measure `mapper` at strength 1 (factor `lam` on its output)."""
        with frozen(self.generator, self.identity, self.clip, mapper):
            device = next(self.generator.parameters()).device
            chunks = self.w_plus.to(device).split(self.batch_size)
            if not self._before:
                self._before = [self._look(self.generator.synthesis(w)) for w in chunks]
            if self.clip is not None and self._texts is None:
                texts = F.normalize(self.clip.encode_texts([self.source_text, self.prompt]), dim=1)
                self._texts = texts.to(device)
            rows: dict[str, list[Tensor]] = {}
            for w, before in zip(chunks, self._before, strict=True):
                result = manipulate(self.generator, w, [(mapper, lam)])
                after = self._look(result.images)
                row = self._compare(before, after)
                if result.delta is not None:
                    delta = result.delta
                    unit = 1.0 if self.w_std is None else self.w_std.to(device)
                    row["latent_change"] = (delta / unit).square().mean((1, 2)).sqrt()
                elif result.style_deltas is not None:
                    row["latent_change"] = torch.cat(result.style_deltas, 1).square().mean(1).sqrt()
                for key, values in row.items():
                    rows.setdefault(key, []).append(values)
        measured = {key: float(torch.cat(parts).mean()) for key, parts in rows.items()}
        return measured | judge(measured)

    def _look(self, images: Tensor) -> _Seen:
        return _Seen(
            images=images.clamp(-1, 1),
            burnt=(images.abs() > OUT_OF_RANGE).float().mean((1, 2, 3)),
            clip=None
            if self.clip is None
            else F.normalize(self.clip.encode_images(images.clamp(-1, 1)), dim=1),
            identity=None if self.identity is None else self.identity(images),
        )

    def _compare(self, before: _Seen, after: _Seen) -> dict[str, Tensor]:
        """One value per image of everything but the latent change."""
        change = (after.images - before.images).abs().mean(1).flatten(1) / 2  # [B, H·W]
        rank = max(1, round(0.99 * change.shape[1]))
        row = {
            "edit_size": change.mean(1),
            "peak_change": change.kthvalue(rank, dim=1).values,
            "burnt_share": (after.burnt - before.burnt).clamp(min=0),
        }
        if before.clip is not None and after.clip is not None and self._texts is not None:
            source, target = self._texts
            move = (target - source).expand_as(after.clip)
            row["direction"] = F.cosine_similarity(after.clip - before.clip, move)
            row["clip_similarity"] = after.clip @ target
            row["clip_gain"] = (after.clip - before.clip) @ target
        if before.identity is not None and after.identity is not None:
            row["identity"] = F.cosine_similarity(after.identity, before.identity)
        return row


@dataclass(frozen=True)
class _Seen:
    """What is known of one batch of images."""

    images: Tensor  # [B, 3, R, R], clamped to [-1, 1]
    burnt: Tensor  # [B], share of values out of range
    clip: Tensor | None  # [B, D], unit vectors
    identity: Tensor | None  # [B, D]


def judge(measured: dict[str, float]) -> dict[str, str]:
    """The verdict and advice that belong to the figures of `EditMonitor`."""
    if measured["burnt_share"] > BURNT_ABOVE:
        verdict = "burnt"
    elif measured["peak_change"] < NOTHING_BELOW:
        verdict = "nothing"
    elif measured.get("direction", 1.0) < ASTRAY_BELOW:
        verdict = "astray"
    else:
        verdict = "ok"
    advice = ADVICE[verdict]
    if verdict in ("ok", "astray") and measured.get("identity", 1.0) < STRANGER_BELOW:
        stranger = "the edit turns the face into another person's: raise identity_weight"
        advice = f"{advice}; {stranger}" if advice else stranger
    return {"verdict": verdict, "advice": advice}


def describe(measured: dict[str, Any]) -> str:
    """The figures of `EditMonitor` as one line for a person."""
    parts = [f"edit size {measured['edit_size']:.1%} (peak {measured['peak_change']:.0%})"]
    if "latent_change" in measured:
        parts.append(f"Δw {measured['latent_change']:.2f}")
    if "direction" in measured:
        parts.append(f"direction {measured['direction']:+.2f}")
        parts.append(f"CLIP gain {measured['clip_gain']:+.3f}")
    if "identity" in measured:
        parts.append(f"identity {measured['identity']:.2f}")
    parts.append(f"burnt {measured['burnt_share']:.1%}")
    line = ", ".join(parts) + f": {measured['verdict']}"
    return f"{line}; {measured['advice']}" if measured["advice"] else line
