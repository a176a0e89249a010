"""The tiny CLIP's files and its boundary."""

from __future__ import annotations

import pytest
import torch

from sdd_fast.domains.domain import EMBEDDED
from sdd_fast.models.clip import MAX_TOKENS, Clip, tokenize

FOLDER = EMBEDDED["faces64"] / "clip"


@pytest.fixture(scope="module")
def clip():
    return Clip.load(FOLDER)


def test_embeddings_are_unit_vectors(clip):
    text = clip.encode_texts(["a face", "an angry face with glasses"])
    image = clip.encode_images(torch.rand(3, 3, 64, 64) * 2 - 1)
    assert text.shape[1] == image.shape[1]
    assert torch.allclose(torch.cat([text, image]).norm(dim=1), torch.ones(5), atol=1e-5)


def test_images_are_differentiable(clip):
    images = torch.zeros(1, 3, 64, 64, requires_grad=True)
    clip.encode_images(images)[0, 0].backward()
    assert images.grad.abs().sum() > 0


def test_save_and_load_give_the_same(clip, tmp_path):
    clip.save(tmp_path)
    again = Clip.load(tmp_path)
    assert torch.equal(again.encode_texts(["a bald face"]), clip.encode_texts(["a bald face"]))


def test_any_text_is_tokenized(clip):
    ids = tokenize(clip.tokenizer, ["Zażółć gęślą 日本 🙂", "a face " * 40])
    assert ids.shape == (2, MAX_TOKENS)
    assert int(ids.max()) == clip.tokenizer.eos_token_id == len(clip.tokenizer) - 1
    assert (ids[1] == clip.tokenizer.eos_token_id).sum() == 1  # cut off, but closed


def test_errors(clip, tmp_path):
    with pytest.raises(ValueError, match="non-empty"):
        clip.encode_texts([" "])
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Clip.load(tmp_path)
