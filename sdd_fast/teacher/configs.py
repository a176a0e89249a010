"""What the configurations of a teacher's parts may say: all of it must be fed, or be the default.

A key that changes what a network or schedule computes, and that nothing here feeds or applies,
would show as nothing but worse guidance. Hence a key that is not listed as handled may only have
the value that its class of diffusers has if nothing is said.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..checkpoints.stable_diffusion import SUPPORTED
from ..schema import is_number, is_whole
from .schedule import PREDICTION_TYPES

MOST_TIMESTEPS = 100_000
SIZE_CONDITIONS = 6  # original height and width, top and left of the crop, target height and width

# Of a U-Net, what its forward pass does by itself, and the inputs that it gets here.
_UNET = frozenset(
    """sample_size in_channels out_channels center_input_sample flip_sin_to_cos freq_shift
    down_block_types mid_block_type up_block_types only_cross_attention block_out_channels
    layers_per_block downsample_padding mid_block_scale_factor dropout act_fn norm_num_groups
    norm_eps cross_attention_dim transformer_layers_per_block reverse_transformer_layers_per_block
    attention_head_dim use_linear_projection upcast_attention resnet_time_scale_shift
    resnet_skip_time_act resnet_out_scale_factor time_embedding_type time_embedding_dim
    time_embedding_act_fn timestep_post_act conv_in_kernel conv_out_kernel
    mid_block_only_cross_attention cross_attention_norm
    addition_embed_type addition_time_embed_dim projection_class_embeddings_input_dim
    addition_embed_type_num_heads
    decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup""".split()
)  # the last line: left by diffusers' EMAModel
_VAE = frozenset(
    """in_channels out_channels down_block_types up_block_types block_out_channels layers_per_block
    act_fn latent_channels norm_num_groups sample_size scaling_factor force_upcast use_quant_conv
    use_post_quant_conv mid_block_add_attention""".split()
)
# Of a scheduler, what makes ᾱ_t, and what belongs to sampling, which a teacher does not do.
_SCHEDULER = frozenset(
    """num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr
    prediction_type
    clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value
    timestep_spacing steps_offset set_alpha_to_one skip_prk_steps variance_type interpolation_type
    use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas sigma_min sigma_max
    final_sigmas_type solver_order algorithm_type solver_type lower_order_final euler_at_final
    lambda_min_clipped predict_x0 disable_corrector solver_p original_inference_steps
    timestep_scaling flow_shift time_shift_type shift_terminal noise_sampler_seed s_noise
    predictor_order corrector_order deis_order use_corrector tensor_format eta""".split()
)
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "shift_factor": (0,),
    "snr_shift_scale": (1,),
    "timestep_type": ("discrete",),
    "predict_epsilon": (True,),  # of schedulers before prediction_type
}
_MEANING = {
    "time_cond_proj_dim": "the guidance scale as an input, as latent consistency models have it",
    "class_embed_type": "a class or noise level as an input, as upscalers have it",
    "num_class_embeds": "a class or noise level as an input, as upscalers have it",
    "encoder_hid_dim_type": "image embeddings in place of text, or an IP-Adapter",
    "encoder_hid_dim": "image embeddings in place of text, or an IP-Adapter",
    "attention_type": "boxes as an input, as GLIGEN has them",
    "dual_cross_attention": "two texts or images as an input",
    "shift_factor": "latents that are shifted",
    "latents_mean": "latents that are shifted",
    "latents_std": "latents that are scaled channel by channel",
    "snr_shift_scale": "shifted noise levels, as CogVideoX has them",
    "timestep_type": "continuous timesteps, as EDM models have them",
    "use_flow_sigmas": "flow matching",
    "quantization_config": "quantized weights",
}


class Configs(NamedTuple):
    """The configurations of a pipeline: those of diffusers as mappings, with their defaults."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: list[Any]  # CLIPTextConfig, one or for SDXL two
    scheduler: Mapping[str, Any]


