"""The teacher of a single-file checkpoint, which brings no tokenizer and no schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..checkpoints import stable_diffusion
from ..checkpoints.formats.read import read_checkpoint
from ..checkpoints.inspect import summarize
from ..checkpoints.ldm import UNET, VAE
from ..checkpoints.stable_diffusion import RESOLUTION, RESOLUTION_V, SUPPORTED, TIMESTEPS
from ..files import expanded
from ..hub.download import from_cache, from_hub
from ..hub.names import is_hub_id
from ..out_of_memory import check_ran_out
from ..quiet import quiet_loading
from .parts import Components, new_scheduler

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"  # the vocabulary of all three families
VOCABULARY = ("vocab.json", "merges.txt")
# OpenCLIP pads with token 0, CLIP with the end of the text.
PADS = {"1.x": ["<|endoftext|>"], "2.x": ["!"], "XL": ["<|endoftext|>", "!"]}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def load_single_file(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
) -> Components:
    """Load the parts of the Stable Diffusion file `path`; arguments as `from_pretrained`.

    Raises:
        FileNotFoundError: no such file, or no tokenizer; the message says what to provide.
        ValueError: a damaged file, one that holds something else, or tensors that are missing,
            unexpected or of the wrong shape (all are named).
    """
    path = expanded(path)
    checkpoint = read_checkpoint(path)
    family = stable_diffusion.family_of(checkpoint)
    if family is None:
        raise ValueError(
            f"{path} is no complete Stable Diffusion checkpoint: it holds {summarize(checkpoint)}. "
            f"Expected the U-Net ({UNET}*), VAE ({VAE}*) and text encoders (cond_stage_model.* or "
            f"conditioner.*) of {SUPPORTED}"
        )
    tokenizers = load_tokenizers(family, path, tokenizer)
    tensors = stable_diffusion.tensors_of(checkpoint)
    with quiet_loading():
        networks = stable_diffusion.build_networks(path, tensors, family, dtype)
    unet, vae = networks["unet"], networks["vae"]
    predicts = stable_diffusion.prediction_type(checkpoint, family, unet)
    resolution = (RESOLUTION_V if predicts == "v_prediction" else RESOLUTION)[family]
    unet.register_to_config(sample_size=resolution // 2 ** (len(vae.config.block_out_channels) - 1))
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    options = zero if "ztsnr" in tensors else {}
    return Components(
        scheduler=new_scheduler(SCHEDULE | options | {"prediction_type": predicts}),
        force_zeros_for_empty_prompt=family == "XL",
        **networks,
        **tokenizers,
    )


def load_tokenizers(family: str, path: Path, given: str | Path | None) -> dict[str, Any]:
    """Load the tokenizers of the single file `path`, as named parts of a pipeline.

    Args:
        given: a folder with the vocabulary, or a hub id, which may be downloaded. None looks for
            the folder tokenizer/ beside the file, then in the hub's cache.

    Raises:
        FileNotFoundError: no vocabulary; the message says what to provide. ValueError: a damaged
            one.
    """
    from transformers import CLIPTokenizer

    beside = path.parent / "tokenizer"
    advice = (
        f"Put CLIP's {' and '.join(VOCABULARY)} into {beside}, give tokenizer= a folder with them, "
        f"or give tokenizer={CLIP_TOKENIZER!r} to download them"
    )
    if given is not None and is_hub_id(given):
        try:
            folder = from_hub(str(given), lambda names: list(VOCABULARY), VOCABULARY[0])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no tokenizer for {path}: {error}. {advice}") from error
    elif given is not None or beside.is_dir():
        folder = _complete(beside if given is None else expanded(given), path, advice)
    elif found := from_cache(CLIP_TOKENIZER, VOCABULARY[0]):
        folder = _complete(found, path, advice)
    else:
        raise FileNotFoundError(
            f"no tokenizer for {path}: a single file has none, and {CLIP_TOKENIZER} is not in the "
            f"hub's cache. {advice}"
        )
    try:
        with quiet_loading():
            made = [
                CLIPTokenizer.from_pretrained(folder, pad_token=pad, local_files_only=True)
                for pad in PADS[family]
            ]
    except Exception as error:  # a damaged vocabulary raises almost anything
        check_ran_out(error, folder)
        # Without protobuf, transformers before 5.8 turns any damage into a request to install it.
        damage = error.__context__ if isinstance(error, ImportError) else None
        cause = damage or error
        raise ValueError(
            f"the tokenizer in {folder} could not be read: {type(cause).__name__}: {cause}. "
            + advice
        ) from error
    return dict(zip(["tokenizer", "tokenizer_2"], made, strict=False))


def _complete(folder: Path, path: Path, advice: str) -> Path:
    if (folder / "tokenizer").is_dir():  # a whole Stable Diffusion folder
        folder = folder / "tokenizer"
    missing = [name for name in VOCABULARY if not (folder / name).exists()]
    if missing and not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(
            f"no tokenizer for {path}: {folder} lacks {' and '.join(missing)}. {advice}"
        )
    return folder
