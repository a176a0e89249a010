"""Stable Diffusion from a single `.safetensors` or `.ckpt` file in the original layout.

Nothing in the file is executed and nothing is downloaded: the architecture is told from the
tensors (`layout`), and what no tensor tells is the same for every model of a family, but for the
prediction type of SD 2.x, which is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..quiet import quiet_loading
from ..teacher.parts import SUPPORTED, Components
from ..teacher.tokenizer import load_tokenizers
from . import inspect as identify
from . import stable_diffusion_layout as layout
from .formats.read import Checkpoint, read_checkpoint

RESOLUTION = {"1.x": 512, "2.x": 512, "XL": 1024}
RESOLUTION_V = RESOLUTION | {"2.x": 768}  # SD 2.x was published as ε at 512 and as v at 768
SCALING_FACTOR = {"1.x": 0.18215, "2.x": 0.18215, "XL": 0.13025}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


# Weight of a network → its tensor in the file.
Source = Callable[[str, Mapping[str, Tensor]], Tensor]


def load_single_file(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
) -> Components:
    """Load the parts of the Stable Diffusion file `path`; arguments as `from_pretrained`.

    Raises:
        FileNotFoundError: no such file, or no tokenizer; the message says what to provide.
        ValueError: a damaged file, one that holds something else, or tensors that are missing,
            unexpected or of the wrong shape (all are named).
    """
    checkpoint = read_checkpoint(Path(path).expanduser())
    tensors = original_tensors(checkpoint)
    family = check_family(checkpoint, {key: tuple(value.shape) for key, value in tensors.items()})
    tokenizers = load_tokenizers(family, Path(path).expanduser(), tokenizer)
    with quiet_loading():
        networks = build_networks(checkpoint.path, tensors, family, dtype)
    for network in networks.values():
        network.requires_grad_(False).to(device)
    predicts = prediction_type(tensors, checkpoint.metadata)
    if predicts is None:
        measured = family == "2.x" and not predicts_noise(networks["unet"])
        predicts = "v_prediction" if measured else "epsilon"
    resolution = (RESOLUTION_V if predicts == "v_prediction" else RESOLUTION)[family]
    factor = 2 ** (len(networks["vae"].config.block_out_channels) - 1)
    networks["unet"].register_to_config(sample_size=resolution // factor)
    return Components(
        scheduler=_scheduler(predicts, zero_snr="ztsnr" in tensors),
        force_zeros_for_empty_prompt=family == "XL",
        **networks,
        **tokenizers,
    )


def original_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the file by their original names, from below "state_dict" if there is one."""
    content = checkpoint.content
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        return {}
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    # Some merged SD 1.x files lack one level of the text encoder's names.
    if layout.CLIP + "embeddings.token_embedding.weight" in tensors:
        named = layout.CLIP + "text_model."
        tensors = {
            key.replace(layout.CLIP, named) if _lacks_level(key) else key: value
            for key, value in tensors.items()
        }
    return tensors


def _lacks_level(key: str) -> bool:
    inner = key.removeprefix(layout.CLIP)
    return inner != key and inner.startswith(("embeddings.", "encoder.", "final_layer_norm."))


def check_family(checkpoint: Checkpoint, shapes: layout.Shapes) -> str:
    """ "1.x", "2.x" or "XL"; ValueError saying what the file is instead."""
    path = checkpoint.path
    family = layout.family(shapes)
    if family is None:
        part = _lone_part(shapes)
        held = part if part else identify.what_is(checkpoint)
        raise ValueError(
            f"{path} is no complete Stable Diffusion checkpoint: it holds {held}. Expected the "
            f"U-Net ({layout.UNET}*), VAE ({layout.VAE}*) and text encoders (cond_stage_model.* or "
            f"conditioner.*) of {SUPPORTED}"
        )
    if any(key.startswith("edm_") for key in shapes):
        raise ValueError(
            f"{path} is an EDM model (such as Playground 2.5 or CosXL), whose noise levels are "
            f"continuous; supported: {SUPPORTED}"
        )
    # [out, in, 3, 3]. Anything else is found to be of the wrong shape later.
    (channels,) = shapes[layout.UNET + "input_blocks.0.0.weight"][1:2] or (0,)
    (latent,) = shapes.get(layout.VAE + "decoder.conv_in.weight", ())[1:2] or (channels,)
    if channels != latent:
        raise ValueError(
            f"{path}: the U-Net takes {channels} channels but the VAE's latents have {latent}; "
            f"inpainting, depth, editing and upscaling models are not supported, but {SUPPORTED}"
        )
    return family


