"""Stable Diffusion from a single `.safetensors` or `.ckpt` file in the original layout (`ldm`).

Nothing in the file is executed and nothing is downloaded: the architecture is told from the
tensors, and what no tensor tells is the same for every model of a family, but for the prediction
type of SD 2.x, which is measured. diffusers renames the tensors. Its `from_single_file` leaves a
weight that is missing at its random initial value and drops one that it does not know; here both
are errors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..files import listed
from . import ldm
from .formats.read import Checkpoint

SUPPORTED = "Stable Diffusion 1.x, 2.x and XL base, for text to image"
RESOLUTION = {"1.x": 512, "2.x": 512, "XL": 1024}
RESOLUTION_V = RESOLUTION | {"2.x": 768}  # SD 2.x was published as ε at 512 and as v at 768
TIMESTEPS = 1000
A_LORA = (
    "a LoRA, which changes a diffusion model: give the model as the teacher (--diffusion) and this "
    "beside it, as --lora FILE (in Python lora=)"
)
A_VAE = (
    "a VAE, one part of a diffusion model: give the whole model as the teacher (--diffusion) and "
    "this beside it, as --vae FILE (in Python vae=)"
)
_LORA = re.compile(r"^lora_(unet|te\d?)_|[._]lora[._](A|B|up|down|linear_layer)\b|\.(hada|lokr)_w")
PREDICTS = {"epsilon": "ε-prediction", "v_prediction": "v-prediction"}


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a file by their original names, from below "state_dict" if there is one."""
    content = checkpoint.content
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        return {}
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    # Some merged SD 1.x files lack one level of the text encoder's names.
    if ldm.CLIP + "embeddings.token_embedding.weight" in tensors:
        named = ldm.CLIP + "text_model."
        tensors = {
            key.replace(ldm.CLIP, named) if _lacks_level(key) else key: value
            for key, value in tensors.items()
        }
    return tensors


