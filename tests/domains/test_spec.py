"""Domain files: presets, files of one's own, parts given by path, and what fails how."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdd_fast.domains import load_domain
from sdd_fast.domains.domain import EMBEDDED, PRESETS, Domain
from sdd_fast.editing.editor import Editor
from sdd_fast.files import save_tensors, write_json
from sdd_fast.inversion.invert import invert
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2

FACES64 = EMBEDDED["faces64"]


@pytest.fixture(autouse=True)
def no_checkpoints(monkeypatch, tmp_path):
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def generator_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=2, channel_base=128, channel_max=8)
    network.latent_avg.normal_()
    path = tmp_path_factory.mktemp("generator") / "cars.safetensors"
    network.save(path)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_presets_open_without_their_files_and_say_what_is_missing(name):
    domain = load_domain(name)
    assert domain.name == name and domain.source_text.startswith("a photo of a ")
    with pytest.raises(FileNotFoundError, match=r"the generator of .* is missing: .*published at"):
        _ = domain.generator
    assert all(domain.prompt("x", template).count("x") >= 1 for template in domain.prompt_templates)


def test_presets_are_the_published_domains():
    assert set(PRESETS) == {"ffhq-1024", "afhq-cat-512", "lsun-car-512"}
    assert load_domain("lsun-car-512").spec.content_rows == (64, 448)
    assert load_domain("ffhq-1024").align and not load_domain("faces64").align
    assert load_domain("afhq-cat-512").encoder is None  # none is published
    # A hub id is not looked for on disk.
    hub = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert load_domain("ffhq-1024").spec.parts["diffusion"] == hub


def test_files_of_a_preset_are_found_in_the_folder_of_checkpoints(generator_file, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "afhqcat.safetensors").symlink_to(generator_file)
    domain = load_domain("afhq-cat-512")
    assert domain.generator.resolution == domain.resolution == 32
    again = load_domain(domain.reference)  # as a run remembers it, whatever the folder is then
    assert again.path("generator") == domain.path("generator") == generator_file.resolve()


def test_content_rows_reach_the_generator(generator_file):
    spec = {"name": "x", "source_text": "y", "generator": str(generator_file)}
    whole = load_domain(spec)
    part = load_domain({**spec, "content_rows": [4, 28]})
    w = whole.w_plus[:2]
    assert part.generator.image_size == (24, 32)
    assert torch.equal(part.generator.synthesis(w), whole.generator.synthesis(w)[:, :, 4:28])


def test_a_domain_file_of_ones_own(generator_file, tmp_path):
    content = {
        "name": "cars",
        "source_text": "a photo of a car",
        "generator": ["missing.pt", str(generator_file)],
        "prompt_templates": {"color": "a photo of a {} car"},
        "levels": {"a red car": ["fine"]},
        "guidance_rms": {"a red car": 2},
    }
    write_json(tmp_path / "cars.json", content)
    domain = load_domain(tmp_path / "cars.json")
    assert domain.resolution == 32 and domain.identity is None and domain.encoder is None
    assert domain.reference == str((tmp_path / "cars.json").resolve())
    assert domain.prompt("red", "color") == "a photo of a red car"
    assert domain.prompt("a red car") == "a red car"
    assert domain.levels == {"a red car": ("fine",)} and domain.guidance_rms == {"a red car": 2.0}
    with pytest.raises(ValueError, match=r"no prompt template 'colour'; it has: color"):
        domain.prompt("red", "colour")
    with pytest.raises(FileNotFoundError, match=r"has no diffusion; name a file with --diffusion"):
        _ = domain.prior
    assert load_domain(domain.spec.to_json()).spec == domain.spec


def test_keys_of_earlier_versions(generator_file, recwarn):
    domain = load_domain(
        {"name": "x", "source_text": "y", "generator": str(generator_file), "pull": {"z": 3}}
    )
    assert domain.guidance_rms == {"z": 3.0} and not recwarn.list
    assert "pull" not in domain.spec.to_json()
    with pytest.warns(DeprecationWarning, match="guidance_rms"):
        assert domain.pull == {"z": 3.0}


def test_what_a_domain_calls_its_images(generator_file):
    content = {"name": "x", "source_text": "y", "generator": str(generator_file)}
    plain = {"image": "image", "images": "images", "subject": "subject"}
    assert load_domain(content).nouns == plain
    dresses = content | {"nouns": {"image": "dress", "images": "dresses"}}
    named = {"image": "dress", "images": "dresses", "subject": "dress"}
    assert load_domain(dresses).nouns == named
    assert load_domain(content | {"nouns": {"image": "dress"}}).nouns == named
    named = load_domain("faces64").nouns
    assert (named["image"], named["images"], named["subject"]) == ("face", "faces", "person")


def test_without_latents_some_are_drawn_and_always_the_same(generator_file):
    domain = load_domain(generator=generator_file, source_text="a car")
    assert domain.name == "cars" and domain.source_text == "a car"
    w, held_out = domain.w_plus, domain.held_out
    assert w.shape == (1000, 8, 8) and held_out.shape == (64, 8, 8)
    assert torch.equal(w, load_domain(generator=generator_file).w_plus)
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(1064, 8, generator=rng)
    avg = domain.generator.latent_avg
    want = avg + 0.7 * (domain.generator.mapping(z) - avg)
    torch.testing.assert_close(torch.cat([w, held_out])[:, 3], want)


@pytest.mark.parametrize(("count", "kept"), [(100, 90), (5, 4), (2000, 1936)])
def test_some_latents_of_a_file_are_put_aside_whatever_their_order(
    generator_file, tmp_path, count, kept
):
    w_plus = torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "w.safetensors"

    def split(latents):
        save_tensors(path, {"w_plus": latents})
        domain = load_domain(generator=generator_file, latents=path)
        return domain.w_plus, domain.held_out

    train, held_out = split(w_plus)
    assert len(train) == kept and len(held_out) == count - kept
    place = {w.numpy().tobytes(): i for i, w in enumerate(w_plus)}
    chosen = [place[w.numpy().tobytes()] for w in held_out]
    rest = [place[w.numpy().tobytes()] for w in train]
    assert rest == sorted(set(range(count)) - set(chosen))  # in their order
    if count > 50:  # from all over the file
        assert 0.3 * count < sum(chosen) / len(chosen) < 0.7 * count
        assert chosen != sorted(chosen)
    assert torch.equal(split(w_plus.flip(0))[1], held_out)
    save_tensors(tmp_path / "other.safetensors", {"w_plus": w_plus[:3]})
    domain = load_domain(generator=generator_file, latents=path)
    domain = load_domain(domain.spec.to_json(), held_out=tmp_path / "other.safetensors")
    assert torch.equal(domain.held_out, w_plus[:3])


def test_equal_latents_are_put_aside_together(generator_file, tmp_path):
    one = torch.randn(30, 8, 8, generator=torch.Generator().manual_seed(0))
    save_tensors(tmp_path / "w.safetensors", {"w_plus": torch.cat([one, one])})
    domain = load_domain(generator=generator_file, latents=tmp_path / "w.safetensors")
    train, held_out = (
        {w.numpy().tobytes() for w in part} for part in (domain.w_plus, domain.held_out)
    )
    assert len(domain.held_out) == 6 and len(held_out) == 3 and not train & held_out
    save_tensors(tmp_path / "w.safetensors", {"w_plus": one[:1].expand(7, -1, -1)})
    domain = load_domain(generator=generator_file, latents=tmp_path / "w.safetensors")
    assert len(domain.w_plus) == len(domain.held_out) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w_plus": torch.zeros(4, 8, 16)}, "16 elements a layer, the generator has 8"),
        ({"w_plus": torch.zeros(4, 10, 8)}, "10 layers, the generator has 8"),
        ({"train": torch.zeros(4, 8, 8), "held_out": torch.zeros(1, 10, 8)}, "held_out is"),
        ({"train": torch.zeros(4, 8, 8), "held_out": torch.zeros(0, 8, 8)}, "held_out is"),
    ],
)
def test_latents_of_another_generator(generator_file, tmp_path, content, message):
    save_tensors(tmp_path / "w.safetensors", content)
    domain = load_domain(generator=generator_file, latents=tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message):
        _ = domain.w_plus


def test_a_resolution_that_is_not_the_generators(generator_file):
    content = {"name": "x", "source_text": "y", "generator": str(generator_file), "resolution": 64}
    with pytest.raises(ValueError, match="64 pixels a side, but its generator .* makes 32;"):
        _ = load_domain(content).generator
    # Of a generator that takes the place of the domain's the resolution is its own.
    assert load_domain("faces64", generator=generator_file).resolution == 32
    assert load_domain(content | {"resolution": 32}).generator.resolution == 32


def test_parts_take_the_place_of_those_of_the_domain(generator_file, tmp_path):
    # Latents of the old generator would mean nothing to the new one.
    domain = load_domain("faces64", generator=generator_file, identity=None)
    assert domain.generator.resolution == 32 and domain.identity is None
    assert domain.w_plus.shape == (1000, 8, 8)
    assert isinstance(domain.reference, dict)
    assert load_domain(domain.reference).path("generator") == generator_file.resolve()
    assert load_domain("faces64").reference == "faces64"
    with pytest.raises(TypeError, match="unknown part 'teacher'"):
        load_domain("faces64", teacher="x")
    with pytest.raises(FileNotFoundError, match="given as the encoder, does not exist"):
        load_domain("faces64", encoder=tmp_path / "none.pt")
    assert load_domain().name == "faces64"
    # Neither a file nor a hub id: a mistyped path below a folder that is there.
    with pytest.raises(FileNotFoundError, match="given as the diffusion"):
        load_domain(generator=generator_file, diffusion=f"{tmp_path}/sd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": 3}, "generator must be a file name, or a list"),
        ({"generator": []}, "generator must be a file name, or a list"),
        ({"prompt_templates": {"a": "no place"}}, "prompt_templates must be an object of texts"),
        ({"content_rows": [5, 5]}, r"content_rows must be \[first row"),
        ({"align": "nose"}, 'align must be "ffhq"'),
        ({"guidance_rms": {"a": -1}}, "guidance_rms must be an object of positive numbers"),
        ({"guidance_rms": {"a": 10**400}}, "guidance_rms must be an object of positive numbers"),
        ({"nouns": {"picture": "car"}}, "nouns must be an object of texts named image, images or"),
        ({"levels": {"a": "fine"}}, "levels must be an object of lists"),
        ({"prompts": "a"}, "prompts must be a list of texts"),
        ({"name": 5, "source_text": ""}, "name must be non-empty text, got 5; source_text must"),
    ],
)
def test_what_a_domain_file_may_not_say(change, message):
    content = {"name": "x", "source_text": "y", **change}
    with pytest.raises(ValueError, match=message):
        load_domain(content)


def test_the_embedded_domain_is_such_a_file():
    spec = load_domain("faces64").spec
    listed = json.loads((FACES64 / "domain.json").read_text())
    assert set(spec.parts) <= set(listed) and spec.resolution == 64
    changed = Domain(replace(spec, prompts=()))
    assert changed.prompts == () and changed.reference == changed.spec.to_json()


@pytest.mark.parametrize(("layers", "w_dim"), [(10, 8), (8, 12)])
def test_an_encoder_of_another_generator_is_refused_when_they_meet(
    generator_file: Path, tmp_path: Path, layers: int, w_dim: int
) -> None:
    path = tmp_path / "encoder.safetensors"
    Encoder(32, layers, w_dim, channel_base=64, channel_max=8).save(path)
    domain = load_domain(generator=generator_file, encoder=path)
    message = f"gives W\\+ of {layers} styles × {w_dim}, but the generator takes 8 × 8"
    with pytest.raises(ValueError, match=message):
        _ = domain.encoder
    encoder, generator = Encoder.load(path), domain.generator
    with pytest.raises(ValueError, match=message):
        Editor(generator, LevelsMapper(8, 8, ["coarse"]), encoder)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        invert(tmp_path, encoder, generator, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()
    Editor(
        generator, LevelsMapper(8, 8, ["coarse"]), Encoder(32, 8, 8, channel_base=64, channel_max=8)
    )
