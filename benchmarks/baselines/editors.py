"""Other editors of real images by a prompt, from diffusers' parts: one function for each.

Each takes networks of `tuned.prepare`, so that all run in its dtype, channels_last, without a
safety checker, the prompt encoded beforehand where the pipeline takes embeddings, and returns what
edits `images` [B, 3, H, W] in [0, 1] with so many denoising steps. Those that need a U-Net of their
own get one of the published architecture: the weights of Stable Diffusion 1.x where they fit, else
random ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LCMScheduler,
    LEditsPPPipelineStableDiffusion,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from sd_families import FULL
from torch import Tensor

from sdd_fast.images import to_pil

from .networks import Networks

Edit = Callable[[int], Any]
"""Denoising steps → the edited images."""

_BLOCKS = {
    "Attn": ("AttnDownBlock2D", "AttnUpBlock2D"),
    "Resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
}


def sdedit(networks: Networks, images: Tensor) -> Edit:
    """SDEdit (Meng et al. 2022) by DDIM: two rows of the U-Net a step."""
    return _image_to_image(networks, images, partial(DDIMScheduler, clip_sample=False))


def sdedit_by_solver(networks: Networks, images: Tensor) -> Edit:
    """SDEdit by DPM-Solver++ (Lu et al. 2022): two rows a step, and fewer steps."""
    return _image_to_image(
        networks, images, partial(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++")
    )


def _image_to_image(networks: Networks, images: Tensor, scheduler: Any) -> Edit:
    made = scheduler(**_schedule(networks))
    pipeline = _quiet(StableDiffusionImg2ImgPipeline(**_parts(networks, scheduler=made)))
    text = _text(networks, len(images))
    return lambda steps: (
        pipeline(
            image=images, strength=1.0, num_inference_steps=steps, output_type="pt", **text
        ).images
    )


def ddib(networks: Networks, images: Tensor) -> Edit:
    """DDIB (Su et al. 2023): DDIM inversion, one row a step, then guided DDIM, two rows."""
    unet, vae = networks.unet, networks.vae
    inverse = DDIMInverseScheduler(**_schedule(networks), clip_sample=False)
    forward = DDIMScheduler(**_schedule(networks), clip_sample=False)
    scale = vae.config.scaling_factor
    source, target = networks.no_text.to(vae.dtype), networks.text[:1].to(vae.dtype)

    @torch.no_grad()
    def edit(steps: int) -> Tensor:
        n = len(images)
        z = vae.encode((2 * images - 1).to(vae.dtype)).latent_dist.mode() * scale
        inverse.set_timesteps(steps)
        for t in inverse.timesteps:
            predicted = unet(z, t, source.expand(n, -1, -1), return_dict=False)[0]
            z = inverse.step(predicted, t, z).prev_sample
        forward.set_timesteps(steps)
        both = torch.cat([source.expand(n, -1, -1), target.expand(n, -1, -1)])
        for t in forward.timesteps:
            without, with_prompt = unet(torch.cat([z, z]), t, both, return_dict=False)[0].chunk(2)
            z = forward.step(without + 7.5 * (with_prompt - without), t, z).prev_sample
        decoded: Tensor = vae.decode(z / scale, return_dict=False)[0]
        return decoded

    return edit


def instruct_pix2pix(networks: Networks, images: Tensor) -> Edit:
    """InstructPix2Pix (Brooks et al. 2023): three rows a step, by a U-Net that sees the image."""
    unet = related(networks.unet, in_channels=2 * networks.vae.config.latent_channels)
    parts = _parts(
        networks, unet=unet, scheduler=DDIMScheduler(**_schedule(networks), clip_sample=False)
    )
    pipeline = _quiet(StableDiffusionInstructPix2PixPipeline(**parts))
    text = _text(networks, len(images))
    return lambda steps: (
        pipeline(image=images, num_inference_steps=steps, output_type="pt", **text).images
    )


def ledits(networks: Networks, images: Tensor) -> Edit:
    """LEDITS++ (Brack et al. 2024): inversion, one row a step, then two rows a step.

    Its attention is plain, as shipped: it needs the probabilities, and sets the same processor for
    the inversion.
    """
    solver = DPMSolverMultistepScheduler(
        **_schedule(networks), algorithm_type="sde-dpmsolver++", solver_order=2
    )
    parts = _parts(networks, unet=related(networks.unet), scheduler=solver)
    pipeline = _quiet(LEditsPPPipelineStableDiffusion(**parts))

    def edit(steps: int) -> Any:
        pipeline.invert(image=images, num_inversion_steps=steps, skip=0.15)
        return pipeline(editing_prompt=["a"], edit_warmup_steps=0, output_type="pt").images

    return edit


def latent_consistency(networks: Networks, images: Tensor) -> Edit:
    """LCM (Luo et al. 2023): one row a step, the guidance scale an input of its U-Net."""
    unet = related(networks.unet, time_cond_proj_dim=256)
    parts = _parts(networks, unet=unet, scheduler=LCMScheduler(**_schedule(networks)))
    pipeline = _quiet(LatentConsistencyModelImg2ImgPipeline(**parts))
    text = {"prompt_embeds": _text(networks, len(images))["prompt_embeds"]}
    return lambda steps: (
        pipeline(
            image=images, strength=1.0, num_inference_steps=steps, output_type="pt", **text
        ).images
    )


def turbo(networks: Networks, images: Tensor) -> Edit:
    """SD-Turbo (Sauer et al. 2023): one row a step, without guidance; at full size SD 2.1's U-Net.

    Half of twice as many steps: its pipeline needs steps × strength ≥ 1.
    """
    if networks.resolution == 512:
        unet = related(networks.unet, **FULL["2.x"]["unet"])
        text = torch.randn(1, 77, unet.config.cross_attention_dim)
    else:
        unet, text = networks.unet, networks.text[:1]
    made = EulerDiscreteScheduler(**_schedule(networks), timestep_spacing="trailing")
    pipeline = _quiet(StableDiffusionImg2ImgPipeline(**_parts(networks, unet=unet, scheduler=made)))
    embeds = text.to(images.device, networks.vae.dtype).expand(len(images), -1, -1)
    return lambda steps: pipeline(
        image=images, prompt_embeds=embeds, strength=0.5, num_inference_steps=2 * steps,
        guidance_scale=0.0, output_type="pt",
    ).images  # fmt: skip


def diffusion_autoencoder(networks: Networks, images: Tensor) -> Edit:
    """DiffAE (Preechakul et al. 2022) as trained on FFHQ at 256²: one row of its own U-Net a step.

    Of 350 steps 250 find the noise of the image by DDIM, and 100 make the edited image of it, as in
    manipulate.ipynb of github.com/phizaz/diffae (`encode_stochastic(…, T=250)`, `render(…, T=100)`;
    its notebooks without an edit render in 20); of another number the same share. The semantic
    vector joins the embedding of the timestep, where the authors' U-Net scales each block by it as
    well.
    """
    small = networks.resolution < 512
    size, width = (images.shape[-1], 32) if small else (256, 128)
    multiples = (1, 2, 4) if small else (1, 1, 2, 2, 4, 4)
    with torch.device(images.device), torch.random.fork_rng():
        unet = _pixel_unet(size, width, multiples, resnet_time_scale_shift="scale_shift",
                           class_embed_type="identity")  # fmt: skip
        encoder = _pixel_unet(size, width, (*multiples, multiples[-1]))
        to_semantic = torch.nn.Linear(multiples[-1] * width, 4 * width)
    del encoder.up_blocks  # the authors' encoder is the first half of such a U-Net
    dtype = networks.vae.dtype
    for part in (unet, encoder, to_semantic):
        part.requires_grad_(False).eval().to(dtype)
    for part in (unet, encoder):
        part.to(memory_format=torch.channels_last)
    seen = F.interpolate(2 * images - 1, (size, size), mode="area").to(dtype)
    linear = {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
    inverse, forward = DDIMInverseScheduler(**linear), DDIMScheduler(**linear)

    def encode() -> Tensor:  # [B, 4·width]
        x, no_time = encoder.conv_in(seen), seen.new_zeros(len(seen), 4 * width)
        for block in encoder.down_blocks:
            x, _ = block(x, no_time)
        vector: Tensor = to_semantic(encoder.mid_block(x, no_time).mean((2, 3)))
        return vector

    @torch.no_grad()
    def edit(steps: int) -> Tensor:
        z, semantic, inverting = seen, encode(), steps * 250 // 350
        for scheduler, count, vector in (
            (inverse, inverting, semantic), (forward, steps - inverting, semantic + 0.1)
        ):  # fmt: skip
            scheduler.set_timesteps(max(1, count))
            for t in scheduler.timesteps[:count]:
                predicted = unet(z, t, vector, return_dict=False)[0]
                z = scheduler.step(predicted, t, z).prev_sample
        return z

    return edit


def _pixel_unet(size: int, width: int, multiples: Sequence[int], **more: Any) -> UNet2DModel:
    """A U-Net of images, whose blocks halve and double by residual blocks, attending at 16²."""
    kinds = ["Attn" if size >> i == 16 else "Resnet" for i in range(len(multiples))]
    return UNet2DModel(
        sample_size=size,
        block_out_channels=tuple(width * m for m in multiples),
        down_block_types=tuple(_BLOCKS[kind][0] for kind in kinds),
        up_block_types=tuple(_BLOCKS[kind][1] for kind in reversed(kinds)),
        layers_per_block=2, downsample_type="resnet", upsample_type="resnet",
        attention_head_dim=None, **more,
    )  # fmt: skip


def flux_klein(networks: Networks, images: Tensor) -> Edit:
    """FLUX.2-klein of 4 billion parameters: the image as more tokens of its transformer.

    Its pipeline takes several images as references of one edit, so it edits one at a time. Not run
    so far at this size, which needs a GPU.
    """
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    width = 7680  # of three layers of its text encoder
    with torch.device(images.device), torch.random.fork_rng():
        transformer = Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=width,
            guidance_embeds=False,
        ).to(torch.bfloat16)  # fmt: skip
        vae = AutoencoderKLFlux2().to(torch.bfloat16)
        text = torch.randn(1, 512, width, dtype=torch.bfloat16)
    pipeline = Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae, None, None,
        transformer, is_distilled=True,
    )  # fmt: skip
    _quiet(pipeline)
    pictures = [to_pil(2 * image - 1) for image in images]

    def edit(steps: int) -> list[Tensor]:
        return [
            pipeline(
                image=picture,
                prompt_embeds=text,
                guidance_scale=1.0,
                num_inference_steps=steps,
                output_type="pt",
            ).images
            for picture in pictures
        ]

    return edit


def related(unet: Any, **changes: Any) -> Any:
    """A U-Net of a changed configuration, with the same weights where these fit, the same memory.

    The others are random.
    """
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        made = UNet2DConditionModel(**{**config, **changes})
    wanted, state = made.state_dict(), unet.state_dict()
    for name, there in wanted.items():
        if name not in state or state[name].shape != there.shape:
            new = 0.02 * torch.randn(there.shape, dtype=unet.dtype, device=unet.device)
            last = torch.channels_last if new.ndim == 4 else torch.contiguous_format
            state[name] = new.contiguous(memory_format=last)
    made.load_state_dict({name: state[name] for name in wanted}, assign=True)
    return made.requires_grad_(False).eval()


def _parts(networks: Networks, **own: Any) -> dict[str, Any]:
    return {
        "vae": networks.vae, "unet": networks.unet, "tokenizer": networks.tokenizer,
        "text_encoder": copy.deepcopy(networks.text_encoder).to(networks.vae.dtype),
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **own,
    }  # fmt: skip


def _text(networks: Networks, count: int) -> dict[str, Tensor]:
    embeds = (networks.text[:1], networks.no_text)
    cond, uncond = (e.to(networks.vae.dtype).expand(count, -1, -1) for e in embeds)
    return {"prompt_embeds": cond, "negative_prompt_embeds": uncond}


def _schedule(networks: Networks) -> dict[str, Any]:
    config = networks.scheduler.config
    names = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
    return {name: config[name] for name in names}


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
