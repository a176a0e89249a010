"""SDEdit (Meng et al. 2022) by diffusers: what an edit costs without SDD."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds


class SDEdit:
    """Edits images by the diffusion model itself, made of a teacher's own parts.

    As one would run it: in the teacher's dtype, in batches, without a safety checker, the prompt
    encoded once.

    Args:
        embeds: of one prompt.
    """

    def __init__(self, prior: DiffusionPrior, embeds: PromptEmbeds) -> None:
        from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline

        # A copy of the VAE: the pipeline of SDXL leaves it in another dtype.
        parts: dict[str, Any] = {
            "vae": copy.deepcopy(prior.vae), "unet": prior.unet, "scheduler": prior.scheduler,
            "text_encoder": prior.text_encoder, "tokenizer": prior.tokenizer,
        }  # fmt: skip
        if prior.text_encoder_2 is None:
            self.pipeline: Any = StableDiffusionImg2ImgPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        else:
            self.pipeline = StableDiffusionXLImg2ImgPipeline(
                **parts, text_encoder_2=prior.text_encoder_2, tokenizer_2=prior.tokenizer_2,
                add_watermarker=False,
            )  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)
        self._schedule, self._embeds = prior.scheduler.config, embeds

    @torch.no_grad()
    def edit(self, images: Tensor, solver: str, steps: int, guidance_scale: float = 7.5) -> Tensor:
        """Noise images and denoise them with the prompt.

        The strength is 1, at which the pipeline takes all of `steps`; at 0.5 it takes as long with
        twice as many.

        Args:
            images: [B, 3, H, W] in [-1, 1], of the teacher's size. solver: "ddim" or
                "dpm-solver++".

        Returns:
            [B, 3, H, W] in [0, 1].
        """
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
        from diffusers.utils import logging

        if solver == "ddim":
            scheduler = DDIMScheduler.from_config(self._schedule)
        else:
            scheduler = DPMSolverMultistepScheduler.from_config(
                self._schedule, algorithm_type="dpmsolver++"
            )
        self.pipeline.scheduler = scheduler
        cond, uncond = self._embeds.expand(len(images))
        given = {"prompt_embeds": cond, "negative_prompt_embeds": uncond}
        if self._embeds.pooled is not None:
            pooled, uncond_pooled = self._embeds.expand_pooled(len(images))
            given |= {
                "pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": uncond_pooled,
            }  # fmt: skip
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # of every cast of SDXL's VAE
        try:
            made = self.pipeline(
                image=images / 2 + 0.5, strength=1.0, num_inference_steps=steps,
                guidance_scale=guidance_scale, generator=torch.Generator().manual_seed(0),
                output_type="pt", **given,
            )  # fmt: skip
        finally:
            logging.set_verbosity(verbosity)
        edited: Tensor = made.images
        return edited