def _lacks_level(key: str) -> bool:
    inner = key.removeprefix(ldm.CLIP)
    return inner != key and inner.startswith(("embeddings.", "encoder.", "final_layer_norm."))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def family_of(checkpoint: Checkpoint) -> str | None:
    """Tell the family in a file: "1.x", "2.x" or "XL"; None if it is no complete checkpoint.

    Raises:
        ValueError: one of a kind that is not supported.
    """
    path, shapes = checkpoint.path, _shapes(tensors_of(checkpoint))
    family = ldm.family(shapes)
    if family is None:
        return None
    if any(key.startswith("edm_") for key in shapes):
        raise ValueError(
            f"{path} is an EDM model (such as Playground 2.5 or CosXL), whose noise levels are "
            f"continuous; supported: {SUPPORTED}"
        )
    # [out, in, 3, 3]. Anything else is found to be of the wrong shape later.
    (channels,) = shapes[ldm.UNET + "input_blocks.0.0.weight"][1:2] or (0,)
    (latent,) = shapes.get(ldm.VAE + "decoder.conv_in.weight", ())[1:2] or (channels,)
    if channels != latent:
        raise ValueError(
            f"{path}: the U-Net takes {channels} channels but the VAE's latents have {latent}; "
            f"inpainting, depth, editing and upscaling models are not supported, but {SUPPORTED}"
        )
    return family


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Describe the diffusion model in a file for `sdd info`; None if there is none."""
    try:
        family = family_of(checkpoint)
    except ValueError as error:
        return _refusal(error)
    if family is None:
        return None
    tensors = tensors_of(checkpoint)
    parts = [f"Stable Diffusion {family}", "single file of the original layout"]
    predicts = declared_prediction_type(checkpoint)
    if predicts is None and family == "2.x":
        parts.append(
            f"{RESOLUTION[family]} × {RESOLUTION[family]} with ε-prediction or "
            f"{RESOLUTION_V[family]} × {RESOLUTION_V[family]} with v-prediction (measured when it "
            "is loaded)"
        )
    else:
        side = (RESOLUTION_V if predicts == "v_prediction" else RESOLUTION)[family]
        parts += [f"{side} × {side}", PREDICTS[predicts or "epsilon"]]
    count = sum(t.numel() for key, t in tensors.items() if key.startswith(ldm.UNET))
    return {"teacher": ", ".join(parts), "U-Net": f"{count:,} parameters"}


def check(checkpoint: Checkpoint) -> dict[str, str]:
    """Correct what `describe` says of a file whose tensors `build_networks` would refuse."""
    try:
        if family := family_of(checkpoint):
            _outlined(checkpoint.path, tensors_of(checkpoint), family)
    except ValueError as error:
        return _refusal(error)
    return {}


def _refusal(error: ValueError) -> dict[str, str]:
    return {"teacher": f"not supported: {str(error).splitlines()[0].rstrip(':')}"}


def kin(checkpoint: Checkpoint) -> str | None:
    """Name what is there of an incomplete or other diffusion model; None if nothing is."""
    keys = tensors_of(checkpoint)
    if "conditioner.embedders.0.model.token_embedding.weight" in keys:
        return "an SDXL refiner, which only finishes what the base model began"
    if any(_LORA.search(key) for key in keys):
        return A_LORA
    parts: dict[str, str | tuple[str, ...]] = {
        "a U-Net": ldm.UNET + "input_blocks.",
        "a VAE": (ldm.VAE, "encoder.down.0.block.", "encoder.down_blocks.0.resnets."),
        "text encoders": ("cond_stage_model.", "conditioner."),
        "a U-Net of diffusers' folder layout (give the folder)": "down_blocks.",
        "a transformer, as SD3 and Flux have": (
            *(ldm.UNET + name for name in ("joint_blocks.", "double_blocks.")),
            "joint_blocks.",
            "double_blocks.",
        ),
    }
    found = [name for name, start in parts.items() if any(k.startswith(start) for k in keys)]
    return A_VAE if found == ["a VAE"] else " and ".join(found) or None


# ── networks ──────────────────────────────────────────────────────────────────────────────────────


def build_networks(
    path: Path, tensors: Mapping[str, Tensor], family: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Build the networks of a pipeline, by their names as parts, with the weights of a file.

    Args:
        path: of the file, for messages. tensors: all that it holds, by their original names.
        family: "1.x", "2.x" or "XL". dtype: of the networks.

    Raises:
        ValueError: tensors are missing, unexpected, of the wrong shape or not floating point; all
            are named.
    """
    outlined = _outlined(path, tensors, family)
    for network, weights in outlined.values():
        assign(network, weights, dtype)
    return {name: network for name, (network, _) in outlined.items()}


def build_vae(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype
) -> Any:
    """Build the VAE of a file in the original layout, whose names may lack "first_stage_model.".

    Args:
        config: of the VAE in whose place it goes; tells what no tensor does.

    Raises:
        ValueError: as of `build_networks`.
    """
    inner = {k: v for k, v in tensors.items() if k.startswith(ldm.VAE)}
    inner = inner or {ldm.VAE + key: value for key, value in tensors.items()}
    ((vae, weights),) = _outlined(path, inner, None, config).values()
    assign(vae, weights, dtype)
    return vae


