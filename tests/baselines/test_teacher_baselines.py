"""What all baselines on a domain's own teacher have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_faces import small_faces
from tiny_domain import write_tiny_domain
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.baselines import BASELINES, load_baseline
from sdd_fast.baselines.teacher_baseline import TeacherBaseline
from sdd_fast.domains import Domain


@pytest.fixture(scope="module")
def images() -> Tensor:
    return small_faces()


PROMPT = "white hair"
SHORT: dict[str, dict[str, Any]] = {
    "sdedit": {"steps": 4, "level": 0.5},
    "sdedit-solver": {"steps": 6, "level": 0.5},
    "ddib": {"steps": 4, "level": 0.5},
    "edit-friendly": {"steps": 4, "skip": 0.5, "source_guidance_scale": 1.0},
    "ledits": {"steps": 4, "mask": "noise"},
}
"""Settings that take little time, guidance scales left out."""

# Rows of the U-Net for an image: of SDEdit two a step; of inversions one more.
ROWS = {"sdedit": 4, "sdedit-solver": 6, "ddib": 6, "edit-friendly": 6, "ledits": 12}

every = pytest.mark.parametrize("name", SHORT)


def short(name: str, domain: Domain, **more: Any) -> TeacherBaseline:
    made = load_baseline(name, domain, **SHORT[name], guidance_scale=3.0, **more)
    assert isinstance(made, TeacherBaseline)
    return made


def test_all_of_them_are_tested() -> None:
    assert [n for n, made in BASELINES.items() if issubclass(made, TeacherBaseline)] == [*SHORT]


@every
def test_an_image_does_not_depend_on_those_beside_it(
    tiny: Domain, images: Tensor, name: str
) -> None:
    together = short(name, tiny).edit(images, PROMPT, seed=3)
    assert together.shape == images.shape and together.dtype == torch.float32
    assert bool((together.abs() <= 1).all()) and not together.requires_grad
    other_order = short(name, tiny, batch_size=2).edit(images.flip(0), PROMPT, seed=3).flip(0)
    alone = torch.cat([short(name, tiny).edit(x[None], PROMPT, seed=3) for x in images])
    torch.testing.assert_close(other_order, together, rtol=0, atol=2e-4)
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-4)


@every
def test_the_prompt_matters_and_the_seed_where_something_is_drawn(
    tiny: Domain, images: Tensor, name: str
) -> None:
    editor = short(name, tiny)
    first = editor.edit(images[:2], PROMPT)
    torch.testing.assert_close(editor.edit(images[:2], PROMPT), first, rtol=0, atol=0)
    assert float((editor.edit(images[:2], "a bald face") - first).abs().max()) > 1e-3
    changed = float((editor.edit(images[:2], PROMPT, seed=1) - first).abs().max())
    assert changed == 0 if name == "ddib" else changed > 1e-3


@every
def test_rows_of_the_unet_are_as_many_as_the_method_says(
    tiny: Domain, images: Tensor, name: str
) -> None:
    editor, before = short(name, tiny), tiny.prior.unet_rows
    editor.edit(images, PROMPT)
    assert tiny.prior.unet_rows - before == 3 * ROWS[name]


@every
def test_what_surrounds_the_call_changes_nothing(tiny: Domain, images: Tensor, name: str) -> None:
    plain = short(name, tiny).edit(images[:1], PROMPT)
    given, state = images[:1].clone(), torch.random.get_rng_state()
    processors = list(tiny.prior.unet.attn_processors.values())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        surrounded = short(name, tiny).edit(given, PROMPT)
    torch.testing.assert_close(surrounded, plain, rtol=0, atol=1e-5)
    assert torch.equal(given, images[:1]) and torch.equal(torch.random.get_rng_state(), state)
    assert list(tiny.prior.unet.attn_processors.values()) == processors


@every
def test_bad_images_and_prompts_are_refused(tiny: Domain, images: Tensor, name: str) -> None:
    editor = short(name, tiny)
    for bad, told in (
        (images[0], r"\[B, 3, 32, 32\].*got \[3, 32, 32\]"),
        (images[..., :30], r"got \[3, 3, 32, 30\]; .*fit crops"),
        ((images * 127).to(torch.uint8), r"got torch.uint8; convert bytes"),
        (images * 127, r"got values up to 1\d\d.*; for values 0…255"),
        (torch.full_like(images, torch.nan), "got values up to nan"),
        ([images], "got list"),
    ):
        with pytest.raises(ValueError, match=told):
            editor.edit(bad, PROMPT)  # type: ignore[arg-type]
    for prompt in ("", "  ", None, ["a", "b"]):
        with pytest.raises(ValueError, match="prompt"):
            editor.edit(images, prompt)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed"):
        editor.edit(images, PROMPT, seed=-1)
    assert editor.edit(images[:0], PROMPT).shape == (0, 3, 32, 32)


@every
def test_bad_settings_are_refused(tiny: Domain, name: str) -> None:
    share = "skip" if name in ("edit-friendly", "ledits") else "level"
    for bad, told in (
        ({"steps": 0}, "steps must be a positive integer"),
        ({"steps": 1001}, "steps must be 1 to 1000, got 1001"),
        ({share: 1.5}, f"{share} must be 0 to 1, got 1.5"),
        ({share: -0.1}, f"{share} must be 0 or more"),
        ({"guidance_scale": torch.nan}, "guidance_scale must be 0 or more"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=told):
            load_baseline(name, tiny, **bad)
    with pytest.raises(TypeError, match="strength"):
        load_baseline(name, tiny, strength=0.5)


@every
def test_settings_tell_what_results_depend_on(tiny: Domain, name: str) -> None:
    settings = short(name, tiny, batch_size=2).settings
    assert SHORT[name].items() <= settings.items() and settings["guidance_scale"] == 3.0
    assert not {"domain", "batch_size"} & settings.keys()
    again = load_baseline(name, tiny, **settings)
    assert isinstance(again, TeacherBaseline) and again.settings == settings


def test_an_unknown_name_is_told_what_there_is(tiny: Domain) -> None:
    with pytest.raises(ValueError, match="unknown baseline 'sdedits'; there are: sdedit, "):
        load_baseline("sdedits", tiny)


@pytest.mark.parametrize("name", ["sdedit", "sdedit-solver", "ddib", "edit-friendly"])
def test_teachers_of_sdxl_and_in_half_precision_edit_too(
    tmp_path: Path, tiny_sdxl: Path, images: Tensor, name: str
) -> None:
    folder = write_tiny_domain(tmp_path / "tiny", tiny_sdxl)
    domain = sdd.load_domain(folder, dtype="bfloat16")
    edited = short(name, domain).edit(images, PROMPT)
    assert edited.shape == images.shape and bool(edited.isfinite().all())
    assert edited.dtype == torch.float32 and domain.prior.vae.dtype == torch.bfloat16


def test_ledits_refuses_a_teacher_of_sdxl(tmp_path: Path, tiny_sdxl: Path) -> None:
    domain = sdd.load_domain(write_tiny_domain(tmp_path / "tiny", tiny_sdxl))
    with pytest.raises(ValueError, match="SD 1.x and 2.x, not of SDXL"):
        load_baseline("ledits", domain)


def test_images_larger_than_the_teacher_sees_come_back_at_their_size(
    tiny: Domain, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdd_fast.baselines.teacher_baseline.image_size", lambda _: (64, 64))
    twice = images.repeat_interleave(2, 2).repeat_interleave(2, 3)  # whose reduction is `images`
    small = load_baseline("sdedit", tiny, level=0.0)
    monkeypatch.undo()
    large = small.edit(twice, PROMPT)
    assert large.shape == (3, 3, 64, 64)
    reduced = torch.nn.functional.avg_pool2d(large, 2)
    expected = load_baseline("sdedit", tiny, level=0.0).edit(images, PROMPT)
    assert float((reduced - expected).abs().mean()) < 0.03  # bicubic and back
    assert float((reduced - expected.roll(1, 0)).abs().mean()) > 0.03
