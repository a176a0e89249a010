"""A whole domain trained for a few steps: every file is there and opens with the usual loaders."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from cups import SOURCE_TEXT, write_cups, write_listing
from PIL import Image

from sdd_fast.domains import load_domain
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.training.data import CaptionedImages, hold_out
from sdd_fast.training.train_domain import PARTS, train_domain
from sdd_fast.training.unet import encode_images
from sdd_fast.training.vae import new_vae

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


def files(out):
    """Everything but the states of training, which hold times."""
    return {
        path.relative_to(out): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.name.endswith(".checkpoint.safetensors")
    }


@pytest.fixture(scope="module")
def cups(tmp_path_factory):
    """A domain of cups, with what every part of it was shown. The held-out ones are all black."""
    images, out = tmp_path_factory.mktemp("cups"), tmp_path_factory.mktemp("domain") / "cups"
    captions = write_cups(images, count=20)
    _, held_out = hold_out({name: [text] for name, text in captions.items()})
    for name in held_out:
        Image.new("RGB", (32, 32)).save(images / name)
    write_listing(images, captions | dict.fromkeys(held_out, "a zzyzx"))
    shown, part = {}, [""]

    def look(module, inputs):
        for x in inputs:
            if isinstance(x, torch.Tensor) and x.ndim == 4 and x.shape[1] == 3:
                x = x.detach().float().flatten(1)
                black = (x.mean(1) < -0.8) & (x.std(1) < 0.1)
                told = shown.setdefault(part[0], [0, 0])
                told[0] += len(x)
                told[1] += int(black.sum())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        train_domain(
            out, images=images, resolution=32, source_text=SOURCE_TEXT, budget=BUDGET,
            say=lambda line: part.__setitem__(0, line.split()[1]),
        )  # fmt: skip
    finally:
        hook.remove()
    return images, out, held_out, shown


def test_no_part_sees_a_held_out_image(cups):
    _, out, held_out, shown = cups
    assert set(shown) == {"clip", "vae", "identity", "generator", "unet", "latents"}
    seen = {part: black for part, (images, black) in shown.items() if black}
    assert set(seen) == {"latents"} and all(images for images, _ in shown.values())
    vocabulary = json.loads((out / "clip" / "vocab.json").read_text())
    assert "green</w>" in vocabulary and "zzyzx</w>" not in vocabulary
    domain = load_domain(out)
    assert sorted(domain.held_out_images) == sorted(held_out) and len(held_out) == 4
    assert len(domain.held_out) == 4 and len(domain.w_plus) == 16
    card = (out / "MODEL_CARD.md").read_text()
    assert "on 16 pictures" in card and "4 other pictures were held out" in card
    assert "| unet | 2 |" in card
    # Black ones all have the same latent.
    spread = domain.held_out.std(0).max()
    assert spread < 1e-3 < domain.w_plus.std(0).max()
    assert set(domain.prompts) == {"a red cup", "a green cup", "a blue cup"}


def test_training_again_changes_nothing_nor_what_a_person_added(cups, tmp_path):
    images, trained, *_ = cups
    out = tmp_path / "cups"
    shutil.copytree(trained, out)
    spec = json.loads((out / "domain.json").read_text())
    added = {"nouns": {"image": "cup"}, "prompts": ["a cup with a spoon"]}
    (out / "domain.json").write_text(json.dumps(spec | added))
    (trained / "MODEL_CARD.md").write_text("of a person's hand")
    (out / "MODEL_CARD.md").write_text("of a person's hand")
    (out / "diffusion" / ".vae.tmp").mkdir()  # of a process that was killed
    train_domain(out, images=images, resolution=32, source_text="a cup", budget=BUDGET)
    assert json.loads((out / "domain.json").read_text()) == spec | added | {"source_text": "a cup"}
    (out / "domain.json").write_bytes((trained / "domain.json").read_bytes())
    assert files(out) == files(trained)


def test_files_that_were_not_trained_here_are_not_replaced(cups, tmp_path):
    images, trained, *_ = cups
    out = tmp_path / "cups"
    shutil.copytree(trained, out)
    shutil.rmtree(out / "training")  # as may be done when the domain is complete

    def train(**options):
        return train_domain(
            out, images=images, resolution=32, source_text=SOURCE_TEXT, budget=BUDGET, **options
        )

    before = files(out)
    with pytest.raises(ValueError, match=r"clip, .*domain\.json, but no training/pictures\.json"):
        train()
    with pytest.raises(ValueError, match=r"cups holds diffusion/vae, .*choose another folder"):
        train(parts=("vae",))
    assert files(out) == before


def test_another_vae_encodes_the_images_anew(tmp_path):
    pixels = (255 * torch.rand(5, 3, 32, 32)).byte().numpy()
    data = CaptionedImages(pixels, [["a cup"]] * 5)
    first, second = new_vae(32), new_vae(32)
    kept = encode_images(first, data, tmp_path).copy()
    (only,) = tmp_path.iterdir()
    assert (encode_images(first, data, tmp_path) == kept).all()
    assert not (encode_images(second, data, tmp_path) == kept).all()
    assert len(list(tmp_path.iterdir())) == 1 and not only.exists()
    assert (encode_images(first, data, tmp_path) == kept).all()


def test_a_folder_of_captioned_images_trains_one_part(tmp_path):
    images = tmp_path / "images"
    write_cups(images)
    options = {"images": images, "resolution": 32, "source_text": "a cup", "budget": BUDGET}
    with pytest.raises(FileNotFoundError, match=r"unet needs clip, .*: train the clip part first"):
        train_domain(tmp_path / "mine", parts=("vae", "unet"), **options)
    assert not (tmp_path / "mine").exists()
    with pytest.raises(ValueError, match=r"need labels \(quality, classifier\) cannot"):
        train_domain(tmp_path / "mine", parts=("quality", "classifier"), **options)
    out = train_domain(tmp_path / "mine", parts=("vae",), **options)
    assert (out / "diffusion" / "vae" / "config.json").exists()
    assert not (out / "domain.json").exists()  # not complete yet


def test_a_training_goes_on_with_the_same_images_only(tmp_path):
    images = tmp_path / "images"
    captions = write_cups(images, count=16)

    def train(captions, resolution=32):
        write_listing(images, captions)
        return train_domain(
            tmp_path / "mine", images=images, resolution=resolution, source_text="a cup",
            parts=("vae",), budget=BUDGET,
        )  # fmt: skip

    train(captions)
    train(dict(reversed(captions.items())))  # the order does not matter
    with pytest.raises(ValueError, match="other images, captions or at another resolution"):
        train(dict.fromkeys(captions, "another caption"))
    with pytest.raises(ValueError, match="other images, captions or at another resolution"):
        train(captions, resolution=64)


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
    with pytest.raises(ValueError, match="device cuda:99: this machine and torch have none"):
        train_domain(tmp_path, device="cuda:99")
    with pytest.raises(ValueError, match="caption_column='title' is for a folder of images"):
        train_domain(tmp_path, caption_column="title")
    write_cups(tmp_path, count=15)
    with pytest.raises(ValueError, match=r"15 pictures with captions; .* at least 16, and some"):
        train_domain(tmp_path / "out", images=tmp_path, source_text="a cat")
    assert not (tmp_path / "out").exists()
