"""Published CLIPs: tiny ones, written by transformers and compared with what it says itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from tiny_clip import SIDE, processor, write_clip

from sdd_fast.checkpoints.load import load_clip
from sdd_fast.domains import load_domain
from sdd_fast.images import load_image
from sdd_fast.models.clip import PublishedClip

TEXTS = ["white hair", "an old bald man with a beard, smiling", "hair"]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Blobs with sharp edges and noise, of every brightness."""
    rng = np.random.default_rng(seed)
    blobs = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    large = Image.fromarray(blobs).resize((width, height), Image.Resampling.NEAREST)
    soft = np.asarray(large.filter(ImageFilter.GaussianBlur(1)), dtype=np.int16)
    noisy = soft + rng.integers(-20, 21, soft.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def features(output: Any) -> torch.Tensor:
    """transformers returns a tensor or, in newer versions, an output that has it."""
    return getattr(output, "pooler_output", output)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "clip"))


def change_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_texts_are_those_of_transformers(folder: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        want = unit(features(model.get_text_features(**batch)))
    clip = load_clip(folder)
    assert isinstance(clip, PublishedClip)
    assert torch.allclose(clip.encode_texts(TEXTS), want, atol=1e-6)
    # A text alone is not padded, a long one is cut off but closed.
    assert torch.allclose(clip.encode_texts(TEXTS[:1]), want[:1], atol=1e-6)
    assert torch.allclose(clip.encode_texts([TEXTS[1] + " hair" * 30])[0], want[1], atol=1e-6)


def test_texts_of_the_first_published_files_end_at_the_largest_token(tmp_path: Path) -> None:
    """Their configurations say eos_token_id = 2, which is not where the text ends."""
    right = load_clip(write_clip(tmp_path / "right"))
    legacy = load_clip(write_clip(tmp_path / "legacy", eos=2))
    assert torch.equal(right.encode_texts(TEXTS), legacy.encode_texts(TEXTS))


def test_pictures_are_those_of_transformers(folder: Path) -> None:
    from transformers import CLIPModel

    model, clip = CLIPModel.from_pretrained(folder), load_clip(folder)
    for seed, size in enumerate([(64, 64), (128, 128), (28, 28), (96, 128), (45, 33), (20, 20)]):
        given = picture(*size, seed)
        pixels = processor()(given, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            want = unit(features(model.get_image_features(pixels)))
            got = clip.encode_images(load_image(given)[None])
            same_pixels = clip.preprocessing(load_image(given)[None])
            exact = unit(features(model.get_image_features(same_pixels)))
        assert torch.allclose(got, exact, atol=1e-6)
        assert float((got * want).sum()) > 0.99999


def test_pictures_are_prepared_like_published_ones(tmp_path: Path) -> None:
    """The published processor rounds to bytes twice; nothing else may differ."""
    clip = load_clip(write_clip(tmp_path / "clip", side=224))
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    sizes = [(1024, 1024), (384, 512), (512, 384), (301, 455), (100, 64)]
    for seed, size in enumerate(sizes):
        given = picture(*size, seed)
        want = processor(224)(given, return_tensors="pt")["pixel_values"]
        got = clip.preprocessing(load_image(given)[None])
        assert got.shape == want.shape
        levels = (got - want) * std * 255
        assert float(levels.abs().max()) < 1.2
        assert float(levels.square().mean().sqrt()) < 0.45


def test_gradients_reach_the_pictures(folder: Path) -> None:
    clip = load_clip(folder)
    images = load_image(picture(40, 40))[None].requires_grad_()
    clip.encode_images(images)[0, 0].backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in clip.model.parameters()) and not clip.model.training


def test_older_files_give_the_same(folder: Path, copy: Path) -> None:
    """A .bin of half precision with numbered positions, sizes as plain numbers, no tokenizer.json
    and sections of another name, as the first published ones have them."""
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    halves = {key: value.half() for key, value in tensors.items()}
    counted = {
        "text_model.embeddings.position_ids": torch.arange(16)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    torch.save(halves | counted, copy / "pytorch_model.bin")
    change_json(copy / "preprocessor_config.json", size=SIDE, crop_size=SIDE, rescale_factor=...)
    config = json.loads((copy / "config.json").read_text())
    config["vision_config_dict"] = config["vision_config"]
    config["vision_config"] = {"hidden_size": 99}
    config["dtype"] = config["torch_dtype"] = "float16"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "tokenizer.json").unlink(missing_ok=True)

    old, new = load_clip(copy), load_clip(folder)
    state = new.model.state_dict()
    for key, value in old.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].half().float())
    given = load_image(picture(40, 40))[None]
    assert torch.allclose(old.encode_images(given), new.encode_images(given), atol=5e-3)
    assert torch.allclose(old.encode_texts(TEXTS), new.encode_texts(TEXTS), atol=5e-3)


