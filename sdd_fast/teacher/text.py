"""Prompts as the U-Net sees them: token embeddings, and for SDXL a pooled vector beside them.

Also: the words of a prompt that a small teacher cannot know.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

LARGE_VOCABULARY = 10_000
"""Tokenizers at least this large cover general language; splitting a word means nothing there."""


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
        """Return (cond, uncond), each [batch, S, D]: of one prompt for all rows, or one each."""
        return _expand(self.cond, batch, "prompts"), _expand(self.uncond, batch, "negative prompts")

    def expand_pooled(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return (pooled, uncond_pooled), each [batch, E].

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

    def rows(self, some: slice) -> PromptEmbeds:
        """Return those of some rows; of one prompt, which is for all rows, itself."""

        def of(values: Tensor | None) -> Any:
            return values if values is None or len(values) == 1 else values[some]

        if len(self.cond) == 1:
            return self
        return replace(
            self,
            cond=of(self.cond),
            uncond=of(self.uncond),
            pooled=of(self.pooled),
            uncond_pooled=of(self.uncond_pooled),
        )


def _expand(rows: Tensor, batch: int, what: str) -> Tensor:
    if rows.shape[0] not in (1, batch):
        raise ValueError(
            f"got {rows.shape[0]} {what} for a batch of {batch}; expected 1 or {batch}"
        )
    return rows.expand(batch, *rows.shape[1:])


def encode_prompt(
    encoders: Sequence[tuple[Any, Any]],
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str],
    *,
    blank: bool,
) -> PromptEmbeds:
    """Encode prompts and negative prompts; see `DiffusionPrior.encode_prompt`.

    Args:
        encoders: (tokenizer, text encoder), once for SD 1.x and 2.x, twice for SDXL.
        blank: SDXL's "" becomes zeros (`force_zeros_for_empty_prompt` of model_index.json).
    """
    prompts = _list(prompt, "prompt")
    if not prompts:
        raise ValueError("the prompt is empty: []; describe the target, e.g. 'white hair'")
    for text in prompts:
        check_prompt(text)
        if found := weighting(text):
            warnings.warn(
                f"{found!r} in the prompt is read as words: weights of words and LoRAs in a prompt "
                "are not applied",
                stacklevel=3,  # the caller of DiffusionPrior.encode_prompt
            )
    negatives = _list(negative_prompt, "negative_prompt")
    for text in negatives:
        _check_characters(text, "negative prompt")
    if len(negatives) not in (1, len(prompts)):
        raise ValueError(f"got {len(negatives)} negative prompts for {len(prompts)} prompts")
    cond, pooled = _encode(prompts, encoders, blank)
    uncond, uncond_pooled = _encode(negatives, encoders, blank)
    return PromptEmbeds(
        cond,
        uncond,
        tuple(prompts),
        negatives[0] if len(set(negatives)) == 1 else "",
        pooled,
        uncond_pooled,
    )


def split_prompts(embeds: PromptEmbeds) -> list[PromptEmbeds]:
    """Take the embeddings of P prompts apart, one for each."""

    def one(rows: Tensor | None, i: int) -> Any:
        return rows if rows is None or len(rows) == 1 else rows[i : i + 1]

    return [
        replace(
            embeds,
            cond=embeds.cond[i : i + 1],
            uncond=one(embeds.uncond, i),
            prompts=embeds.prompts[i : i + 1],
            pooled=one(embeds.pooled, i),
            uncond_pooled=one(embeds.uncond_pooled, i),
        )
        for i in range(len(embeds.cond))
    ]


def join_prompts(embeds: Sequence[PromptEmbeds], each: int) -> PromptEmbeds:
    """Put together the embeddings of single prompts, each repeated for `each` rows."""

    def joined(name: str) -> Any:
        values = [getattr(one, name) for one in embeds]
        if values[0] is None or all(value is values[0] for value in values):
            return values[0]
        return torch.cat(values).repeat_interleave(each, 0)

    prompts = tuple(prompt for one in embeds for prompt in one.prompts)
    names = ("cond", "uncond", "pooled", "uncond_pooled")
    return replace(embeds[0], prompts=prompts, **{name: joined(name) for name in names})


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that says nothing, or is no text that could be encoded."""
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt must be a string, got {prompt!r}")
    if not prompt.strip():
        raise ValueError(f"the prompt is empty: {prompt!r}; describe the target, e.g. 'white hair'")
    _check_characters(prompt, "prompt")


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the {name} {ascii(text):.200} is not Unicode text. Where a terminal's locale is not "
            "UTF-8, set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        ) from error
    for character in text:
        if unicodedata.category(character) == "Cc" and not character.isspace():
            raise ValueError(
                f"the {name} {text!r:.200} holds the control character {character!r}, which is no "
                "part of any text; leave it out"
            )


def _list(texts: str | Sequence[str], name: str) -> list[str]:
    given: Any = texts
    several = isinstance(given, Iterable) and not isinstance(given, str)
    result: list[str] = list(given) if several else [given]
    if not all(isinstance(text, str) for text in result):
        raise TypeError(f"{name} must be a string or a list of strings, got {texts!r}")
    return result


