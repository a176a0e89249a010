"""A whole domain trained for a few steps: every file is there and opens with the usual loaders."""

from __future__ import annotations

import json

import pytest
import torch

from sdd_fast.domains import load_domain
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.files import load_tensors
from sdd_fast.images import save_png
from sdd_fast.training.train_domain import PARTS, train_domain

BUDGET = 0.0004  # one or two steps a part
TRAINED = [p for p in PARTS if p != "quality"]  # measuring takes minutes whatever the budget


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("domain") / "tiny"
    return train_domain(out, resolution=32, budget=BUDGET, parts=TRAINED)


def test_the_domain_opens_and_its_parts_fit_together(trained):
    domain = load_domain(trained)
    assert domain.resolution == 32 and domain.source_text == "a photo of a face"
    w_plus = domain.w_plus[:2]
    images = domain.generator.synthesis(w_plus)
    assert images.shape == (2, 3, 32, 32)
    assert domain.encoder(images).shape == w_plus.shape
    assert len(domain.held_out) == 256
    z = domain.prior.encode(images)
    assert domain.prior.decode(z).shape == images.shape
    assert domain.clip.encode_texts(["a face"]).shape == domain.clip.encode_images(images[:1]).shape
    assert torch.allclose(domain.identity(images).norm(dim=1), torch.ones(2), atol=1e-5)
    assert set(domain.classifier(images)) >= {"skin", "expression"}


def test_diffusers_opens_the_teacher(trained):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        trained / "diffusion", local_files_only=True, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    out = pipeline("a smiling face", num_inference_steps=2, generator=rng, output_type="np")
    assert out.images.shape == (1, 32, 32, 3)


def test_latents_of_the_teacher_are_white(trained):
    domain = load_domain(trained)
    z = domain.prior.encode(render(sample_faces(256, torch.Generator().manual_seed(9)), 32))
    assert z.mean((0, 2, 3)).abs().max() < 0.15
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.15


def test_training_again_changes_nothing(trained):
    before = {p: load_tensors(p)[0] for p in trained.rglob("*.safetensors")}
    train_domain(trained, resolution=32, budget=BUDGET, parts=TRAINED)
    for path, tensors in before.items():
        after, _ = load_tensors(path)
        assert tensors.keys() == after.keys()
        assert all(torch.equal(tensors[k], after[k]) for k in tensors), path


def test_a_folder_of_captioned_images_trains_one_part(tmp_path):
    images = tmp_path / "images"
    lines = []
    for i, image in enumerate(render(sample_faces(20, torch.Generator().manual_seed(0)), 48)):
        save_png(images / f"{i}.png", image)
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"image {i} of a face"}))
    (images / "metadata.jsonl").write_text("\n".join(lines))
    out = train_domain(
        tmp_path / "mine", images=images, resolution=32, source_text="a picture of a face",
        parts=("vae",), budget=BUDGET,
    )  # fmt: skip
    assert (out / "diffusion" / "vae" / "config.json").exists()
    assert not (out / "domain.json").exists()  # not complete yet
    with pytest.raises(FileNotFoundError, match=r"train the clip part first"):
        train_domain(
            out, images=images, resolution=32, source_text="a picture of a face",
            parts=("unet",), budget=BUDGET,
        )  # fmt: skip


def test_a_training_goes_on_with_the_same_images_only(tmp_path):
    images = tmp_path / "images"
    faces = render(sample_faces(16, torch.Generator().manual_seed(0)), 32)
    for i, image in enumerate(faces):
        save_png(images / f"{i}.png", image)

    def train(text, resolution=32):
        lines = [json.dumps({"file_name": f"{i}.png", "text": text}) for i in range(len(faces))]
        (images / "metadata.jsonl").write_text("\n".join(lines))
        return train_domain(
            tmp_path / "mine", images=images, resolution=resolution, source_text="a face",
            parts=("vae",), budget=BUDGET,
        )  # fmt: skip

    train("a face")
    train("a face")
    with pytest.raises(ValueError, match="other images, captions or at another resolution"):
        train("another caption")
    with pytest.raises(ValueError, match="other images, captions or at another resolution"):
        train("a face", resolution=64)


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choose from clip, vae"):
        train_domain(tmp_path, parts=("nose",))
    with pytest.raises(ValueError, match="32, 64 or 128"):
        train_domain(tmp_path, resolution=48)
    with pytest.raises(ValueError, match="source_text is needed"):
        train_domain(tmp_path, images=tmp_path)
    with pytest.raises(ValueError, match="budget"):
        train_domain(tmp_path, budget=0)
    with pytest.raises(FileNotFoundError, match=r"metadata\.jsonl"):
        train_domain(tmp_path, images=tmp_path, source_text="a cat")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(ValueError, match="line 1"):
        train_domain(tmp_path, images=tmp_path, source_text="a cat")
