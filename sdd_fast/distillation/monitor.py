"""Measure, on held-out latents, what a mapper does: how large the edit is, and whether it goes
towards the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._deprecated import warn
from ..manipulator import LatentGenerator, check_generator, frozen, manipulate
from ..memory import rendering_batch
from ..metrics.clip import ImageTextEncoder as ImageTextEncoder, direction
from ..metrics.identity import similarity
from ..metrics.saturation import OUT_OF_RANGE as OUT_OF_RANGE, saturated_share
from ..out_of_memory import halving
from ..shield import shielded
from .judge import judge


class _Figures(dict[str, Any]):
    """The result, which still answers to a key of earlier versions."""

    def __missing__(self, key: str) -> Any:
        if key != "burnt_share":
            raise KeyError(key)
        warn("burnt_share is now called saturated_share")
        return self["saturated_share"]


class EditMonitor:
    """Measure a mapper on held-out latents: `monitor(mapper, lam)` → a flat dict for the history.

    Args:
        generator: a `StyleGAN2` or another `LatentGenerator`.
        w_plus: [M, num_layers, w_dim] latents that are not trained on; 16 are plenty.
        prompt: the target. source_text: what the images show before, such as "a photo of a face".
        clip: measures the direction of the edit; None leaves out `direction` and what begins with
            `clip_`.
        identity: images → embeddings; None leaves `identity` out.
        w_std: [num_layers or 1, w_dim] the unit of `latent_change`; None: 1.
        batch_size: latents rendered at once; default: 16, fewer of large images.
        unknown_words: see `judge`; `teacher.text.unknown_words` lists them.
        direction_above: direction that edits exceed which work, see `DomainSpec`; None: not known.

    The dict holds, as means over the held-out images:

    - edit_size: |ŷ − y| as a share of the full range, 0…1 (both clamped to it);
    - peak_change: the change that 1 % of an image's pixels exceed, 0…1: sees small edits too;
    - latent_change: root mean square of (ŵ − w) / w_std, or of the change of styles;
    - saturated_share: share of values beyond ±1.02 after the edit, less that before it;
    - direction: cos(I(ŷ) − I(y), T(prompt) − T(source_text)), the directional CLIP similarity;
    - direction_above: as given, what the direction is compared with;
    - clip_similarity: cos(I(ŷ), T(prompt)), of the edited images (the paper's Table 1);
    - clip_gain: by how much that is more than cos(I(y), T(prompt)): the direction alone can be
      good for a change of almost nothing;
    - identity: cos(R(ŷ), R(y)), 1 is the same subject;
    - verdict: "ok", "flawed", "no effect", "saturated", "off target", "uncalibrated" (without
      direction_above), "direction unknown" (without a clip), "unknown words" or "not
      measurable"; advice: what to try next, a list of codes, the most promising first (both
      with their thresholds: see `distillation.judge`).
    """

    def __init__(
        self,
        generator: LatentGenerator,
        w_plus: Tensor,
        *,
        prompt: str,
        source_text: str = "",
        clip: ImageTextEncoder | None = None,
        identity: Callable[[Tensor], Tensor] | None = None,
        w_std: Tensor | None = None,
        batch_size: int | None = None,
        unknown_words: Sequence[str] = (),
        direction_above: float | None = None,
    ) -> None:
        check_generator(generator)
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
        self.prompt, self.source_text, self.unknown_words = prompt, source_text, unknown_words
        self.direction_above = direction_above
        self.batch_size = batch_size or rendering_batch(generator, most=16)
        self.w_plus = w_plus.detach()
        self.w_std = w_std
        self._before: list[_Seen] = []
        self._texts: Tensor | None = None

    @shielded(grad=False)
    def __call__(self, mapper: nn.Module, lam: float = 1.0) -> dict[str, Any]:
        """Measure `mapper` at strength 1 (factor `lam` on its output)."""
        measured = halving(lambda n: self._measure(mapper, lam, n), self.batch_size, "measuring")
        if self.clip is not None and self.direction_above is not None:
            measured["direction_above"] = self.direction_above
        verdict = judge(measured, unknown_words=self.unknown_words)
        return _Figures(measured | {"verdict": verdict.code, "advice": list(verdict.advice)})

    def _measure(self, mapper: nn.Module, lam: float, at_once: int) -> dict[str, Any]:
        if at_once != self.batch_size:
            self.batch_size, self._before = at_once, []
        with frozen(self.generator, self.identity, self.clip, mapper):
            device = next(self.generator.parameters()).device
            seen = self._seen_before()
            if self.clip is not None and self._texts is None:
                texts = F.normalize(self.clip.encode_texts([self.source_text, self.prompt]), dim=1)
                self._texts = texts.to(device)
            rows: dict[str, list[Tensor]] = {}
            for w, before in zip(self._chunks(), seen, strict=True):
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
        return {key: float(torch.cat(parts).mean()) for key, parts in rows.items()}

    @shielded(grad=False)
    def sample(self, mapper: nn.Module, lam: float, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` held-out images before and after, [C, 3, R, R]."""
        with frozen(self.generator, self.identity, self.clip, mapper):
            before = [seen.images for seen in self._seen_before()]
            chunks = self._chunks(count)
            after = [manipulate(self.generator, w, [(mapper, lam)]).images for w in chunks]
        # Gray is what cannot be shown.
        return torch.cat(before)[:count].nan_to_num(0.0), torch.cat(after).nan_to_num(0.0)

    def _chunks(self, count: int | None = None) -> Sequence[Tensor]:
        device = next(self.generator.parameters()).device
        return self.w_plus[:count].to(device).split(self.batch_size)

    def _seen_before(self) -> list[_Seen]:
        if not self._before:
            self._before = [self._look(self.generator.synthesis(w)) for w in self._chunks()]
        return self._before

    def _look(self, images: Tensor) -> _Seen:
        return _Seen(
            images=images.clamp(-1, 1),
            saturated=saturated_share(images, OUT_OF_RANGE),
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
            "saturated_share": (after.saturated - before.saturated).clamp(min=0),
        }
        if before.clip is not None and after.clip is not None and self._texts is not None:
            source, target = self._texts
            row["direction"] = direction(before.clip, after.clip, source, target)
            row["clip_similarity"] = after.clip @ target
            row["clip_gain"] = (after.clip - before.clip) @ target
        if before.identity is not None and after.identity is not None:
            row["identity"] = similarity(before.identity, after.identity)
        return row


