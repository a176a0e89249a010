"""The tokenizer of a single-file checkpoint, which brings none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..quiet import quiet_loading
from .parts import is_hub_id

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"  # the vocabulary of all three families
VOCABULARY = ("vocab.json", "merges.txt")
# OpenCLIP pads with token 0, CLIP with the end of the text.
PADS = {"1.x": ["<|endoftext|>"], "2.x": ["!"], "XL": ["<|endoftext|>", "!"]}


def load_tokenizers(family: str, path: Path, given: str | Path | None) -> dict[str, Any]:
    """The tokenizers of the single file `path`, as named parts of a pipeline.

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
        folder = _from_hub(str(given), path, advice, download=True)
    elif given is not None or beside.is_dir():
        folder = _complete(beside if given is None else Path(given).expanduser(), path, advice)
    else:
        folder = _from_hub(CLIP_TOKENIZER, path, advice, download=False)
    try:
        with quiet_loading():
            made = [
                CLIPTokenizer.from_pretrained(folder, pad_token=pad, local_files_only=True)
                for pad in PADS[family]
            ]
    except Exception as error:  # a damaged vocabulary raises almost anything
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


def _from_hub(name: str, path: Path, advice: str, *, download: bool) -> Path:
    """The folder of the hub's cache that holds the vocabulary."""
    from huggingface_hub import hf_hub_download

    try:
        # File by file: of a name that is not there transformers makes an empty tokenizer.
        found = [hf_hub_download(name, f, local_files_only=not download) for f in VOCABULARY]
    except Exception as error:  # the hub has a dozen kinds
        place = "on the hub" if download else "in the hub's cache"
        raise FileNotFoundError(
            f"no tokenizer for {path}: a single file has none, and {name} is not {place} "
            f"({type(error).__name__}). {advice}"
        ) from error
    return Path(found[0]).parent