def _encode(
    texts: list[str], encoders: Sequence[tuple[Any, Any]], blank: bool
) -> tuple[Tensor, Tensor | None]:
    """Encode P texts to [P, S, D], and for SDXL [P, E].

    SD 1.x and 2.x: the last hidden state after the final norm. SDXL: the penultimate hidden states
    of both encoders, side by side; the second encoder gives the pooled vector.
    """
    parts = []
    for tokenizer, text_encoder in encoders:
        ids, mask = _tokenize(texts, tokenizer, text_encoder)
        if len(encoders) == 1:
            return text_encoder(ids, attention_mask=mask)[0], None
        out = text_encoder(ids, output_hidden_states=True)
        parts.append(out.hidden_states[-2])
        pooled = out[0]
    hidden = torch.cat(parts, dim=-1)
    if blank:
        written = torch.tensor([float(text != "") for text in texts]).to(hidden)
        hidden, pooled = hidden * written[:, None, None], pooled * written[:, None]
    return hidden, pooled


def _tokenize(texts: list[str], tokenizer: Any, text_encoder: Any) -> tuple[Tensor, Tensor | None]:
    # A tokenizer saved without a length reports an astronomically large one.
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    rows = [_expanded(row, tokenizer) for row in tokenizer(texts, verbose=False).input_ids]
    for text, row in zip(texts, rows, strict=True):
        if len(row) > length:
            lost = tokenizer.decode(row[length - 1 : -1])
            warnings.warn(
                f"the prompt {text!r} has {len(row)} tokens; only {length} are used and the "
                f"rest is cut off: {lost!r}",
                stacklevel=6,  # the caller of DiffusionPrior.encode_prompt
            )
    # What is cut off lies before the end of the text.
    rows = [row if len(row) <= length else [*row[: length - 1], row[-1]] for row in rows]
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        written = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(length) < written[:, None]).long().to(text_encoder.device)
    return ids.to(text_encoder.device), mask


def _expanded(row: list[int], tokenizer: Any) -> list[int]:
    """Put all vectors of a textual inversion for its first: <cat>, <cat>_1, <cat>_2 for <cat>."""
    added = tokenizer.added_tokens_encoder
    tokens = {number: token for token, number in added.items() if f"{token}_1" in added}
    result: list[int] = []
    for i, number in enumerate(row):
        result.append(number)
        token = tokens.get(number)
        more: list[int] = []
        while token is not None and f"{token}_{len(more) + 1}" in added:
            more.append(added[f"{token}_{len(more) + 1}"])
        if row[i + 1 : i + 1 + len(more)] != more:  # else they are written out
            result += more
    return result


def unknown_words(prior: Any, prompt: str) -> list[str]:
    """List the words that no caption of the teacher's training contained, in order, each once.

    A byte-pair tokenizer learned from captions keeps every word of theirs as one token, and takes
    other words apart; so it does with numbers and emoji. Punctuation is looked at in a prompt of
    nothing else only. Teachers with a vocabulary of general language know any word: [] for them.

    Args:
        prior: a `DiffusionPrior`.
    """
    tokenizer = prior.tokenizer
    if len(tokenizer) >= LARGE_VOCABULARY:
        return []
    words = dict.fromkeys(re.findall(r"\w+|[^\w\s]", prompt.lower()))
    untrained, unknown = _untrained_tokens(prior), []
    nothing_else = not any(word[0].isalnum() for word in words)
    for word in words:
        if not word[0].isalnum() and unicodedata.category(word[0]) != "So":  # punctuation
            unknown += [word] * nothing_else
            continue
        tokens = tokenizer.tokenize(word)
        if len(tokens) != 1 or tokenizer.convert_tokens_to_ids(tokens[0]) in untrained:
            unknown.append(word)
    return unknown


def _untrained_tokens(prior: Any) -> set[int]:
    """Tokens whose embedding is as short as it was drawn: no text of the training had them.

    The vocabulary has all bytes, and the halves of its merges ("ale" of "pale"), most of which
    never stand alone. In `faces64` their embeddings have norms of 0.18 to 0.27, and those of tokens
    that captions have of 0.41 to 0.77.
    """
    norms = prior.text_encoder.get_input_embeddings().weight.detach().float().norm(dim=1).cpu()
    bound = 1.4 * float(norms.quantile(0.25))
    if norms[prior.tokenizer.eos_token_id] < bound:  # part of every text: not trained like this
        return set()
    return set((norms < bound).nonzero().flatten().tolist())


def warn_of_unknown_words(prior: Any, prompt: str) -> list[str]:
    """Return `unknown_words`, and warn of them."""
    unknown = unknown_words(prior, prompt)
    if unknown:
        listed = ", ".join(f"'{word}'" for word in unknown)
        what = f"the word {listed} is" if len(unknown) == 1 else f"the words {listed} are"
        # As from here, not from the caller: so Python shows the same warning only once.
        warnings.warn(
            f"{what} not in the vocabulary of this teacher: no caption that it was trained on has "
            "it, so expect no useful edit",
            stacklevel=1,
        )
    return unknown


_WEIGHTED = re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)|\(\([^()]*\)\)|\[\[[^\[\]]*\]\]|<lora:[^>]*>")


def weighting(prompt: str) -> str | None:
    """Return what in a prompt other programs take for the weight of words, such as "(smile:1.3)",
    or for a LoRA; here it is read as words. None if there is nothing like it."""
    found = _WEIGHTED.search(prompt)
    return None if found is None else found[0]
