from __future__ import annotations

from typing import Any

import pytest

from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import LARGE_VOCABULARY, unknown_words


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("old hair", []),
        ("Old HAIR, old", []),  # case and punctuation do not make a word unknown
        ("an old zombie with white hair", ["an", "zombie", "with", "white"]),
        ("zombie zombie", ["zombie"]),
        ("old, 3 hair!", []),
    ],
)
def test_words_that_the_tokenizer_takes_apart(
    tiny_prior: DiffusionPrior, prompt: str, unknown: list[str]
) -> None:
    assert unknown_words(tiny_prior.tokenizer, prompt) == unknown


def test_a_general_vocabulary_knows_any_word() -> None:
    class General:
        def __len__(self) -> int:
            return LARGE_VOCABULARY

        def tokenize(self, text: str) -> Any:
            raise AssertionError("not asked")

    assert unknown_words(General(), "a zombie") == []
