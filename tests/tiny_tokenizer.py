"""A CLIP byte-pair tokenizer of a few dozen tokens."""

from __future__ import annotations

import json
import string
from pathlib import Path

MERGES = ["h a", "i r</w>", "ha ir</w>", "w h", "o l", "ol d</w>", "e n</w>"]


def write_tokenizer(folder: Path, *, first: str = "", pad: str = "<|endoftext|>") -> dict[str, int]:
    """Write a CLIP byte-pair tokenizer by hand; returns its vocabulary.

    Args:
        first: a character to be token 0. pad: the token that fills up.
    """
    folder.mkdir(parents=True)
    symbols = string.ascii_lowercase + string.digits + ",."
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in MERGES)]
    tokens = [*first, *tokens]
    # The special tokens come last: an end-of-text id of 2 would switch CLIP to its legacy pooling.
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 16,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": pad,
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return vocab
