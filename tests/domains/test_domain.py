"""Opening a domain, and what is said when it cannot be opened."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from sdd_fast.domains import load_domain
from sdd_fast.domains.domain import EMBEDDED

FACES64 = EMBEDDED["faces64"]


@pytest.fixture
def copy(tmp_path):
    """The embedded domain's small files, to be damaged; weights are linked, not copied."""
    shutil.copytree(FACES64, tmp_path / "mine", copy_function=_link)
    return tmp_path / "mine"


def _link(source, target):
    if str(source).endswith(".json"):
        return shutil.copy(source, target)
    return os.symlink(source, target)


def test_a_folder_is_opened_like_the_embedded_domain(copy):
    mine, embedded = load_domain(copy), load_domain("faces64")
    w = embedded.w_plus[:1]
    assert torch.equal(mine.generator.synthesis(w), embedded.generator.synthesis(w))
    assert mine.prompts == embedded.prompts and mine.source_text == "a photo of a face"


def test_networks_are_frozen(copy):
    domain = load_domain(copy)
    for network in (domain.generator, domain.encoder, domain.identity, domain.classifier):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_the_teacher_alone_computes_in_another_precision(copy):
    assert load_domain(copy).prior.dtype == torch.float32
    for dtype in ("bfloat16", torch.bfloat16):
        domain = load_domain(copy, dtype=dtype)
        assert domain.prior.dtype == domain.prior.vae.dtype == torch.bfloat16
        for network in (domain.generator, domain.encoder, domain.identity):
            assert {p.dtype for p in network.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16"):
        load_domain(copy, dtype="float64")


def test_whatever_the_default_dtype_is(copy):
    w = load_domain(copy).w_plus[:1]
    expected = load_domain(copy).generator.synthesis(w)
    torch.set_default_dtype(torch.float64)
    try:
        domain = load_domain(copy)
        image = domain.generator.synthesis(domain.w_plus[:1])
        again = domain.encoder(image)
        read, person = domain.classifier(image), domain.identity(image)
        latents = domain.prior.encode(image)
        texts = domain.clip.encode_texts(["a face"])
        seen = domain.clip.encode_images(image)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(image, expected)
    assert {x.dtype for x in (again, *read.values(), person, latents, texts, seen)} == {
        torch.float32
    }


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "mps"])
def test_a_device_that_is_not_there(device):
    if device.startswith("cuda") and torch.cuda.is_available() and device != "cuda:99":
        pytest.skip("there is a GPU")
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=f"device {device}: this machine and torch have none"):
        load_domain("faces64", device=device)
    with pytest.raises(ValueError, match="is no device; use cpu"):
        load_domain("faces64", device="gpu")


def test_unknown_domain_lists_what_exists(tmp_path):
    with pytest.raises(FileNotFoundError, match="faces64"):
        load_domain("cats")
    with pytest.raises(FileNotFoundError, match=r"domain\.json"):
        load_domain(tmp_path)


def test_missing_part_is_named(copy):
    (copy / "encoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors"):
        load_domain(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "it lacks name"),
        ({"color": "blue"}, "unknown 'color'; there may be name, source_text"),
        ({"resolution": "64"}, "resolution must be"),
        ({"source_text": ""}, "source_text must be"),
    ],
)
def test_damaged_listing_is_explained(copy, change, message):
    spec = json.loads((copy / "domain.json").read_text())
    for key, value in change.items():
        if value is None:
            del spec[key]
        else:
            spec[key] = value
    (copy / "domain.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=message):
        load_domain(copy)


def test_truncated_weights_are_refused(copy):
    whole = (copy / "generator.safetensors").read_bytes()
    (copy / "generator.safetensors").unlink()
    (copy / "generator.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"generator\.safetensors"):
        _ = load_domain(copy).generator


@pytest.mark.parametrize(
    "damage",
    [
        lambda quality: [quality],
        lambda quality: quality | {"parts": []},
        lambda quality: quality | {"parts": quality["parts"] | {"vae_psnr": "high"}},
        lambda quality: quality | {"samples": {}},
        lambda quality: quality | {"edits": [{"prompt": "a"}]},
        lambda quality: quality | {"edit_config": 3},
    ],
)
def test_a_damaged_quality_file_names_the_remedy(copy, damage):
    path = copy / "quality.json"
    written, quality = json.loads(path.read_text()), load_domain(copy).quality
    assert quality.keys() == written.keys() and quality["samples"] == written["samples"]
    assert quality["parts"]["vae_psnr"] == written["parts"]["vae_psnr"]
    path.write_text(json.dumps(damage(quality)))
    with pytest.raises(ValueError, match=r"quality\.json is damaged: .*Delete .*--parts quality"):
        _ = load_domain(copy).quality
    path.write_text(json.dumps(quality)[:-9])
    with pytest.raises(ValueError, match=r"quality\.json is damaged: .*Delete it"):
        _ = load_domain(copy).quality


def test_the_names_of_held_out_images(copy):
    assert load_domain(copy).held_out_images == ()
    path = copy / "held-out.json"
    path.write_text('{"images": ["a/1.png", "b.png"], "trained_on": 8}')
    assert load_domain(copy).held_out_images == ("a/1.png", "b.png")
    path.write_text('{"images": [1]}')
    with pytest.raises(ValueError, match=r"held-out\.json is damaged: expected"):
        _ = load_domain(copy).held_out_images
