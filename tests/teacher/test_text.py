from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import LARGE_VOCABULARY, check_prompt, unknown_words


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("old hair", []),
        ("Old HAIR, old", []),  # case and punctuation do not make a word unknown
        ("an old zombie with white hair", ["an", "zombie", "with", "white"]),
        ("zombie zombie", ["zombie"]),
        ("old, 3 hair!", []),
        ("old 😀 hair", ["😀"]),
        ("笑顔 old", ["笑顔"]),
        ("old 123", ["123"]),
        ("!!!", ["!"]),
        (". ?", [".", "?"]),
    ],
)
def test_words_that_the_tokenizer_takes_apart(
    tiny_prior: DiffusionPrior, prompt: str, unknown: list[str]
) -> None:
    assert unknown_words(tiny_prior, prompt) == unknown


def test_a_general_vocabulary_knows_any_word() -> None:
    class General:
        def __len__(self) -> int:
            return LARGE_VOCABULARY

        def tokenize(self, text: str) -> Any:
            raise AssertionError("not asked")

    assert unknown_words(SimpleNamespace(tokenizer=General()), "a zombie") == []


def test_halves_of_words_are_not_words(tiny_prior: DiffusionPrior) -> None:
    """Once the model is trained: the embeddings of what captions had have grown."""
    trained = copy.deepcopy(tiny_prior.text_encoder)
    tokenizer = tiny_prior.tokenizer
    assert unknown_words(tiny_prior, "ir") == []  # one token, a part of "hair"
    with torch.no_grad():
        trained.get_input_embeddings().weight.fill_(0.1)
        for token in ("old</w>", "hair</w>", "a</w>", "<|endoftext|>"):
            trained.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(token)] *= 3
    prior = SimpleNamespace(tokenizer=tokenizer, text_encoder=trained)
    assert unknown_words(prior, "a old ir, q 3!") == ["ir", "q", "3"]


@pytest.mark.parametrize("prompt", [None, 3, ["hair", None]])
def test_a_prompt_that_is_no_text(tiny_prior: DiffusionPrior, prompt: Any) -> None:
    with pytest.raises(TypeError, match="prompt must be a string"):
        tiny_prior.encode_prompt(prompt)
    with pytest.raises(TypeError, match="prompt must be a string"):
        check_prompt(prompt)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("white\0hair", r"holds the control character '\\x00'"),
        ("\x1b[31mhair", r"holds the control character '\\x1b'"),
        ("hair \ud83d", "is not Unicode text"),
    ],
)
def test_characters_of_no_text(tiny_prior: DiffusionPrior, text: str, message: str) -> None:
    check_prompt("white\thair,\nlong \U0001f600")
    with pytest.raises(ValueError, match=f"the prompt .*{message}"):
        tiny_prior.encode_prompt(text)
    with pytest.raises(ValueError, match=f"the negative prompt .*{message}"):
        tiny_prior.encode_prompt("hair", text)