def test_every_tensor_is_accounted_for(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["visual_projection.weight"]
    tensors["extra.weight"] = torch.zeros(2)
    tensors["text_projection.weight"] = torch.zeros(8, 15)
    # These are not the numbers of the positions.
    tensors["text_model.embeddings.position_ids"] = torch.arange(16.0).flip(0)[None]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_clip(copy)
    for line in (
        "missing: visual_projection.weight", "unexpected: extra.weight",
        "unexpected: text_model.embeddings.position_ids",
        "shape of text_projection.weight: the file has [8, 15], the network [8, 16]",
    ):  # fmt: skip
        assert line in str(caught.value)


def test_quantised_weights_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["text_projection.weight"] = torch.zeros(8, 16, dtype=torch.int8)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError, match=r"quantized .*\n  text_projection\.weight: int8"):
        load_clip(copy)


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_executed(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"logit_scale": Runs(tmp_path / "ran")}, copy / "pytorch_model.bin")
    torch.load(copy / "pytorch_model.bin", weights_only=False)
    (tmp_path / "ran").unlink()  # as torch would have it
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load_clip(copy)
    assert not (tmp_path / "ran").exists()


def test_a_configuration_that_names_code_is_not_listened_to(folder: Path, copy: Path) -> None:
    change_json(
        copy / "config.json", auto_map={"AutoModel": "evil.Model"}, _attn_implementation="a/kernel"
    )
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["_attn_implementation"] = "a/kernel"
    (copy / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_clip(copy).encode_texts(TEXTS), load_clip(folder).encode_texts(TEXTS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "do_resize, do_center_crop, do_rescale, do_normalize must be"),
        ({"resample": 2}, "resample must be 3"),
        ({"size": {"height": 28, "width": 28}}, "size must be a number of pixels"),
        ({"crop_size": {"height": 28, "width": 30}}, "crop_size must be a square"),
        ({"crop_size": 56}, "no larger than size"),
        ({"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ({"image_mean": [0.5]}, "image_mean must be three numbers"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std must be three numbers above 0"),
        ({"crop_size": 14}, "of 14 pixels, the image tower takes 28"),
    ],
)
def test_other_preparations_are_refused(copy: Path, change: dict[str, Any], message: str) -> None:
    change_json(copy / "preprocessor_config.json", **change)
    with pytest.raises(ValueError, match=message):
        load_clip(copy)


def test_other_models_are_refused(copy: Path, tiny_sd: Path) -> None:
    change_json(copy / "config.json", model_type="siglip")
    with pytest.raises(ValueError, match="type 'siglip', which"):
        load_clip(copy)
    change_json(copy / "config.json", model_type="clip", text_config={"hidden_act": "no-such"})
    with pytest.raises(ValueError, match="no such CLIPModel|describes no CLIP|belong to"):
        load_clip(copy)
    (copy / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected an object, got list"):
        load_clip(copy)


def test_configurations_that_fit_nothing_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for tower, change, message in (
        ("vision_config", {"num_hidden_layers": 10**6}, "no such CLIPModel can be built"),
        (
            "vision_config",
            {"hidden_act": "no-such"},
            "no such CLIPModel|describes no CLIP",
        ),
        (
            "vision_config",
            {"hidden_size": "wide"},
            "describes no CLIP|no such CLIPModel",
        ),
        ("text_config", {"vocab_size": 10**7}, "the tokenizer has"),
        ("text_config", {"eos_token_id": 5}, "ends texts with number"),
    ):
        changed = config | {tower: config[tower] | change}
        (copy / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load_clip(copy)


def test_weights_of_something_else_are_refused(copy: Path) -> None:
    save_file({"weight": torch.zeros(2)}, copy / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is .*; expected transformers'"):
        load_clip(copy)


def test_what_is_missing_is_named(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "preprocessor_config.json").unlink()
    (copy / "merges.txt").unlink()
    (copy / "tokenizer.json").unlink(missing_ok=True)
    wanted = (
        r"lacks preprocessor_config\.json, model\.safetensors or pytorch_model\.bin, "
        r"merges\.txt; expected transformers' CLIPModel"
    )
    with pytest.raises(FileNotFoundError, match=wanted):
        load_clip(copy)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; as a CLIP give a folder"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json is a file; as a CLIP"):
        load_clip(copy / "config.json")


def test_a_damaged_tokenizer_is_explained(copy: Path) -> None:
    (copy / "tokenizer.json").unlink(missing_ok=True)
    (copy / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match="the tokenizer in .* could not be read"):
        load_clip(copy)


def test_empty_texts(folder: Path) -> None:
    for texts in ([], ["hair", " "]):
        with pytest.raises(ValueError, match="non-empty texts"):
            load_clip(folder).encode_texts(texts)


def test_a_domain_names_one(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(load_domain("faces64", clip=folder).clip, PublishedClip)
    assert load_domain("faces64", clip=None).clip is None
    # A preset's is found by its name; without it the edit goes on, unjudged.
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(tmp_path))
    domain = load_domain("ffhq-1024")
    assert domain.clip is None and "clip-vit-base-patch32" in domain.spec.absent["clip"]
    shutil.copytree(folder, tmp_path / "clip-vit-base-patch32")
    assert isinstance(load_domain("ffhq-1024").clip, PublishedClip)


def test_transformers_is_imported_when_it_is_needed() -> None:
    script = (
        "import sys, sdd_fast.checkpoints.load, sdd_fast.models.clip; "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