def _outlined(
    path: Path,
    tensors: Mapping[str, Tensor],
    family: str | None,
    vae: Mapping[str, Any] | None = None,
) -> dict[str, tuple[Any, dict[str, Tensor]]]:
    """Tell the networks of a family, or the VAE alone if None: each on the meta device, and its
    weights."""
    tensors = {key: value for key, value in tensors.items() if not ldm.IGNORED.fullmatch(key)}
    try:
        shapes = _shapes(tensors)
        if family is None:
            configs, prefixes = {"vae": {**(vae or {}), **ldm.vae_config(shapes)}}, {"vae": ldm.VAE}
        else:
            configs, prefixes = ldm.configs(shapes, family), ldm.PREFIXES[family]
        networks = _outlines(configs)
        if family == "2.x":
            tensors = _without_last_layer(tensors, configs["text_encoder"]["num_hidden_layers"])
        states = {
            name: _converted(name, prefix, tensors, networks[name])
            for name, prefix in prefixes.items()
        }
    except KeyError as error:
        raise ValueError(f"{path} lacks the tensor {error.args[0]}; it may be incomplete") from None
    except Exception as error:  # the libraries raise almost anything for shapes that make no sense
        raise ValueError(
            f"{path} does not fit Stable Diffusion: {error or type(error).__name__}; supported: "
            f"{SUPPORTED}"
        ) from error
    matched = {name: match(networks[name], state, name) for name, state in states.items()}
    problems = [problem for _, found in matched.values() for problem in found]
    problems += _unused(tensors, states.values())
    if problems:
        raise ValueError(
            f"{path} does not fit Stable Diffusion ({len(problems)} of its tensors):"
            + listed(problems)
        )
    return {name: (networks[name], weights) for name, (weights, _) in matched.items()}