def completed(config: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Return a configuration with the defaults of its class of diffusers for what it leaves out."""
    return defaults(cls) | dict(config)


def defaults(cls: type) -> dict[str, Any]:
    """Return the arguments of a class of diffusers that have a default, with these defaults."""
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    return {k: p.default for k, p in parameters.items() if p.default is not p.empty}


def check_configs(configs: Configs) -> None:
    """Raise ValueError unless these are of one model that is supported in all that they say."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet, vae = configs.unet, configs.vae
    check_scheduler_config(configs.scheduler)
    if unet["in_channels"] != vae["latent_channels"]:
        raise ValueError(
            f"the U-Net takes {unet['in_channels']} channels but the VAE's latents have "
            f"{vae['latent_channels']}; inpainting, depth and upscaling models are not supported"
        )
    if unet["out_channels"] != vae["latent_channels"]:
        raise ValueError(
            f"the U-Net returns {unet['out_channels']} channels but the VAE's latents have "
            f"{vae['latent_channels']}; models that predict a variance too are not supported"
        )
    if (vae["in_channels"], vae["out_channels"]) != (3, 3):
        raise ValueError(
            f"the VAE is of images of {vae['in_channels']} to {vae['out_channels']} channels; "
            "expected 3, red, green and blue"
        )
    check_scaling(vae["scaling_factor"])
    _check_keys("U-Net", unet, UNet2DConditionModel, _UNET)
    _check_keys("VAE", vae, AutoencoderKL, _VAE)
    native_size(unet["sample_size"])
    sizes = [encoder.hidden_size for encoder in configs.text_encoders]
    width = unet["cross_attention_dim"]
    if not (set(width) if isinstance(width, list | tuple) else {width}) == {sum(sizes)}:
        raise ValueError(
            f"the U-Net's cross_attention_dim is {width} but the text encoder's hidden size is "
            f"{' + '.join(map(str, sizes))}; these parts belong to different models"
        )
    _check_conditions(unet, configs.text_encoders)


def check_scaling(factor: Any) -> None:
    """Raise ValueError unless latents can be multiplied by it."""
    if not (is_number(factor) and factor > 0):
        raise ValueError(
            f"the VAE's scaling_factor is {_shorten(factor)}; expected a positive number, such as "
            "0.18215 of SD 1.x and 2.x"
        )


def _check_keys(part: str, config: Mapping[str, Any], cls: type, handled: frozenset[str]) -> None:
    usual = defaults(cls)
    found = [
        f"{key} = {_shorten(value)}" + (f": {_MEANING[key]}" if key in _MEANING else "")
        for key, value in config.items()
        if key not in handled
        and not key.startswith("_")
        and value not in (None, *_HARMLESS.get(key, (usual.get(key, False),)))
    ]
    if found:
        raise ValueError(
            f"the {part}'s config says {'; '.join(found)}. That changes what it computes and is "
            f"not supported; supported: {SUPPORTED}"
        )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _check_conditions(unet: Mapping[str, Any], text_encoders: list[Any]) -> None:
    """The U-Net may ask for nothing but text, and for SDXL the pooled text and the image's size."""
    kind = unet["addition_embed_type"]
    if len(text_encoders) == 1:
        if kind is not None:
            raise ValueError(
                f"the U-Net takes added conditions ({kind!r}), but there is no second text "
                f"encoder to make them; supported: {SUPPORTED}"
            )
        return
    given, pooled = unet["projection_class_embeddings_input_dim"], text_encoders[1].projection_dim
    each = unet["addition_time_embed_dim"] or 0
    if kind != "text_time" or given != pooled + SIZE_CONDITIONS * each:
        raise ValueError(
            f"the U-Net's added conditions ({kind!r}, {given} elements) are not those of SDXL "
            f"base: {pooled} of the pooled text and {SIZE_CONDITIONS} image sizes. The refiner, "
            f"which takes an aesthetic score, is not supported; supported: {SUPPORTED}"
        )


def scheduler_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scheduler's configuration with what the class that it names takes for granted.

    The classes differ in that: LCM's betas are those of Stable Diffusion, DDIM's are not.
    """
    import diffusers

    cls = getattr(diffusers, str(config.get("_class_name")), None)
    return completed(config, cls) if isinstance(cls, type) else dict(config)


def check_scheduler_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless a schedule of discrete noise levels follows from a configuration.

    Args:
        config: of any scheduler of diffusers, as `scheduler_config` returns it.
    """
    import diffusers

    name = config.get("_class_name")
    cls = getattr(diffusers, str(name), None)
    # One of flow matching that was made of another's configuration still has its betas.
    if "beta_schedule" not in (defaults(cls) if isinstance(cls, type) else config):
        raise ValueError(
            f"the scheduler {name!r} has no beta_schedule; supported are the schedulers of "
            f"{SUPPORTED} (DDIM, PNDM, DDPM, Euler, DPM-Solver …), not flow matching nor EDM"
        )
    predicts = config.get("prediction_type")
    if predicts not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction type {predicts!r} is not supported; supported: "
            f"{', '.join(PREDICTION_TYPES)}"
        )
    known = cls if isinstance(cls, type) else diffusers.DDIMScheduler
    _check_keys("scheduler", config, known, _SCHEDULER)
    steps: Any = config.get("num_train_timesteps")
    if not (is_whole(steps) and 1 <= steps <= MOST_TIMESTEPS):
        raise ValueError(
            f"the scheduler's num_train_timesteps is {_shorten(steps)}; expected a whole number "
            f"from 1 to {MOST_TIMESTEPS:,}"
        )
    betas = config.get("trained_betas")
    for name in ("beta_start", "beta_end") if betas is None else ():
        value: Any = config.get(name)
        if not (is_number(value) and 0 <= value <= 1):
            raise ValueError(
                f"the scheduler's {name} is {_shorten(value)}; expected a number from 0 to 1"
            )
    if betas is None and config["beta_schedule"] not in _BETA_SCHEDULES:
        raise ValueError(
            f"the scheduler's beta_schedule is {config['beta_schedule']!r}; supported: "
            f"{', '.join(_BETA_SCHEDULES)}"
        )
    if betas is not None and len(betas) != config["num_train_timesteps"]:
        raise ValueError(
            f"the scheduler has {len(betas)} trained_betas for num_train_timesteps = "
            f"{config['num_train_timesteps']}; they must be equally many"
        )


def native_size(sample_size: Any) -> int:
    """Return the side of the latent that a U-Net was trained with."""
    sizes = set(sample_size) if isinstance(sample_size, list | tuple) else {sample_size}
    if len(sizes) != 1 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"the U-Net's sample_size is {sample_size}; expected the side of its latents, as only "
            "square models are supported"
        )
    (side,) = sizes
    return int(side)
