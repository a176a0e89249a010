"""CLIP folders: our own, and those of transformers' `CLIPModel` as the hub distributes them.

config.json, model.safetensors or pytorch_model.bin, tokenizer.json or vocab.json with merges.txt,
preprocessor_config.json
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..files import PathLike, expanded, read_json
from ..models.clip import Clip, Preprocessing, PublishedClip
from ..models.save import build_exactly
from ..out_of_memory import check_ran_out
from ..quiet import check_docstrings, quiet_loading
from .formats.read import read_checkpoint
from .inspect import summarize

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PUBLISHED_AT = "https://huggingface.co/openai/clip-vit-base-patch32"
CONTENTS = (
    "expected transformers' CLIPModel: config.json, model.safetensors (or pytorch_model.bin), "
    "tokenizer.json (or vocab.json and merges.txt) and preprocessor_config.json, such as "
    f"{PUBLISHED_AT}"
)

# What shapes the networks. Whatever else a config.json says is for training, or names code.
_TOWER = (
    "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
    "num_attention_heads", "hidden_act", "layer_norm_eps",
)  # fmt: skip
_SECTIONS = {
    "text": (*_TOWER, "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id"),
    "vision": (*_TOWER, "num_channels", "image_size", "patch_size"),
}
_LAST_TOKEN_WINS = 2
"""An eos_token_id of this, which the first published files have, pools at the largest token id."""


def is_clip(folder: Path) -> bool:
    """Tell whether a folder says that it is one; it may be incomplete."""
    if (folder / "image.safetensors").is_file():
        return True
    config = folder / "config.json"
    return config.is_file() and _object(config).get("model_type") == "clip"


def read(folder: PathLike) -> Clip | PublishedClip:
    """Build the CLIP of a folder, as `load_clip` returns it."""
    check_docstrings()
    path = expanded(folder)
    if (path / "image.safetensors").is_file():
        return Clip.load(path)
    weights = _check_complete(path)
    config = _config(path / "config.json")
    preprocessing = _preprocessing(path / "preprocessor_config.json")
    if preprocessing.crop != config.vision_config.image_size:
        raise ValueError(
            f"{path}: preprocessor_config.json makes images of {preprocessing.crop} pixels, the "
            f"image tower takes {config.vision_config.image_size}; they belong to different models"
        )
    tokenizer = _tokenizer(path, config.text_config)
    return PublishedClip(_model(weights, config), tokenizer, preprocessing)


def _check_complete(folder: Path) -> Path:
    """Check that all files are there; return the one with the weights."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; as a CLIP give a folder: {CONTENTS}")
    missing = [
        name
        for name in ("config.json", "preprocessor_config.json")
        if not (folder / name).is_file()
    ]
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not weights:
        missing.append(" or ".join(WEIGHTS))
    if not (folder / "tokenizer.json").is_file():
        missing += [n for n in ("vocab.json", "merges.txt") if not (folder / n).is_file()]
    if missing:
        lacks = ", ".join(missing)
        raise FileNotFoundError(f"{folder} is no CLIP folder: it lacks {lacks}; {CONTENTS}")
    return weights[0]


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def _config(path: Path) -> CLIPConfig:
    from transformers import CLIPConfig

    content = _object(path)
    if content.get("model_type") != "clip":
        raise ValueError(
            f"{path} describes a model of type {content.get('model_type')!r:.80}, which is not "
            f"supported; {CONTENTS}"
        )
    kept: dict[str, Any] = {}
    for tower, names in _SECTIONS.items():
        # The first published files say some things only in a section of the second name.
        for section in (f"{tower}_config", f"{tower}_config_dict"):
            given = content.get(section)
            if isinstance(given, dict):
                kept[section] = {name: given[name] for name in names if name in given}
    if "projection_dim" in content:
        kept["projection_dim"] = content["projection_dim"]
    try:
        with quiet_loading():
            return CLIPConfig(**kept)
    except Exception as error:  # transformers checks values with a validator of its own errors
        raise ValueError(f"{path} describes no CLIP: {error}") from error


def _preprocessing(path: Path) -> Preprocessing:
    content = _object(path)
    size, crop = content.get("size", 224), content.get("crop_size", 224)
    if isinstance(size, dict):
        size = size.get("shortest_edge")
    if isinstance(crop, dict):
        crop = crop.get("height") if crop.get("height") == crop.get("width") else None
    mean = content.get("image_mean", (0.48145466, 0.4578275, 0.40821073))
    std = content.get("image_std", (0.26862954, 0.26130258, 0.27577711))
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    wanted = {
        "size must be a number of pixels for the shortest edge": _is_size(size),
        "crop_size must be a square no larger than size": _is_size(crop)
        and _is_size(size)
        and crop <= size,
        f"{', '.join(steps)} must be true": all(content.get(step, True) is True for step in steps),
        "resample must be 3 (bicubic)": content.get("resample", 3) == 3,
        "rescale_factor must be 1/255": _is_number(content.get("rescale_factor", 1 / 255))
        and math.isclose(content.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6),
        "image_mean must be three numbers": _is_color(mean),
        "image_std must be three numbers above 0": _is_color(std) and min(std) > 0,
    }
    problems = [rule for rule, holds in wanted.items() if not holds]
    if problems:
        raise ValueError(f"{path} is not supported: {'; '.join(problems)}")
    return Preprocessing(size, crop, tuple(mean), tuple(std))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_color(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))


def _tokenizer(folder: Path, config: Any) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    try:
        with quiet_loading():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged vocabulary raises almost anything
        check_ran_out(error, folder)
        raise ValueError(
            f"the tokenizer in {folder} could not be read: {type(error).__name__}: {error}"
        ) from error
    ends, size = config.eos_token_id, config.vocab_size
    if ends == _LAST_TOKEN_WINS:
        ends = size - 1
    if len(tokenizer) != size or tokenizer.eos_token_id != ends:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and ends texts with number "
            f"{tokenizer.eos_token_id}, config.json says {size} and {ends}; they belong to "
            "different models, or the tokenizer's files are incomplete"
        )
    return tokenizer


def _model(weights: Path, config: CLIPConfig) -> CLIPModel:
    """Build the network with exactly the tensors of the file.

    Not by `from_pretrained`, which draws weights that are missing, converts integers to weights and
    builds any number of layers that a config.json claims.
    """
    from transformers import CLIPModel

    checkpoint = read_checkpoint(weights)
    content = checkpoint.content
    if not isinstance(content, dict) or "logit_scale" not in content:
        raise ValueError(f"{weights} is {summarize(checkpoint)}; {CONTENTS}")
    tensors = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Tensor) and not _only_counts(str(key), value)
    }
    with quiet_loading():
        return build_exactly(CLIPModel, {"config": config}, tensors, str(weights))


def _only_counts(key: str, value: Tensor) -> bool:
    """Whether a tensor is the positions in order, which files before 2023 have."""
    return key.endswith(".embeddings.position_ids") and torch.equal(
        value.flatten(), torch.arange(value.numel(), dtype=value.dtype)
    )
