"""The parts of a Stable Diffusion pipeline, and whether they make a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from ..fingerprint import fingerprint
from .configs import Configs, check_configs, check_scheduler_config, completed, scheduler_config
from .schedule import Schedule, check_schedule


class Components(NamedTuple):
    """The parts of a Stable Diffusion pipeline, as diffusers and transformers objects.

    The scheduler is always a DDIMScheduler, whatever sampler the pipeline names: only its betas
    matter. The last three belong to SDXL: its second text encoder and tokenizer, and whether its
    unconditional embedding is zero rather than that of "".
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    force_zeros_for_empty_prompt: bool = False

    @property
    def networks(self) -> dict[str, Any]:
        """The networks, by their names as parts."""
        names = ("vae", "unet", "text_encoder", "text_encoder_2")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def schedule(self) -> Schedule:
        """The noise schedule, as the teacher made of these parts has it."""
        return Schedule(adopt_scheduler(self.scheduler))


def teacher_fingerprint(teacher: Any, rounded: torch.dtype | None = None) -> dict[str, Any]:
    """Tell a teacher from others by all that changes what it says of a text; JSON values only.

    Args:
        teacher: a `Components` or a `DiffusionPrior`.
        rounded: the dtype that its weights count as, if that is not their own.
    """
    networks = [teacher.unet, teacher.vae, teacher.text_encoder]
    if teacher.text_encoder_2 is not None:
        networks.append(teacher.text_encoder_2)
    schedule = teacher.schedule
    return {
        "teacher": fingerprint(*networks, rounded=rounded),
        "schedule": fingerprint(schedule.alphas_cumprod),
        "prediction_type": schedule.prediction_type,
        "scaling_factor": float(teacher.vae.config.scaling_factor),
    }


# What each part must be, and an attribute by which it is known, since people wrap them.
_KINDS = {
    "vae": ("an AutoencoderKL of diffusers", "config.latent_channels"),
    "unet": ("a UNet2DConditionModel of diffusers", "config.cross_attention_dim"),
    "text_encoder": ("a CLIPTextModel of transformers", "config.hidden_size"),
    "tokenizer": ("a CLIPTokenizer of transformers", "model_max_length"),
    "scheduler": ("a scheduler of diffusers", "config"),
    "text_encoder_2": ("a CLIPTextModelWithProjection of transformers", "config.projection_dim"),
    "tokenizer_2": ("a CLIPTokenizer of transformers, SDXL's second", "model_max_length"),
}


def check_fit(parts: Components) -> None:
    """Raise ValueError or TypeError unless these are the parts of one supported model."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    _check_types(parts)
    encoders = [parts.text_encoder] + ([parts.text_encoder_2] if parts.text_encoder_2 else [])
    check_configs(
        Configs(
            completed(parts.unet.config, UNet2DConditionModel),
            completed(parts.vae.config, AutoencoderKL),
            [encoder.config for encoder in encoders],
            scheduler_config(parts.scheduler.config),
        )
    )
    for tokenizer, encoder in zip((parts.tokenizer, parts.tokenizer_2), encoders, strict=False):
        _check_tokenizer(tokenizer, encoder.config.vocab_size)


def _check_types(parts: Components) -> None:
    has_second = parts.text_encoder_2 is not None or parts.tokenizer_2 is not None
    for name, (wanted, known_by) in _KINDS.items():
        part = getattr(parts, name)
        if part is None and name.endswith("_2") and not has_second:
            continue
        try:
            attrgetter(known_by)(part)
        except AttributeError:
            raise TypeError(f"{name} must be {wanted}, got {type(part).__name__}") from None


def _check_tokenizer(tokenizer: Any, embeddings: int) -> None:
    # Where files are missing transformers makes a tokenizer of the special tokens only. Embeddings
    # that no token uses do no harm, as long as they are few.
    if tokenizer is not None and not embeddings / 2 < len(tokenizer) <= embeddings:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the text encoder {embeddings}; they "
            "belong to different models, or the tokenizer's files are incomplete"
        )


def new_scheduler(config: Mapping[str, Any]) -> Any:
    """Make the DDIMScheduler with the noise schedule of any scheduler's configuration.

    Raises:
        ValueError: no schedule that is supported follows from it.
    """
    from diffusers import DDIMScheduler

    full = scheduler_config(config)
    check_scheduler_config(full)
    known = completed({}, DDIMScheduler)
    # Latents are not bounded by 1, so clipping x_0 (a default of DDIMScheduler) would damage
    # samples.
    kept = {key: value for key, value in full.items() if key in known} | {"clip_sample": False}
    scheduler = DDIMScheduler.from_config(kept)
    check_schedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    return scheduler


def adopt_scheduler(scheduler: Any) -> Any:
    """Make the DDIMScheduler with the noise schedule of any scheduler of diffusers.

    Raises:
        ValueError: as of `new_scheduler`; or its ᾱ_t are not those of its configuration.
    """
    made = new_scheduler(scheduler.config)
    given = scheduler.alphas_cumprod
    # Euler has 2⁻²⁴ in place of the 0 of zero terminal SNR.
    if given.shape != made.alphas_cumprod.shape or not torch.allclose(
        given.float().cpu(), made.alphas_cumprod, rtol=1e-4, atol=1e-6
    ):
        raise ValueError(
            "the scheduler's alphas_cumprod are not those of its config: they were changed by "
            "hand; make a scheduler of these betas (trained_betas=…)"
        )
    return made


def make_uniform(network: Any) -> None:
    """Cast a network of several dtypes, in place, to one that holds the values of all of them.

    People mix them, such as float32 norms beside float16 or float8 weights, which no layer takes.
    """
    found = {p.dtype for p in network.parameters()}
    widest = max(kind.itemsize for kind in found)
    same = [kind for kind in found if kind.itemsize == widest]
    dtype = same[0] if widest > 1 and len(same) == 1 else torch.float32
    if found != {dtype}:
        network.to(dtype)
