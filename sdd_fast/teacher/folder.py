"""Reading a Stable Diffusion folder: check that it is complete, then load its parts.

Weights are read from safetensors only, so loading never executes code that came with the weights.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.stable_diffusion import PREDICTS, SUPPORTED
from ..files import read_json
from ..quiet import quiet_loading
from .parts import Components, is_hub_id, native_size

# Pipeline named in model_index.json → whether it is SDXL.
PIPELINES = {
    "StableDiffusionPipeline": False,
    "StableDiffusionImg2ImgPipeline": False,
    "StableDiffusionXLPipeline": True,
    "StableDiffusionXLImg2ImgPipeline": True,
}
# Class named in model_index.json → class that loads it; both CLIP tokenizers read the same files.
TOKENIZERS = {
    "CLIPTokenizer": "CLIPTokenizer",
    "CLIPTokenizerFast": "CLIPTokenizer",
    "PreTrainedTokenizerFast": "PreTrainedTokenizerFast",
}
WEIGHTS = {
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
CLASSES = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
ONLY_A_VARIANT = " If the repository has only the weights of a variant, name it: variant='fp16'."
CONTENTS = """A Stable Diffusion folder contains
  model_index.json                                          StableDiffusionPipeline
  vae/config.json, diffusion_pytorch_model.safetensors      AutoencoderKL
  unet/config.json, diffusion_pytorch_model.safetensors     UNet2DConditionModel
  text_encoder/config.json, model.safetensors               CLIPTextModel
  tokenizer/vocab.json, merges.txt (or tokenizer.json)      CLIPTokenizer
  scheduler/scheduler_config.json                           betas and prediction_type
and of SDXL (StableDiffusionXLPipeline) also
  text_encoder_2/config.json, model.safetensors             CLIPTextModelWithProjection
  tokenizer_2/vocab.json, merges.txt (or tokenizer.json)    CLIPTokenizer