def _outlines(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the networks on the meta device: their weights are to be assigned."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        networks: dict[str, Any] = {"vae": AutoencoderKL(**configs["vae"])}
        if "unet" in configs:
            networks["unet"] = UNet2DConditionModel(**configs["unet"])
        for name, text in (
            ("text_encoder", CLIPTextModel),
            ("text_encoder_2", CLIPTextModelWithProjection),
        ):
            if name in configs:
                networks[name] = text(CLIPTextConfig(**configs[name]))
    return networks


def _without_last_layer(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Leave out what SD 2.x does not use of OpenCLIP: the layer after the first `layers`."""
    left_out = f"{ldm.OPEN_CLIP}transformer.resblocks.{layers}.", ldm.OPEN_CLIP + "text_projection"
    return {key: value for key, value in tensors.items() if not key.startswith(left_out)}


class Traced:
    """A tensor on its way through diffusers' conversion, which knows its name in the file."""

    def __init__(self, tensor: Tensor, origin: str) -> None:
        self.tensor, self.origin = tensor, origin

    def _of(self, result: Any) -> Any:
        return Traced(result, self.origin) if isinstance(result, Tensor) else result

    def __getitem__(self, index: Any) -> Traced:
        try:
            return Traced(self.tensor[index], self.origin)
        except IndexError as error:
            shape = list(self.tensor.shape)
            raise ValueError(f"shape of {self.origin}: the file has {shape} ({error})") from error

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.tensor, name)
        if callable(found) and not isinstance(found, Tensor):
            return lambda *args, **options: self._of(found(*args, **options))
        return self._of(found)


def _converted(
    name: str, prefix: str, tensors: Mapping[str, Tensor], network: Any
) -> dict[str, Traced]:
    """Convert the tensors at `prefix`, to diffusers' names; what is missing is left out."""
    from diffusers.loaders import single_file_utils as diffusers

    given: dict[str, Any] = {
        key: Traced(value, key) for key, value in tensors.items() if key.startswith(prefix)
    }
    projection = given.pop(prefix + "text_projection", None)
    while True:
        try:
            if name == "unet":
                state = diffusers.convert_ldm_unet_checkpoint(given, network.config)
            elif name == "vae":
                state = diffusers.convert_ldm_vae_checkpoint(given, network.config)
            elif prefix in (ldm.OPEN_CLIP, ldm.OPEN_CLIP_XL):
                state = diffusers.convert_open_clip_checkpoint(network, given, prefix=prefix)
            else:
                state = diffusers.convert_ldm_clip_checkpoint(given)
            break
        except KeyError as error:  # a tensor that diffusers takes for granted; go on without it
            missing = prefix + str(error.args[0])
            if missing in given:
                raise
            given[missing] = None
    if projection is not None:  # OpenCLIP multiplies from the right
        state["text_projection.weight"] = projection.T if projection.ndim == 2 else projection
    return {key: t for key, t in state.items() if t is not None}


def match(
    network: nn.Module, state: Mapping[str, Traced], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Find the weights of a network on the meta device; list what does not fit, by its names."""
    problems, weights = [], {}
    # transformers left "text_model." out from 5.6 on
    unknown = {key.removeprefix("text_model."): traced for key, traced in state.items()}
    for key, empty in network.state_dict().items():
        if key.endswith("position_ids"):
            continue
        plain = key.removeprefix("text_model.")
        found = unknown.pop(plain, None)
        if found is None:
            problems.append(f"missing: {name}.{plain}")
        elif found.tensor.shape != empty.shape:
            problems.append(
                f"shape of {found.origin}: the file has {list(found.tensor.shape)}, {name}.{plain} "
                f"is {list(empty.shape)}"
            )
        elif not found.tensor.is_floating_point():
            problems.append(f"{found.origin} is {found.tensor.dtype}, as if quantized")
        else:
            weights[key] = found.tensor
    return weights, problems + [f"unexpected: {traced.origin}" for traced in unknown.values()]


def assign(network: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Give a network on the meta device all its weights, cast to one dtype."""
    # Copied: what is mapped from a file is not aligned as kernels like it.
    cast = {key: w.to(dtype, copy=True).contiguous() for key, w in weights.items()}
    network.load_state_dict(cast, strict=False, assign=True)
    # CLIP's only buffer counts the positions; it is in no file and was made on the meta device.
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                assert name == "position_ids", name
                positions = torch.arange(buffer.shape[-1]).expand(buffer.shape)
                module.register_buffer(name, positions, persistent=False)


def _unused(tensors: Mapping[str, Tensor], states: Iterable[Mapping[str, Traced]]) -> list[str]:
    """List the tensors of the file of which the conversion left something out."""
    used: Counter[str] = Counter()
    for state in states:
        for traced in state.values():
            used[traced.origin] += traced.tensor.numel()
    problems = [f"unexpected: {key}" for key in tensors if key not in used]
    return problems + [
        f"shape of {key}: the file has {list(tensors[key].shape)}, of which {count} elements fit"
        for key, count in used.items()
        if count != tensors[key].numel()
    ]


# ── what no tensor tells ──────────────────────────────────────────────────────────────────────────


def prediction_type(checkpoint: Checkpoint, family: str, unet: Any) -> str:
    """Tell whether a model predicts ε or v: "epsilon" or "v_prediction"."""
    declared = declared_prediction_type(checkpoint)
    if declared is None and family == "2.x" and not predicts_noise(unet):
        return "v_prediction"
    return declared or "epsilon"


def declared_prediction_type(checkpoint: Checkpoint) -> str | None:
    """As the file declares it: by a tensor "v_pred", or in the metadata of safetensors."""
    if "v_pred" in tensors_of(checkpoint):
        return "v_prediction"
    metadata = checkpoint.metadata
    declared = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key")
    return {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}.get(
        declared or ""
    )


@torch.no_grad()
def predicts_noise(unet: Any) -> bool:
    """Tell whether a U-Net predicts ε, from its answer to noise at the last timestep.

    There z_T is ε but for 0.5 % of its variance, so a prediction of ε resembles the input, and one
    of v = √ᾱ ε − √(1−ᾱ) z does not.
    """
    noise = torch.randn(1, unet.config.in_channels, 32, 32, generator=draws.generator(0))
    text = torch.zeros(1, 77, unet.config.cross_attention_dim).to(unet.device, unet.dtype)
    answer = unet(noise.to(text), TIMESTEPS - 1, encoder_hidden_states=text).sample
    similarity = torch.cosine_similarity(answer.float().cpu().flatten(), noise.flatten(), dim=0)
    return bool(similarity > 0.5)
