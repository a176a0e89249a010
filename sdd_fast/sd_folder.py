"""Reading a Stable Diffusion folder: check that it is complete, then load its five parts.

Weights are read from safetensors only, so loading never executes code that came with the weights.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .files import read_json
from .quiet import quiet_loading

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
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
}
CLASSES = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
}
CONTENTS = """A Stable Diffusion folder contains
  model_index.json                                          StableDiffusionPipeline
  vae/config.json, diffusion_pytorch_model.safetensors      AutoencoderKL
  unet/config.json, diffusion_pytorch_model.safetensors     UNet2DConditionModel
  text_encoder/config.json, model.safetensors               CLIPTextModel
  tokenizer/vocab.json, merges.txt (or tokenizer.json)      CLIPTokenizer
  scheduler/scheduler_config.json                           betas and prediction_type
as written by StableDiffusionPipeline.save_pretrained(folder, safe_serialization=True)."""


class Components(NamedTuple):
    """The parts of a Stable Diffusion pipeline, as diffusers and transformers objects."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: (
        Any  # always a DDIMScheduler, whatever sampler the folder names: only its betas matter
    )


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
    _check_classes(name, index)
    if local:
        _check_files(Path(name), variant)
    tokenizer_class = TOKENIZERS[index["tokenizer"][1]]
    with quiet_loading() if local else contextlib.nullcontext():
        with _explained(name, "scheduler"):
            scheduler = _load_scheduler(name, local)
        with _explained(name, "tokenizer"):
            tokenizer = _load_tokenizer(name, tokenizer_class, local)
        models = {}
        for part in WEIGHTS:
            with _explained(name, part):
                models[part] = _load_model(name, part, dtype, variant, local).to(device)
    return Components(tokenizer=tokenizer, scheduler=scheduler, **models)


def _is_local(source: str | Path) -> bool:
    path = Path(source).expanduser()
    if path.is_dir():
        return True
    if path.exists():
        raise ValueError(
            f"{path} is a file, expected a folder. Single-file checkpoints are not read; convert "
            "it with "
            f"StableDiffusionPipeline.from_single_file(path).save_pretrained(folder).\n{CONTENTS}"
        )
    # "runs/model" below an existing folder "runs" is a mistyped path, not a request to download.
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(source))
    if not isinstance(source, str) or hub_id is None or Path(source).parent.exists():
        raise FileNotFoundError(f"there is no folder {path}.\n{CONTENTS}")
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


def _check_classes(source: str, index: dict[str, Any]) -> None:
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(
            f"{source} holds a {pipeline!r} pipeline; supported are {', '.join(PIPELINES)} (SD "
            "1.x and 2.x)"
        )
    expected: dict[str, tuple[str, ...]] = {name: (c,) for name, c in CLASSES.items()}
    expected["tokenizer"] = tuple(TOKENIZERS)
    for name, classes in expected.items():
        entry = index.get(name)
        given = entry[1] if isinstance(entry, list | tuple) and len(entry) == 2 else None
        if given not in classes:
            raise ValueError(
                f"model_index.json of {source} gives {entry!r} as {name}; supported: "
                f"{' or '.join(classes)}"
            )


def _check_files(folder: Path, variant: str | None) -> None:
    missing = []
    for name, stem in WEIGHTS.items():
        part = folder / name
        if not (part / "config.json").exists():
            missing.append(f"{name}/config.json")
        suffix = f".{variant}" if variant else ""
        weights = f"{stem}{suffix}.safetensors"
        shards = f"{stem}.safetensors.index{suffix}.json"
        if not (part / weights).exists() and not (part / shards).exists():
            pickled = " (.bin weights are pickles, which can run code: convert to safetensors)"
            missing.append(f"{name}/{weights}" + (pickled if list(part.glob("*.bin")) else ""))
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "tokenizer.json").exists():
        missing += [
            f"tokenizer/{f}" for f in ("vocab.json", "merges.txt") if not (tokenizer / f).exists()
        ]
    if not (folder / "scheduler" / "scheduler_config.json").exists():
        missing.append("scheduler/scheduler_config.json")
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}.\n{CONTENTS}")


@contextlib.contextmanager
def _explained(source: str, part: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # Damaged files make the libraries raise almost anything; tokenizers even a plain Exception.
    except Exception as error:
        raise ValueError(
            f"could not load {part}/ of {source}: {type(error).__name__}: {error}\n"
            "It may be truncated, corrupt or of another model; write or download it "
            f"again.\n{CONTENTS}"
        ) from error


def _load_model(
    source: str, part: str, dtype: torch.dtype, variant: str | None, local: bool
) -> Any:
    options: dict[str, Any] = {
        "subfolder": part,
        "variant": variant,
        "use_safetensors": True,
        "local_files_only": local,
        "output_loading_info": True,
    }
    model: Any
    info: Any
    if part == "text_encoder":
        import transformers

        # transformers renamed its dtype option between versions; converting afterwards suits all of
        # them.
        loaded: Any = transformers.CLIPTextModel.from_pretrained(source, **options)
        model, info = loaded
        model.to(dtype)
    else:
        import diffusers
        from diffusers.utils import is_accelerate_available

        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
        model, info = getattr(diffusers, CLASSES[part]).from_pretrained(source, **options)
    # A weight left at its random initial value would only show as bad pictures.
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    if absent:
        raise ValueError(
            f"{len(absent)} weights are missing or of the wrong shape, e.g. {absent[0]!r}"
        )
    return model


def _load_tokenizer(source: str, class_name: str, local: bool) -> Any:
    import transformers

    return getattr(transformers, class_name).from_pretrained(
        source, subfolder="tokenizer", local_files_only=local
    )


def _load_scheduler(source: str, local: bool) -> Any:
    from diffusers import DDIMScheduler

    config = DDIMScheduler.load_config(source, subfolder="scheduler", local_files_only=local)
    if "beta_schedule" not in config:
        raise ValueError(
            f"scheduler {config.get('_class_name')!r} has no beta_schedule; supported are the "
            "schedulers of SD 1.x and 2.x (DDIM, PNDM, DDPM, Euler, DPM-Solver …), not flow "
            "matching"
        )
    known = inspect.signature(DDIMScheduler.__init__).parameters
    # Latents are not bounded by 1, so clipping x_0 (a default of DDIMScheduler) would damage
    # samples.
    kept = {k: v for k, v in config.items() if k in known} | {"clip_sample": False}
    return DDIMScheduler.from_config(kept)
