"""LEDITS++ by diffusers, on the U-Net of faces64, which has the attention that it needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.baselines.ledits import MASKS, LEdits
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.held_out import sample_images

PROMPT = "a face with white hair"


@pytest.fixture(scope="module")
def faces64() -> Domain:
    return sdd.load_domain("faces64")


@pytest.fixture(scope="module")
def faces(faces64: Domain) -> Tensor:
    return sample_images(faces64, 2)


@pytest.mark.parametrize("mask", MASKS)
def test_it_runs_and_images_keep_their_own_attention(
    faces64: Domain, faces: Tensor, mask: str
) -> None:
    """As shipped the pipeline mixes the attention heads of images that are edited together."""
    editor = LEdits(faces64, steps=3, mask=mask, guidance_scale=9.0, threshold=0.6)
    together = editor.edit(faces, PROMPT)
    alone = torch.cat([editor.edit(face[None], PROMPT) for face in faces])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)
    others = [name for name in MASKS if name != mask]
    other = LEdits(faces64, steps=3, mask=others[0], guidance_scale=9.0, threshold=0.6)
    assert float((other.edit(faces[:1], PROMPT) - together[:1]).abs().max()) > 0.01


def test_without_guidance_the_image_comes_back(faces64: Domain, faces: Tensor) -> None:
    prior = faces64.prior
    with torch.no_grad():
        kept = prior.decode(prior.encode(faces)).clamp(-1, 1)
    edited = LEdits(faces64, steps=5, guidance_scale=0.0).edit(faces, PROMPT)
    torch.testing.assert_close(edited, kept, rtol=0, atol=1e-3)


def test_the_teacher_keeps_its_attention_and_its_weights(faces64: Domain, faces: Tensor) -> None:
    unet = faces64.prior.unet
    before = dict(unet.attn_processors)
    editor = LEdits(faces64, steps=2)
    editor.edit(faces[:1], PROMPT)
    assert unet.attn_processors == before
    copied = dict(editor._pipeline.unet.named_parameters())
    assert all(copied[name] is weight for name, weight in unet.named_parameters())


def test_what_it_cannot_do_is_refused(tiny: Domain) -> None:
    with pytest.raises(ValueError, match='cross-attention at a quarter.*give mask="noise"'):
        LEdits(tiny)
    with pytest.raises(ValueError, match="unknown mask 'words'; there are: both, attention, noise"):
        LEdits(tiny, mask="words")
    with pytest.raises(ValueError, match=r"steps · \(1 \+ skip\) must be at most 1000"):
        LEdits(tiny, mask="noise", steps=900, skip=0.5)
