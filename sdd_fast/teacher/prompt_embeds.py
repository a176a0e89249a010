"""Texts as the U-Net sees them: token embeddings, and for SDXL a pooled vector beside them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeds:
    """Text encoded once, to be reused for every image and timestep.

    Args:
        cond: [P, S, D] embeddings of the prompts (S tokens, D = the U-Net's cross_attention_dim).
        uncond: [1, S, D] or [P, S, D] embeddings of the negative prompt(s), usually of "".
        prompts: the P texts, for records and messages.
        negative_prompt: the negative prompt, if there is a single one.
        pooled, uncond_pooled: [P, E] and [1, E] or [P, E], one vector for each text; SDXL only.
    """

    cond: Tensor
    uncond: Tensor
    prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    pooled: Tensor | None = None
    uncond_pooled: Tensor | None = None

    def expand(self, batch: int) -> tuple[Tensor, Tensor]:
        """(cond, uncond), each [batch, S, D]: one prompt serves all rows, or each has its own."""
        return _expand(self.cond, batch, "prompts"), _expand(self.uncond, batch, "negative prompts")

    def expand_pooled(self, batch: int) -> tuple[Tensor, Tensor]:
        """(pooled, uncond_pooled), each [batch, E].

        Raises:
            ValueError: there are none, because an SD 1.x or 2.x teacher made these embeddings.
        """
        if self.pooled is None or self.uncond_pooled is None:
            raise ValueError(
                "these prompt embeddings have no pooled vector, which SDXL needs; make them with "
                "encode_prompt of the same teacher"
            )
        return (
            _expand(self.pooled, batch, "prompts"),
            _expand(self.uncond_pooled, batch, "negative prompts"),
        )


def _expand(rows: Tensor, batch: int, what: str) -> Tensor:
    if rows.shape[0] not in (1, batch):
        raise ValueError(
            f"got {rows.shape[0]} {what} for a batch of {batch}; expected 1 or {batch}"
        )
    return rows.expand(batch, *rows.shape[1:])


def read_texts(texts: str | Sequence[str], name: str) -> list[str]:
    """One text or several → a list. TypeError if one is no text."""
    result = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) for text in result):
        raise TypeError(f"{name} must be a string or a list of strings, got {texts!r}")
    return result


def encode_texts(texts: list[str], tokenizer: Any, text_encoder: Any) -> Tensor:
    """SD 1.x and 2.x: [P, S, D], the text encoder's last hidden state after its final norm."""
    ids, mask = _tokenize(texts, tokenizer, text_encoder)
    with torch.no_grad():
        return text_encoder(ids, attention_mask=mask)[0]


def encode_texts_xl(
    texts: list[str], encoders: Sequence[tuple[Any, Any]], *, blank: bool
) -> tuple[Tensor, Tensor]:
    """SDXL: [P, S, D1 + D2], the penultimate hidden states of both encoders, and [P, E].

    Args:
        encoders: (tokenizer, text encoder) twice; the second encoder gives the pooled vector.
        blank: "" becomes zeros (`force_zeros_for_empty_prompt` of model_index.json).
    """
    hidden = []
    for tokenizer, text_encoder in encoders:
        ids, _ = _tokenize(texts, tokenizer, text_encoder)
        with torch.no_grad():
            out = text_encoder(ids, output_hidden_states=True)
        hidden.append(out.hidden_states[-2])
        pooled = out[0]
    tokens = torch.cat(hidden, dim=-1)
    if blank:
        written = torch.tensor([float(text != "") for text in texts]).to(tokens)
        tokens, pooled = tokens * written[:, None, None], pooled * written[:, None]
    return tokens, pooled


def _tokenize(texts: list[str], tokenizer: Any, text_encoder: Any) -> tuple[Tensor, Tensor | None]:
    # A tokenizer saved without a length reports an astronomically large one.
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    tokens = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    whole = tokenizer(texts, verbose=False).input_ids
    for text, row in zip(texts, whole, strict=True):
        if len(row) > length:
            warnings.warn(
                f"the prompt {text!r} has {len(row)} tokens; only {length} are used and the "
                "rest is cut off",
                stacklevel=5,  # the caller of DiffusionPrior.encode_prompt
            )
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(text_encoder.device)
    return tokens.input_ids.to(text_encoder.device), mask
