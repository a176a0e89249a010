"""Reading a Stable Diffusion folder: check that it is complete, then load its parts.

Nothing that came with the weights is executed: of pickles (`.bin`) only the tensors are read.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.stable_diffusion import A_LORA, A_VAE, PREDICTS, SUPPORTED
from ..files import expanded, read_json
from ..hub.download import from_hub
from ..hub.names import is_hub_id
from ..out_of_memory import check_ran_out
from ..quiet import check_docstrings, quiet_loading
from .configs import Configs, check_configs, completed, native_size, scheduler_config
from .parts import Components, new_scheduler
from .weights import CLASSES, build_network, choose, plain_name, read_weights, shards, variants

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
INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler/scheduler_config.json"
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
"""What a folder must hold, for messages."""


def load_components(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Components:
    """Load the parts of the Stable Diffusion folder, or hub id, `source`.

    The path of a model_index.json means its folder. A name that is no folder and has the form
    "owner/name" is taken as a hub id and downloaded (or found in the hub's cache). Nothing is
    downloaded for anything else.

    Raises:
        FileNotFoundError: no such folder, or files are missing from it; the message lists the
            contents expected.
        ValueError: a file is corrupt, weights do not fit their config, or the pipeline, a part of
            it, something that its configs say or the prediction type is of an unsupported kind;
            the message lists what is supported.
    """
    folder = _find(source, variant)
    index = _read_object(folder / INDEX)
    xl = check_classes(str(folder), index)
    weights = _check_complete(folder, xl, variant)
    check_folder(folder, xl)
    described = _read_object(folder / SCHEDULER)
    if "prediction_type" not in described:
        warnings.warn(
            f"{folder / SCHEDULER} does not state prediction_type: epsilon is taken, the default. "
            "If the model predicts v, write that into it; its guidance is wrong otherwise",
            stacklevel=6,  # the caller of DiffusionPrior.from_pretrained
        )
    with quiet_loading():
        with _explained(folder, "scheduler"):
            scheduler = new_scheduler(described)
        parts = {}
        for part in _tokenizers(xl):
            with _explained(folder, part):
                parts[part] = _load_tokenizer(folder / part, index[part][1])
        for part in _networks(xl):
            with _explained(folder, part):
                parts[part] = load_network(part, folder / part, weights[part], dtype)
    blank = bool(index.get("force_zeros_for_empty_prompt", xl))
    return Components(scheduler=scheduler, force_zeros_for_empty_prompt=blank, **parts)


def parts_of(pipeline: Any, dtype: torch.dtype | None) -> Components:
    """Take the parts of a pipeline of diffusers, cast in place to `dtype` unless it is None.

    Raises:
        TypeError: it is no pipeline. ValueError: it is one that is not supported.
    """
    if not hasattr(type(pipeline), "components"):
        raise TypeError(
            "a teacher is given as a path, a hub id or a pipeline of diffusers, got "
            f"{type(pipeline).__name__}"
        )
    names = [kind.__name__ for kind in type(pipeline).__mro__]  # classes made of these count too
    known = next((name for name in names if name in PIPELINES), names[0])
    index = {**getattr(pipeline, "config", {}), "_class_name": known}
    xl = check_classes(f"the {names[0]}", index)
    parts = {name: getattr(pipeline, name) for name in (*_networks(xl), *_tokenizers(xl))}
    for name in _networks(xl) if dtype is not None else ():
        parts[name].to(dtype)
    blank = bool(index.get("force_zeros_for_empty_prompt", xl))
    return Components(scheduler=pipeline.scheduler, force_zeros_for_empty_prompt=blank, **parts)


def load_network(
    part: str,
    folder: Path,
    weights: list[str],
    dtype: torch.dtype,
    usual: Mapping[str, Any] | None = None,
) -> Any:
    """Load a network from its config.json, with `usual` for what that leaves out, and weights.

    Raises:
        ValueError: as of `build_network`.
    """
    config = {**(usual or {}), **_read_object(folder / CONFIG)}
    named = config.get("_class_name", CLASSES[part])
    if named != CLASSES[part]:
        raise ValueError(f"{folder / CONFIG} is of class {named}; expected {CLASSES[part]}")
    return build_network(part, config, read_weights(folder, weights), dtype)


def _load_tokenizer(folder: Path, named: str) -> Any:
    import transformers

    tokenizer = getattr(transformers, TOKENIZERS[named])
    return tokenizer.from_pretrained(folder, local_files_only=True)


def _networks(xl: bool) -> list[str]:
    return [part for part in CLASSES if xl or part != "text_encoder_2"]


def _tokenizers(xl: bool) -> list[str]:
    return ["tokenizer", "tokenizer_2"] if xl else ["tokenizer"]


def _find(source: str | Path, variant: str | None) -> Path:
    """Return the folder of a path or hub id, of which everything needed is downloaded."""
    path = expanded(source)
    if path.name == INDEX and path.is_file():
        return path.parent
    if not path.is_dir() and is_hub_id(source):
        return _download(str(source), variant)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder or file {path}.\n{CONTENTS}")
    if not (path / INDEX).exists():
        kin = kin_of_folder(path)
        raise FileNotFoundError(
            f"{path} has no {INDEX}{': it holds ' + kin if kin else ''}.\n{CONTENTS}"
        )
    return path


def _download(name: str, variant: str | None) -> Path:
    """Download what a teacher needs of a hub id: its weights only after its configs are checked."""

    def described(names: list[str]) -> list[str]:
        parts = (*_networks(xl=True), *_tokenizers(xl=True), "scheduler")
        return [INDEX] + [
            file
            for file in names
            if file.startswith(tuple(f"{part}/" for part in parts))
            and file.endswith((".json", ".txt"))
            and ".index." not in file
        ]

    def needed(names: list[str]) -> list[str]:
        weights = []
        for part in _networks(xl):
            inside = [
                file.removeprefix(f"{part}/") for file in names if file.startswith(f"{part}/")
            ]
            weights += [f"{part}/{file}" for file in choose(inside, part, variant) or ()]
        return described(names) + weights

    folder = from_hub(name, described, INDEX)
    if not (folder / INDEX).exists():
        raise FileNotFoundError(f"the hub's {name} has no {INDEX}.\n{CONTENTS}")
    xl = check_classes(name, _read_object(folder / INDEX))
    check_folder(folder, xl)
    return from_hub(name, needed, INDEX)


def kin_of_folder(folder: Path) -> str | None:
    """Say what a folder holds that goes with a teacher, and how it is given; None if nothing."""
    adapters = ("pytorch_lora_weights.safetensors", "adapter_config.json")
    if any((folder / name).exists() for name in adapters):
        return A_LORA
    try:
        named = _read_object(folder / CONFIG).get("_class_name")
    except (OSError, ValueError):
        return None
    return A_VAE if named == CLASSES["vae"] else f"a network alone ({named})" if named else None


def check_classes(source: str, index: Mapping[str, Any]) -> bool:
    """Tell whether a model_index.json is of SDXL; ValueError if of nothing that is supported."""
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(
            f"{source} holds a pipeline of class {pipeline!r}; supported are "
            f"{', '.join(PIPELINES)} ({SUPPORTED})"
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


def _check_complete(folder: Path, xl: bool, variant: str | None) -> dict[str, list[str]]:
    """Check that the folder is complete; return the weight files of each network to load."""
    missing, chosen, asked = [], {}, False
    for part in _networks(xl):
        if not (folder / part / CONFIG).exists():
            missing.append(f"{part}/{CONFIG}")
        names = _names(folder / part)
        there = variants(names, part)
        asked |= any(kind == variant for _, kind in there)
        found = choose(names, part, variant)
        if found is None:
            kinds = ", ".join(f"variant={k!r}" if k else "no variant" for _, k in there)
            missing.append(f"{part}/{plain_name(part)}" + (f" (there is: {kinds})" * bool(kinds)))
            continue
        chosen[part] = found
        lost = [name for name in shards(folder / part, found) if name not in names]
        missing += [f"{part}/{name}" for name in lost]
    for part in _tokenizers(xl):
        if not (folder / part / "tokenizer.json").exists():
            needed = [f"{part}/{name}" for name in ("vocab.json", "merges.txt")]
            missing += [name for name in needed if not (folder / name).exists()]
    if not (folder / SCHEDULER).exists():
        missing.append(SCHEDULER)
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}.\n{CONTENTS}")
    if variant and not asked:
        raise FileNotFoundError(f"{folder} has no weights of the variant {variant!r} in any part")
    return chosen


def check_folder(folder: Path, xl: bool) -> Configs:
    """Return a folder's configs; ValueError if one says what is not supported. Reads no weights."""
    check_docstrings()
    import diffusers
    import transformers

    found: dict[str, Any] = {}
    for part in ("unet", "vae", "scheduler", *(p for p in _networks(xl) if p.startswith("text"))):
        with _explained(folder, part):
            config = _read_object(
                folder / (SCHEDULER if part == "scheduler" else f"{part}/{CONFIG}")
            )
            if part == "scheduler":
                found[part] = scheduler_config(config)
            elif part in ("unet", "vae"):
                found[part] = completed(config, getattr(diffusers, CLASSES[part]))
            else:
                found[part] = transformers.CLIPTextConfig(**config)
    texts = [found[part] for part in found if part.startswith("text")]
    configs = Configs(found["unet"], found["vae"], texts, found["scheduler"])
    try:
        check_configs(configs)
        new_scheduler(configs.scheduler)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{folder}: a config has values of the wrong type: {error}") from error
    return configs


@contextlib.contextmanager
def _explained(source: Path, part: str) -> Iterator[None]:
    try:
        yield
    # Damaged files make the libraries raise almost anything; tokenizers even a plain Exception.
    except Exception as error:
        check_ran_out(error, f"{part}/ of {source}")
        raise ValueError(
            f"could not load {part}/ of {source}: {type(error).__name__}: {error}\n"
            "It may be truncated, corrupt or of another model; write or download it "
            f"again.\n{CONTENTS}"
        ) from error


def describe_folder(folder: Path) -> dict[str, Any]:
    """Describe a Stable Diffusion folder for `sdd info`, from its JSON files and file names.

    What is described as a teacher has passed the checks of `load_components` but for its weights.
    """
    index = _read_object(folder / INDEX)
    facts: dict[str, Any] = {"pipeline": index.get("_class_name")}
    try:
        xl = check_classes(str(folder), index)
        facts |= _lacking(folder, xl)
        unet, vae, _, scheduler = check_folder(folder, xl)
    except ValueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return facts  # which say that it is incomplete
        return facts | {"teacher": f"not supported: {str(error).splitlines()[0]}"}
    family = "XL" if xl else "2.x" if unet["use_linear_projection"] else "1.x"
    side = native_size(unet["sample_size"])
    pixels = side * 2 ** (len(vae["block_out_channels"]) - 1)
    predicts = PREDICTS[scheduler["prediction_type"]]
    if "prediction_type" not in _read_object(folder / SCHEDULER):
        predicts += " (not stated, the default)"
    there = variants(_names(folder / "unet"), "unet")
    named = ", ".join((kind or "plain") + " (.bin)" * (c == "bin") for c, kind in there)
    return facts | {
        "teacher": f"Stable Diffusion {family} architecture, folder of diffusers, {pixels} × "
        f"{pixels}, {predicts}",
        "resolution": f"{pixels} pixels",
        "prediction": scheduler["prediction_type"],
        "latents": f"{vae['latent_channels']} × {side} × {side}",
        "timesteps": scheduler["num_train_timesteps"],
        "weights": named or "none",
    }


def _lacking(folder: Path, xl: bool) -> dict[str, str]:
    try:
        _check_complete(folder, xl, None)
    except FileNotFoundError as error:
        return {"incomplete": str(error).splitlines()[0]}
    return {}


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path, infinite=True)  # diffusers writes such bounds of log SNR
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return content
