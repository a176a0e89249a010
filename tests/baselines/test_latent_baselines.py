"""Baselines that edit latents: what all of them promise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_domain import RESOLUTION
from torch import Tensor

from sdd_fast import training_loop
from sdd_fast.baselines import BASELINES, load_baseline
from sdd_fast.baselines.through_latents import LatentBaseline
from sdd_fast.domains import Domain, load_domain
from sdd_fast.domains.faces64.renderer import render, sample_faces

pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")

QUICK: dict[str, dict[str, Any]] = {
    "styleclip-mapper": {"steps": 3, "batch_size": 2, "lr": 0.3},
    "styleclip-optimization": {"steps": 3},
    "styleclip-direction": {"images": 2},
    "stylemc": {"steps": 3, "batch_size": 2},
    "delta-denoising": {
        "steps": 2, "batch_size": 2, "lr": 0.3, "guidance_scale": 7.5, "timesteps": (150, 800),
    },
}  # fmt: skip
TRAINED = [name for name, settings in QUICK.items() if "batch_size" in settings]
PROMPT = "white hair"


@pytest.fixture(scope="module")
def images() -> Tensor:
    return render(sample_faces(5, torch.Generator().manual_seed(3)), RESOLUTION)


def test_all_of_them_are_tested() -> None:
    there = {name for name, kind in BASELINES.items() if issubclass(kind, LatentBaseline)}
    assert there == set(QUICK)
    for name in there:
        kind = BASELINES[name]
        assert kind.name and kind.paper and not kind.supervised
        assert kind.GRID and all(len(values) > 1 for values in kind.GRID.values())


@pytest.mark.parametrize("name", QUICK)
def test_every_setting_that_is_searched_can_be_set(name: str, tiny: Domain) -> None:
    for setting, values in BASELINES[name].GRID.items():
        for value in values:
            load_baseline(name, tiny, **{setting: value})


@pytest.mark.parametrize("name", QUICK)
def test_an_image_is_edited_alone_as_among_others(name: str, tiny: Domain, images: Tensor) -> None:
    given, state = images.clone(), (torch.get_rng_state(), random.getstate())
    drawn = np.random.get_state()[1].copy()  # noqa: NPY002
    baseline = load_baseline(name, tiny, **QUICK[name])
    together = baseline.edit(images, PROMPT)
    assert torch.equal(images, given)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert np.array_equal(np.random.get_state()[1], drawn)  # noqa: NPY002
    assert together.shape == images.shape and together.dtype == torch.float32
    assert together.abs().max() <= 1 and not together.requires_grad
    alone = torch.cat([baseline.edit(image[None], PROMPT, seed=7) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    assert len(baseline.edit(images[:0], PROMPT)) == 0


@pytest.mark.parametrize("name", QUICK)
def test_it_changes_images_towards_the_text(name: str, tiny: Domain, images: Tensor) -> None:
    """All but the one that no CLIP guides, which only has to change them."""
    settings: dict[str, Any] = {
        "styleclip-direction": {"step": 0.3, "strength": 0.3},  # nets of random weights bend
        "delta-denoising": {},
    }.get(name, {"steps": 20, "identity_weight": 0.0, "l2_weight": 0.0})
    baseline = load_baseline(name, tiny, **QUICK[name] | settings)
    assert tiny.encoder is not None and tiny.clip is not None
    before = tiny.generator.synthesis(tiny.encoder(images)).clamp(-1, 1)
    after = baseline.edit(images, PROMPT)
    assert (after - before).abs().mean() > 1e-3
    if name != "delta-denoising":
        source, target = tiny.clip.encode_texts([tiny.source_text, PROMPT])
        wanted = target - source if name == "styleclip-direction" else target
        gain = (tiny.clip.encode_images(after) - tiny.clip.encode_images(before)) @ wanted
        assert gain.mean() > 0


@pytest.mark.parametrize("name", QUICK)
def test_results_repeat_and_hang_on_the_seed_of_the_training(
    name: str, tiny: Domain, images: Tensor
) -> None:
    first, again = (load_baseline(name, tiny, **QUICK[name]).edit(images, PROMPT) for _ in "12")
    assert torch.equal(first, again)
    if name in TRAINED:
        other = load_baseline(name, tiny, **QUICK[name], seed=1).edit(images, PROMPT)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", QUICK)
def test_a_prompt_is_prepared_once(
    name: str, tiny: Domain, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline, prepared = load_baseline(name, tiny, **QUICK[name]), []
    find = type(baseline)._find
    monkeypatch.setattr(
        type(baseline), "_find", lambda self, text: (prepared.append(text), find(self, text))[1]
    )
    baseline.prepare(PROMPT)
    baseline.prepare(PROMPT)
    edited = baseline.edit(images, PROMPT)
    assert prepared == [PROMPT]
    other = baseline.edit(images, "old face")
    assert prepared == [PROMPT, "old face"] and not torch.equal(edited, other)
    assert torch.equal(baseline.edit(images, PROMPT), edited)


@pytest.mark.parametrize("name", [name for name in QUICK if "steps" in QUICK[name]])
def test_as_many_steps_as_asked_for(
    name: str, tiny: Domain, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In preparing, or in editing where each image is optimized."""
    steps: list[int] = []
    learn = training_loop._Loop.learn
    monkeypatch.setattr(
        training_loop._Loop, "learn", lambda self, *given: (steps.append(1), learn(self, *given))
    )
    baseline = load_baseline(name, tiny, **QUICK[name])
    baseline.prepare(PROMPT)
    prepared = len(steps)
    baseline.edit(images, PROMPT)
    in_each = name == "styleclip-optimization"
    assert (prepared, len(steps) - prepared) == ((0, 3) if in_each else (QUICK[name]["steps"], 0))