as written by save_pretrained(folder, safe_serialization=True) of the pipeline."""


def load_components(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> Components:
    """Load the parts of the Stable Diffusion folder, or hub id, `source`.

    A name that is no folder and has the form "owner/name" is taken as a hub id and downloaded (or
    found in the hub's cache). Nothing is downloaded for anything else.

    Raises:
        FileNotFoundError: no such folder, or files are missing from it; the message lists the
            contents expected.
        ValueError: a file is corrupt, weights do not fit their config, or the pipeline, a part of
            it or the prediction type is of an unsupported kind; the message lists what is
            supported.
    """
    local = _is_local(source)
    name = str(Path(source).expanduser()) if local else str(source)
    index = _read_index(name, local)
    xl = _check_classes(name, index)
    variants = _choose_weights(Path(name), xl, variant) if local else {}
    import transformers  # takes seconds: what is wrong with the folder is said before

    with quiet_loading() if local else contextlib.nullcontext():
        with _explained(name, "scheduler"):
            scheduler = _load_scheduler(name, local)
        parts = {}
        for part in _tokenizers(xl):
            with _explained(name, part):
                tokenizer = getattr(transformers, TOKENIZERS[index[part][1]])
                parts[part] = tokenizer.from_pretrained(
                    name, subfolder=part, local_files_only=local
                )
        for part in _networks(xl):
            with _explained(name, part, "" if local or variant else ONLY_A_VARIANT):
                chosen = variants.get(part, variant)
                parts[part] = _load_model(name, part, dtype, chosen, local).to(device)
    blank = bool(index.get("force_zeros_for_empty_prompt", xl))
    return Components(scheduler=scheduler, force_zeros_for_empty_prompt=blank, **parts)


def _networks(xl: bool) -> list[str]:
    return [part for part in WEIGHTS if xl or part != "text_encoder_2"]


def _tokenizers(xl: bool) -> list[str]:
    return ["tokenizer", "tokenizer_2"] if xl else ["tokenizer"]


def _is_local(source: str | Path) -> bool:
    path = Path(source).expanduser()
    if path.is_dir():
        return True
    if not is_hub_id(source):
        raise FileNotFoundError(f"there is no folder or file {path}.\n{CONTENTS}")
    return False


def _read_index(source: str, local: bool) -> dict[str, Any]:
    if local:
        path = Path(source) / "model_index.json"
        if not path.exists():
            raise FileNotFoundError(f"{path.parent} has no model_index.json.\n{CONTENTS}")
        index = read_json(path)
    else:
        from diffusers import DiffusionPipeline

        try:
            index = DiffusionPipeline.load_config(source)
        except OSError as error:
            raise FileNotFoundError(
                f"there is no folder {source!r}, and the hub id {source!r} could not be read: "
                f"{error}"
            ) from error
    if not isinstance(index, dict):
        raise ValueError(f"model_index.json of {source} must hold an object.\n{CONTENTS}")
    return dict(index)


def _check_classes(source: str, index: dict[str, Any]) -> bool:
    """Tell whether this is SDXL; ValueError if it is nothing that is supported."""
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(
            f"{source} holds a {pipeline!r} pipeline; supported are {', '.join(PIPELINES)} "
            f"({SUPPORTED})"
        )
    xl = PIPELINES[pipeline]
    if index.get("requires_aesthetics_score"):
        raise ValueError(
            f"{source} is an SDXL refiner, which only finishes what the base model began; "
            f"supported: {SUPPORTED}"
        )
    expected: dict[str, tuple[str, ...]] = {name: (CLASSES[name],) for name in _networks(xl)}
    expected |= {name: tuple(TOKENIZERS) for name in _tokenizers(xl)}
    for name, classes in expected.items():
        entry = index.get(name)
        given = entry[1] if isinstance(entry, list | tuple) and len(entry) == 2 else None
        if given not in classes:
            raise ValueError(
                f"model_index.json of {source} gives {entry!r} as {name}; supported: "
                f"{' or '.join(classes)}"
            )
    return xl


def _choose_weights(folder: Path, xl: bool, variant: str | None) -> dict[str, str | None]:
    """Check that the folder is complete; return the variant of each network's weights to load."""
    missing, chosen = [], {}
    for part in _networks(xl):
        if not (folder / part / "config.json").exists():
            missing.append(f"{part}/config.json")
        there = weight_variants(folder / part, WEIGHTS[part])
        requested = variant or ""
        if variant is None and "" not in there and len(there) == 1:
            requested = next(iter(there))
        if requested in there:
            chosen[part] = requested or None
            missing += [f"{part}/{shard}" for shard in there[requested]]
        else:
            suffix = f".{requested}" if requested else ""
            missing.append(
                f"{part}/{WEIGHTS[part]}{suffix}.safetensors" + _advice(folder / part, there)
            )
    for part in _tokenizers(xl):
        if not (folder / part / "tokenizer.json").exists():
            needed = [f"{part}/{name}" for name in ("vocab.json", "merges.txt")]
            missing += [name for name in needed if not (folder / name).exists()]
    if not (folder / "scheduler" / "scheduler_config.json").exists():
        missing.append("scheduler/scheduler_config.json")
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}.\n{CONTENTS}")
    return chosen


