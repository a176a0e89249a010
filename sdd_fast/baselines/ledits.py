"""LEDITS++ (Brack et al. 2024) by diffusers' pipeline, with what keeps it from failing."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from .teacher_baseline import SCALES, TeacherBaseline, check_settings

if TYPE_CHECKING:
    from ..domains import Domain
    from ..teacher.text import PromptEmbeds
    from .image_noise import ImageNoise

MASKS = {
    "both": {"use_intersect_mask": True, "use_cross_attn_mask": True},
    "attention": {"use_intersect_mask": False, "use_cross_attn_mask": True},
    "noise": {"use_intersect_mask": False, "use_cross_attn_mask": False},
}
"""Where the guidance acts: where words are attended to, where it is largest, or where both are."""


class LEdits(TeacherBaseline):
    """LEDITS++: inversion by a stochastic DPM-Solver++ of second order, then guidance in a mask.

    `LEditsPPPipelineStableDiffusion` does it, on a copy of the U-Net's layers over the same
    weights, since it replaces their attention. That is plain, as shipped: it needs probabilities.

    For other settings see `TeacherBaseline`.

    Args:
        steps: of the inversion, one row of the U-Net each, and of the edit, two rows each.
        skip: share of further steps, beyond those, that are left out at the noisy end.
        threshold: share of the image, 0…1, that each mask leaves out.
        mask: one of `MASKS`. With attention, the U-Net must have cross-attention at a quarter of
            the latent's side.

    Raises:
        ValueError: a teacher of SDXL, one without such cross-attention, or a setting out of range.
    """

    name = "LEDITS++"
    paper = "Brack et al. 2024"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "skip": (0.0, 0.15, 0.3, 0.45),
        "guidance_scale": SCALES,
        "threshold": (0.25, 0.5, 0.75),
    }

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 50,
        skip: float = 0.0,
        guidance_scale: float = 2.0,
        threshold: float = 0.5,
        mask: str = "both",
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, batch_size=batch_size)
        self.steps = check_settings(
            self.prior, steps, skip=skip, guidance_scale=guidance_scale, threshold=threshold
        )
        if int(steps * (1 + skip)) > self.prior.num_train_timesteps:
            raise ValueError(
                f"steps · (1 + skip) must be at most {self.prior.num_train_timesteps}, got "
                f"{steps} · (1 + {skip:g})"
            )
        if mask not in MASKS:
            raise ValueError(f"unknown mask {mask!r}; there are: {', '.join(MASKS)}")
        if self.prior.text_encoder_2 is not None:
            raise ValueError(f"{self.name} is for teachers of SD 1.x and 2.x, not of SDXL")
        if mask != "noise" and not _attends_at_a_quarter(self.prior.unet.config):
            raise ValueError(
                f"{self.name} takes its mask from cross-attention at a quarter of the latent's "
                'side, where this U-Net has none; give mask="noise"'
            )
        self.skip, self.guidance_scale = skip, guidance_scale
        self.threshold, self.mask = threshold, mask
        self._pipeline = self._make_pipeline()

    def _make_pipeline(self) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        prior = self.prior
        scheduler = DPMSolverMultistepScheduler.from_config(
            prior.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2,
            steps_offset=1, timestep_spacing="leading",
            # By default the last steps of the edit are of first order and without noise, those of
            # the inversion are not, and an image without an edit would not come back.
            lower_order_final=False, final_sigmas_type="sigma_min",
        )  # fmt: skip
        unet = _layers_over_the_same_weights(prior.unet)

        def count(unet: nn.Module, given: tuple[Any, ...]) -> None:
            prior.unet_calls += 1
            prior.unet_rows += len(given[0])

        unet.register_forward_pre_hook(count)
        pipeline = _pipeline_class()(
            vae=prior.vae, unet=unet, text_encoder=prior.text_encoder, tokenizer=prior.tokenizer,
            scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        z = self._encode(images)
        self._pipeline.invert(
            image=z.to(self.prior.dtype), num_inversion_steps=self.steps, skip=self.skip,
            generator=noise.generators(),
        )  # fmt: skip
        made = self._pipeline(
            editing_prompt=list(embeds.prompts), edit_guidance_scale=self.guidance_scale,
            edit_threshold=self.threshold, edit_warmup_steps=0, output_type="latent",
            **MASKS[self.mask],
        )  # fmt: skip
        edited: Tensor = made.images
        return edited


@cache
def _pipeline_class() -> type[Any]:
    from diffusers import LEditsPPPipelineStableDiffusion

    class Pipeline(LEditsPPPipelineStableDiffusion):
        """Takes latents, and keeps apart the attention of several images."""

        def encode_image(
            self, image: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, list[Any]]:
            return image, []

        def prepare_unet(self, attention_store: Any, PnP: bool = False) -> None:  # noqa: N803
            # Rows come as (prompt, image, head), and the store takes them as (…, image): of several
            # images it would mix their heads.
            def by_image(attention: Tensor, editing_prompts: int, **rest: Any) -> None:
                rows = attention.unflatten(0, (1 + editing_prompts, self.batch_size, -1))
                attention_store(
                    rows.transpose(1, 2).flatten(0, 2), editing_prompts=editing_prompts, **rest
                )

            super().prepare_unet(by_image, PnP)

    return Pipeline


def _layers_over_the_same_weights(network: nn.Module) -> nn.Module:
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shared)


def _attends_at_a_quarter(config: Any) -> bool:
    """Whether the third level of a U-Net, each of which halves the side, has cross-attention."""
    down, up = config.down_block_types, config.up_block_types
    return len(down) > 2 and ("CrossAttn" in down[2] or "CrossAttn" in up[-3])