@pytest.mark.parametrize("name", QUICK)
def test_bad_input_is_refused_before_any_work(name: str, tiny: Domain) -> None:
    baseline = load_baseline(name, tiny, **QUICK[name])
    fine = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    for images, told in (
        (fine[:, :, :8], rf"\[B, 3, {RESOLUTION}, {RESOLUTION}\]"),
        (fine[0], rf"\[B, 3, {RESOLUTION}, {RESOLUTION}\]"),
        (fine + 255, "255"),
        (fine * float("nan"), "nan"),
        (fine.byte(), "uint8"),
    ):
        with pytest.raises(ValueError, match=told):
            baseline.edit(images, PROMPT)
    with pytest.raises(ValueError, match="empty"):
        baseline.edit(fine, " ")
    with pytest.raises(TypeError, match="string"):
        baseline.prepare(3)  # type: ignore[arg-type]
    assert not baseline._found  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", QUICK)
def test_a_part_that_is_missing_is_named(name: str, tiny_folder: Path) -> None:
    folder = tiny_folder
    with pytest.raises(ValueError, match=r"needs an encoder.*tiny lacks"):
        load_baseline(name, load_domain(folder, encoder=None))
    if name != "delta-denoising":
        with pytest.raises(ValueError, match=r"CLIP, which the domain tiny lacks"):
            load_baseline(name, load_domain(folder, clip=None))
    without = load_domain(folder, identity=None)
    images = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    assert load_baseline(name, without, **QUICK[name]).edit(images, PROMPT).isfinite().all()


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("styleclip-mapper", {"steps": 0}, "steps"),
        ("styleclip-optimization", {"l2_weight": -1.0}, "l2_weight"),
        ("styleclip-direction", {"threshold": 1.0}, "threshold is a share"),
        ("styleclip-direction", {"strength": 0.0}, "strength"),
        ("stylemc", {"strength": float("nan")}, "strength"),
        ("stylemc", {"resolution": 24}, "power of two"),
        ("stylemc", {"resolution": 2 * RESOLUTION}, "power of two"),
        ("delta-denoising", {"guidance_scale": -1.0}, "guidance_scale"),
        ("delta-denoising", {"timesteps": ()}, "timesteps is empty"),
        ("delta-denoising", {"timesteps": (5000,)}, "5000"),
    ],
)  # fmt: skip
def test_settings_are_checked(name: str, wrong: dict[str, Any], told: str, tiny: Domain) -> None:
    with pytest.raises(ValueError, match=told):
        load_baseline(name, tiny, **wrong).prepare(PROMPT)