def weight_variants(folder: Path, stem: str) -> dict[str, list[str]]:
    """List the variants of weights in `folder` ("" is the plain one), each with missing shards."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob(f"{stem}*")):
        name = path.name.removeprefix(stem)
        if single := re.fullmatch(r"(?:\.(\w+))?\.safetensors", name):
            found[single[1] or ""] = []
        elif index := re.fullmatch(r"\.safetensors\.index(?:\.(\w+))?\.json", name):
            content = read_json(path)
            weights = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(weights, dict) or not all(
                isinstance(s, str) for s in weights.values()
            ):
                raise ValueError(f"{path} must name the file of each weight in weight_map")
            shards = sorted(set(weights.values()))
            missing = [shard for shard in shards if not (folder / shard).exists()]
            found.setdefault(index[1] or "", missing)
    return found


def _advice(folder: Path, there: dict[str, list[str]]) -> str:
    if there:
        names = ", ".join(f"variant={name!r}" if name else "no variant" for name in there)
        return f" (there is: {names})"
    if list(folder.glob("*.bin")):
        return " (.bin weights are pickles, which can run code: convert to safetensors)"
    return ""


@contextlib.contextmanager
def _explained(source: str, part: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # Damaged files make the libraries raise almost anything; tokenizers even a plain Exception.
    except Exception as error:
        raise ValueError(
            f"could not load {part}/ of {source}: {type(error).__name__}: {error}\n"
            "It may be truncated, corrupt or of another model; write or download it "
            f"again.{hint}\n{CONTENTS}"
        ) from error


def _load_model(
    source: str, part: str, dtype: torch.dtype, variant: str | None, local: bool
) -> Any:
    import diffusers
    import transformers
    from diffusers.utils import is_accelerate_available

    options: dict[str, Any] = {
        "subfolder": part,
        "variant": variant,
        "use_safetensors": True,
        "local_files_only": local,
        "output_loading_info": True,
    }
    if part.startswith("text_encoder"):
        network: Any = getattr(transformers, CLASSES[part])
        options["dtype"] = dtype
    else:
        network = getattr(diffusers, CLASSES[part])
        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
    model, info = network.from_pretrained(source, **options)
    # A weight left at its random initial value would only show as bad images.
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    unused = [key for key in info["unexpected_keys"] if not key.endswith(".position_ids")]
    if absent or unused:
        lines = [f"missing or of the wrong shape: {key}" for key in absent]
        lines += [f"unexpected: {key}" for key in unused]
        raise ValueError("its weights do not fit its config:\n  " + "\n  ".join(lines))
    return model


def _load_scheduler(source: str, local: bool) -> Any:
    from diffusers import DDIMScheduler

    config = DDIMScheduler.load_config(source, subfolder="scheduler", local_files_only=local)
    continuous = config.get("timestep_type") == "continuous"
    if "beta_schedule" not in config or continuous:
        lack = "continuous timesteps" if continuous else "no beta_schedule"
        raise ValueError(
            f"scheduler {config.get('_class_name')!r} has {lack}; supported are the schedulers of "
            f"{SUPPORTED} (DDIM, PNDM, DDPM, Euler, DPM-Solver …), not flow matching nor EDM"
        )
    known = inspect.signature(DDIMScheduler.__init__).parameters
    # Latents are not bounded by 1, so clipping x_0 (a default of DDIMScheduler) would damage
    # samples.
    kept = {k: v for k, v in config.items() if k in known} | {"clip_sample": False}
    return DDIMScheduler.from_config(kept)


def describe_folder(folder: Path) -> dict[str, str]:
    """Describe a Stable Diffusion folder for `sdd info`, from its JSON files alone."""
    index = _read_config(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES or index.get("requires_aesthetics_score"):
        what = "an SDXL refiner" if pipeline in PIPELINES else f"a {pipeline}"
        return {"teacher": f"{what}, which is not supported; supported: {SUPPORTED}"}
    unet, vae, scheduler = (
        _read_config(folder / name)
        for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    )
    if PIPELINES[pipeline]:
        family = "XL"
    else:
        family = "2.x" if unet.get("use_linear_projection") else "1.x"
    parts = [f"Stable Diffusion {family} architecture", "folder of diffusers"]
    if unet.get("sample_size") and vae.get("block_out_channels"):
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        parts.append("{0} × {0}".format(native_size(unet["sample_size"]) * factor))
    predicts = scheduler.get("prediction_type", "epsilon")
    parts.append(PREDICTS.get(predicts, f"{predicts!r} prediction, which is not supported"))
    there = weight_variants(folder / "unet", WEIGHTS["unet"])
    variants = ", ".join(variant or "plain" for variant in there)
    return {"teacher": ", ".join(parts), "weights": variants or "no safetensors"}


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return config