def _lone_part(shapes: layout.Shapes) -> str:
    """What is there of a checkpoint, in words; "" if nothing is."""
    if "conditioner.embedders.0.model.token_embedding.weight" in shapes:
        return "an SDXL refiner, which only finishes what the base model began"
    parts: dict[str, str | tuple[str, ...]] = {
        "a U-Net": layout.UNET + "input_blocks.",
        "a VAE": layout.VAE,
        "text encoders": ("cond_stage_model.", "conditioner."),
        "a U-Net of diffusers' folder layout (give the folder)": "down_blocks.",
        "a transformer, as SD3 and Flux have": (
            *(layout.UNET + name for name in ("joint_blocks.", "double_blocks.")),
            "joint_blocks.",
            "double_blocks.",
        ),
        "a LoRA": ("lora_unet_", "lora_te"),
    }
    found = [name for name, start in parts.items() if any(k.startswith(start) for k in shapes)]
    return " and ".join(found)


# ── networks ──────────────────────────────────────────────────────────────────────────────────────


def build_networks(
    path: Path, tensors: dict[str, Tensor], family: str, dtype: torch.dtype
) -> dict[str, Any]:
    """The networks of a pipeline, by their names as parts, with the weights of a file.

    Args:
        path: of the file, for messages. tensors: all that it holds, by their original names.
        family: "1.x", "2.x" or "XL". dtype: of the networks.

    Raises:
        ValueError: tensors are missing, unexpected or of the wrong shape; all are named.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    try:
        configs = _configs(shapes, family)
        networks = _make(configs, family)
    except KeyError as error:
        raise ValueError(f"{path} lacks the tensor {error.args[0]}; it may be incomplete") from None
    except Exception as error:  # the libraries raise almost anything for shapes that make no sense
        raise ValueError(
            f"{path} does not fit Stable Diffusion: {error or type(error).__name__}; supported: "
            f"{SUPPORTED}"
        ) from error
    unet, vae = configs["unet"], configs["vae"]
    sources: dict[str, Source] = {
        "unet": lambda key, found: found[layout.unet_source(key, unet)],
        "vae": lambda key, found: found[layout.vae_source(key, vae)],
        "text_encoder": _open_clip(layout.OPEN_CLIP)
        if family == "2.x"
        else _clip(layout.CLIP if family == "1.x" else layout.CLIP_XL),
        "text_encoder_2": _open_clip(layout.OPEN_CLIP_XL),
    }
    ignored = set()
    if family == "2.x":
        layers = configs["text_encoder"]["num_hidden_layers"]
        last = f"{layout.OPEN_CLIP}transformer.resblocks.{layers}."
        ignored = {key for key in tensors if key.startswith(last)}
        ignored.add(layout.OPEN_CLIP + "text_projection")
    _fill(path, networks, sources, tensors, ignored, dtype)
    return networks


def _configs(shapes: layout.Shapes, family: str) -> dict[str, dict[str, Any]]:
    configs = {"unet": layout.unet_config(shapes), "vae": layout.vae_config(shapes)}
    configs["vae"]["scaling_factor"] = SCALING_FACTOR[family]
    if family == "1.x":
        configs["text_encoder"] = layout.clip_config(shapes, layout.CLIP)
    elif family == "2.x":
        # What precedes the last layer is used, so SD 2.x's text encoder ends there.
        configs["text_encoder"] = layout.open_clip_config(
            shapes, layout.OPEN_CLIP, layers_left_out=1
        )
    else:
        configs["text_encoder"] = layout.clip_config(shapes, layout.CLIP_XL)
        configs["text_encoder_2"] = layout.open_clip_config(
            shapes, layout.OPEN_CLIP_XL, layers_left_out=0
        )
    return configs


def _make(configs: dict[str, dict[str, Any]], family: str) -> dict[str, Any]:
    """The networks without memory: their weights are to be assigned."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        networks: dict[str, Any] = {
            "unet": UNet2DConditionModel(**configs["unet"]),
            "vae": AutoencoderKL(**configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }
        if family == "XL":
            config = CLIPTextConfig(**configs["text_encoder_2"])
            networks["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return networks


def _clip(prefix: str) -> Source:
    return lambda key, found: found[f"{prefix}text_model.{key.removeprefix('text_model.')}"]


def _open_clip(prefix: str) -> Source:
    def source(key: str, found: Mapping[str, Tensor]) -> Tensor:
        name, third = layout.open_clip_source(key.removeprefix("text_model."), prefix)
        tensor = found[name]
        if name.endswith("text_projection") and tensor.ndim == 2:
            return tensor.T  # OpenCLIP multiplies by it from the right
        if third is None or tensor.ndim == 0:
            return tensor
        rows = -(-len(tensor) // 3)
        return tensor[third * rows : (third + 1) * rows]

    return source


class _Asked(dict[str, Tensor]):
    """The tensors of a file, noting which are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return super().__getitem__(key)


def _fill(
    path: Path,
    networks: Mapping[str, nn.Module],
    sources: Mapping[str, Source],
    tensors: Mapping[str, Tensor],
    ignored: set[str],
    dtype: torch.dtype,
) -> None:
    found, problems = _Asked(tensors), []
    for name, network in networks.items():
        state = {}
        for key, empty in network.state_dict().items():
            if key.endswith("position_ids"):
                continue
            try:
                tensor = sources[name](key, found)
            except KeyError as error:
                problems.append(f"missing: {error.args[0]}")
                continue
            # The VAE's attention was a 1×1 convolution, and is a linear layer now.
            flat = tensor.shape[2:] == (1, 1) and empty.ndim == 2
            tensor = tensor[:, :, 0, 0] if flat else tensor
            if tensor.shape != empty.shape:
                problems.append(
                    f"shape of {name}.{key}: the file has {list(tensor.shape)}, the network "
                    f"{list(empty.shape)}"
                )
            state[key] = tensor.to(dtype).contiguous()
        if not problems:
            network.load_state_dict(state, strict=False, assign=True)
            _fill_positions(network)
    known = found.used | ignored
    problems += [
        f"unexpected: {key}"
        for key in tensors
        if key not in known and not layout.IGNORED.fullmatch(key)
    ]
    if problems:
        listed = list(dict.fromkeys(problems))  # three weights may ask for one tensor
        raise ValueError(
            f"{path} does not fit Stable Diffusion ({len(listed)} of its tensors):\n  "
            + "\n  ".join(listed)
        )


def _fill_positions(network: nn.Module) -> None:
    """CLIP's only buffer counts the positions; it is in no file and was made on the meta device."""
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                assert name == "position_ids", name
                module.register_buffer(
                    name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False
                )


# ── what no tensor tells ──────────────────────────────────────────────────────────────────────────


def prediction_type(keys: Any, metadata: Mapping[str, str]) -> str | None:
    """As the file declares it: by a tensor "v_pred", or in the metadata of safetensors."""
    if "v_pred" in keys:
        return "v_prediction"
    declared = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key")
    return {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}.get(
        declared or ""
    )


@torch.no_grad()
def predicts_noise(unet: Any) -> bool:
    """Whether a U-Net predicts ε, told from its answer to noise at the last timestep.

    There z_T is ε but for 0.5 % of its variance, so a prediction of ε resembles the input, and one
    of v = √ᾱ ε − √(1−ᾱ) z does not.
    """
    noise = torch.randn(1, unet.config.in_channels, 32, 32, generator=draws.generator(0))
    text = torch.zeros(1, 77, unet.config.cross_attention_dim).to(unet.device, unet.dtype)
    last = SCHEDULE["num_train_timesteps"] - 1
    answer = unet(noise.to(text), last, encoder_hidden_states=text).sample
    similarity = torch.cosine_similarity(answer.float().cpu().flatten(), noise.flatten(), dim=0)
    return bool(similarity > 0.5)


def _scheduler(prediction_type: str, *, zero_snr: bool) -> Any:
    from diffusers import DDIMScheduler

    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero_snr else {}
    return DDIMScheduler(**SCHEDULE, prediction_type=prediction_type, **options)
