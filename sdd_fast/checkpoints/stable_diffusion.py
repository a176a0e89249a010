"""Stable Diffusion from a single `.safetensors` or `.ckpt` file in the original layout (`ldm`).

Nothing in the file is executed and nothing is downloaded: the architecture is told from the
tensors, and what no tensor tells is the same for every model of a family, but for the prediction
type of SD 2.x, which is measured. diffusers renames the tensors. Its `from_single_file` leaves a
weight that is missing at its random initial value and drops one that it does not know; here both
are errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from . import ldm
from .formats.read import Checkpoint

SUPPORTED = "Stable Diffusion 1.x, 2.x and XL base, for text to image"
RESOLUTION = {"1.x": 512, "2.x": 512, "XL": 1024}
RESOLUTION_V = RESOLUTION | {"2.x": 768}  # SD 2.x was published as ε at 512 and as v at 768
SCALING_FACTOR = {"1.x": 0.18215, "2.x": 0.18215, "XL": 0.13025}
TIMESTEPS = 1000
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
        return {"teacher": f"not supported: {error}"}
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


def kin(checkpoint: Checkpoint) -> str | None:
    """Name what is there of an incomplete or other diffusion model; None if nothing is."""
    keys = tensors_of(checkpoint)
    if "conditioner.embedders.0.model.token_embedding.weight" in keys:
        return "an SDXL refiner, which only finishes what the base model began"
    parts: dict[str, str | tuple[str, ...]] = {
        "a U-Net": ldm.UNET + "input_blocks.",
        "a VAE": ldm.VAE,
        "text encoders": ("cond_stage_model.", "conditioner."),
        "a U-Net of diffusers' folder layout (give the folder)": "down_blocks.",
        "a transformer, as SD3 and Flux have": (
            *(ldm.UNET + name for name in ("joint_blocks.", "double_blocks.")),
            "joint_blocks.",
            "double_blocks.",
        ),
        "a LoRA": ("lora_unet_", "lora_te"),
    }
    found = [name for name, start in parts.items() if any(k.startswith(start) for k in keys)]
    return " and ".join(found) or None


# ── networks ──────────────────────────────────────────────────────────────────────────────────────


def build_networks(
    path: Path, tensors: Mapping[str, Tensor], family: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Build the networks of a pipeline, by their names as parts, with the weights of a file.

    Args:
        path: of the file, for messages. tensors: all that it holds, by their original names.
        family: "1.x", "2.x" or "XL". dtype: of the networks.

    Raises:
        ValueError: tensors are missing, unexpected or of the wrong shape; all are named.
    """
    tensors = {key: value for key, value in tensors.items() if not ldm.IGNORED.fullmatch(key)}
    try:
        configs = _configs(_shapes(tensors), family)
        networks = _outlines(configs)
        if family == "2.x":
            tensors = _without_last_layer(tensors, configs["text_encoder"]["num_hidden_layers"])
        states = {
            name: _converted(name, prefix, tensors, networks[name])
            for name, prefix in ldm.PREFIXES[family].items()
        }
    except KeyError as error:
        raise ValueError(f"{path} lacks the tensor {error.args[0]}; it may be incomplete") from None
    except Exception as error:  # the libraries raise almost anything for shapes that make no sense
        raise ValueError(
            f"{path} does not fit Stable Diffusion: {error or type(error).__name__}; supported: "
            f"{SUPPORTED}"
        ) from error
    problems = [
        problem for name in states for problem in _fill(networks[name], states[name], name, dtype)
    ]
    problems += _unused(tensors, states.values())
    if problems:
        raise ValueError(
            f"{path} does not fit Stable Diffusion ({len(problems)} of its tensors):\n  "
            + "\n  ".join(problems)
        )
    return networks


def _configs(shapes: ldm.Shapes, family: str) -> dict[str, dict[str, Any]]:
    configs = {"unet": ldm.unet_config(shapes), "vae": ldm.vae_config(shapes)}
    configs["vae"]["scaling_factor"] = SCALING_FACTOR[family]
    if family == "1.x":
        configs["text_encoder"] = ldm.clip_config(shapes, ldm.CLIP)
    elif family == "2.x":
        # What precedes the last layer is used, so SD 2.x's text encoder ends there.
        configs["text_encoder"] = ldm.open_clip_config(shapes, ldm.OPEN_CLIP, layers_left_out=1)
    else:
        configs["text_encoder"] = ldm.clip_config(shapes, ldm.CLIP_XL)
        configs["text_encoder_2"] = ldm.open_clip_config(
            shapes, ldm.OPEN_CLIP_XL, layers_left_out=0
        )
    return configs


def _outlines(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the networks on the meta device: their weights are to be assigned."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        networks: dict[str, Any] = {
            "unet": UNet2DConditionModel(**configs["unet"]),
            "vae": AutoencoderKL(**configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }
        if "text_encoder_2" in configs:
            config = CLIPTextConfig(**configs["text_encoder_2"])
            networks["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return networks


def _without_last_layer(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Leave out what SD 2.x does not use of OpenCLIP: the layer after the first `layers`."""
    left_out = f"{ldm.OPEN_CLIP}transformer.resblocks.{layers}.", ldm.OPEN_CLIP + "text_projection"
    return {key: value for key, value in tensors.items() if not key.startswith(left_out)}


class _Traced:
    """A tensor on its way through diffusers' conversion, which knows its name in the file."""

    def __init__(self, tensor: Tensor, origin: str) -> None:
        self.tensor, self.origin = tensor, origin

    def _of(self, result: Any) -> Any:
        return _Traced(result, self.origin) if isinstance(result, Tensor) else result

    def __getitem__(self, index: Any) -> _Traced:
        try:
            return _Traced(self.tensor[index], self.origin)
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
) -> dict[str, _Traced]:
    """Convert the tensors at `prefix`, to diffusers' names; what is missing is left out."""
    from diffusers.loaders import single_file_utils as diffusers

    given: dict[str, Any] = {
        key: _Traced(value, key) for key, value in tensors.items() if key.startswith(prefix)
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
    return {key.removeprefix("text_model."): t for key, t in state.items() if t is not None}


def _fill(
    network: nn.Module, state: Mapping[str, _Traced], name: str, dtype: torch.dtype
) -> list[str]:
    """Assign the weights of a network, and list what does not fit, by diffusers' names."""
    problems, weights = [], {}
    unknown = dict(state)
    for key, empty in network.state_dict().items():
        if key.endswith("position_ids"):
            continue
        plain = key.removeprefix("text_model.")  # which transformers left out from 5.6 on
        found = unknown.pop(plain, None)
        if found is None:
            problems.append(f"missing: {name}.{plain}")
        elif found.tensor.shape != empty.shape:
            problems.append(
                f"shape of {found.origin}: the file has {list(found.tensor.shape)}, {name}.{plain} "
                f"is {list(empty.shape)}"
            )
        else:
            weights[key] = found.tensor.to(dtype).contiguous()
    problems += [f"unexpected: {traced.origin}" for traced in unknown.values()]
    if not problems:
        network.load_state_dict(weights, strict=False, assign=True)
        _fill_positions(network)
    return problems


def _unused(tensors: Mapping[str, Tensor], states: Iterable[Mapping[str, _Traced]]) -> list[str]:
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
