"""Words of a prompt that a small diffusion model cannot know."""

from __future__ import annotations

import re
from typing import Any

SMALL_VOCABULARY = 10_000
"""Tokenizers at least this large cover general language; splitting a word means nothing there."""


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """Words that no caption of the model's training held, in order, each once.

    A byte-pair tokenizer learned from captions keeps every word of theirs as one token, and takes
    other words apart. Tokenizers of general language know any word: [] for them.

    Args:
        tokenizer: of transformers, as `DiffusionPrior.tokenizer`.
    """
    if len(tokenizer) >= SMALL_VOCABULARY:
        return []
    words = dict.fromkeys(re.findall(r"[^\W\d_]+", prompt.lower()))
    return [word for word in words if len(tokenizer.tokenize(word)) > 1]