@dataclass(frozen=True)
class _Seen:
    """What is known of one batch of images."""

    images: Tensor  # [B, 3, R, R], clamped to [-1, 1]
    saturated: Tensor  # [B], share of values out of range
    clip: Tensor | None  # [B, D], unit vectors
    identity: Tensor | None  # [B, D]


def monitor_of(
    generator: Any,
    held_out: Tensor | None,  # [M, num_layers, w_dim]
    mapper: nn.Module,
    prompt: str,
    identity: Callable[[Tensor], Tensor] | None,
    unknown_words: Sequence[str],
) -> EditMonitor | None:
    """Return what measures edits on `held_out`; None if there are none."""
    if held_out is None:
        return None
    if generator is None:
        raise ValueError("held_out needs a generator; for images give a monitor of your own")
    return EditMonitor(
        generator,
        held_out,
        prompt=prompt,
        identity=identity,
        w_std=getattr(mapper, "scale", None),
        unknown_words=unknown_words,
    )


def check_figure(
    figure: str,
    monitor: Callable[[nn.Module, float], dict[str, Any]] | None,
    mapper: nn.Module,
    lam: float,
) -> None:
    """Refuse to stop early by a figure that nobody measures."""
    there = sorted(monitor(mapper, lam)) if monitor else []
    if figure not in there:
        raise ValueError(
            f"stop_early watches {figure!r}, which is not measured here: give a monitor that "
            f"does, or a figure of this one's ({', '.join(there) or 'there is none'})"
        )
