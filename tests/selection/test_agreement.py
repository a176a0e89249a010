"""The gate of `sdd bench precision`: cosines by hand, and what "auto" makes of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.image_gradient import EncodedImages, image_gradient
from sdd_fast.selection.agreement import Agreement, measure_agreement
from sdd_fast.selection.hqs import hqs, image_noise
from sdd_fast.teacher import precision
from sdd_fast.teacher.precision import gate_results
from sdd_fast.teacher.prior import DiffusionPrior

PROMPT, TIMESTEPS = "white hair", (200, 500, 800)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "fastest_dtype", lambda device: torch.bfloat16)
    # Which timesteps a curve has by default is tested with curves; here few are quicker.
    monkeypatch.setattr("sdd_fast.selection.hqs.default_timesteps", lambda _: [200, 400, 600, 800])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return float(a @ b / a.norm() / b.norm())


@pytest.mark.parametrize("kind", ["tiny_sd", "tiny_sd_v"])
def test_figures_are_those_of_gradients_and_curves(
    kind: str, images: Tensor, request: pytest.FixtureRequest
) -> None:
    load = partial(DiffusionPrior.from_pretrained, request.getfixturevalue(kind))
    (found,) = measure_agreement(
        lambda dtype: load(dtype=dtype), images, PROMPT, {"bfloat16": ["sdpa"]}, TIMESTEPS,
        progress=False,
    )  # fmt: skip
    config, unet, vae = GuidanceConfig(guidance_scale=100.0), [], []
    exact, rounded = load(dtype="float32"), load(dtype="bfloat16")
    for i in range(2):
        y, noise = images[i : i + 1], image_noise(exact, 0, i, 1, config)
        for t in TIMESTEPS:
            d, e = (
                image_gradient(p, y, p.encode_prompt(PROMPT), t, noise, config)
                for p in (exact, rounded)
            )
            unet.append(cosine(d, e))
            r = torch.randn(1, *exact.latent_shape, generator=torch.Generator().manual_seed(t))
            vae.append(cosine(*(EncodedImages(p, y).gradient(r) for p in (exact, rounded))))
    assert found.unet == pytest.approx(sum(unet) / 6, abs=1e-6)
    assert found.unet_lowest == pytest.approx(min(unet), abs=1e-6)
    assert 1 - found.vae < 10 * (1 - sum(vae) / 6) and 0 < 1 - found.vae < 1e-3
    choice = [
        hqs(p, images, PROMPT, TIMESTEPS, config=config, progress=False) for p in (exact, rounded)
    ]
    assert [found.expected, found.timestep] == [curve.largest() for curve in choice]


def test_float32_agrees_with_itself(tiny_prior: DiffusionPrior, images: Tensor) -> None:
    (found,) = measure_agreement(
        lambda dtype: tiny_prior, images[:1], PROMPT, {"float32": ["sdpa"]}, TIMESTEPS,
        progress=False,
    )  # fmt: skip
    assert found.passed
    assert [found.vae, found.unet, found.unet_lowest] == pytest.approx([1, 1, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"vae": 0.9989}, False),
        ({"unet": 0.989}, False),
        ({"timestep": 550}, False),
        ({"vae": math.nan}, False),
        ({"problem": "no such kernel"}, False),
    ],
)
def test_bounds_of_the_gate(change: dict[str, object], passed: bool) -> None:
    good = Agreement("float16", "sdpa", 0.999, 0.9, 0.99, 0.9, timestep=500, expected=500)
    found = replace(good, **change)
    assert found.passed == passed and bool(found.failure) != passed


def test_a_failure_names_the_figure_and_its_bound() -> None:
    failed = Agreement("float16", "sdpa", 0.99899, 0.9, 0.5, 0.4, timestep=500, expected=550)
    for told in ("VAE alone 0.99899, at least 0.999", "whole 0.5, at least 0.99",
                 "timestep 500, float32 chooses 550"):  # fmt: skip
        assert told in failed.failure


def test_auto_refuses_what_failed_and_says_what_is_not_known(
    tiny_sd: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = partial(DiffusionPrior.from_pretrained, tiny_sd)
    with pytest.warns(UserWarning, match="auto takes bfloat16, whose error is not measured"):
        assert load(dtype="auto").dtype == torch.bfloat16
    monkeypatch.setattr("sdd_fast.selection.agreement.LEAST_VAE", -1)
    monkeypatch.setattr(Agreement, "timestep", 500, raising=False)
    for least, expected in ((-1, torch.bfloat16), (1.5, torch.float32)):
        monkeypatch.setattr("sdd_fast.selection.agreement.LEAST_UNET", least)
        gate(load, images, ["sdpa", "xformers"])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            prior = load(dtype="auto")
        assert prior.dtype == prior.vae.dtype == expected
        messages = [str(w.message) for w in told if "dtype=auto" in str(w.message)]
        assert len(messages) == (expected == torch.float32)
        assert all("failed the gate" in m and "at least 1.5" in m for m in messages)
        kept = gate_results(load(dtype="float32"), prior.device, torch.bfloat16)
        assert kept.keys() == {"sdpa"}  # xformers is not installed
        assert (kept["sdpa"] == "") == (expected == torch.bfloat16)


def gate(load: Any, images: Tensor, backends: Sequence[str], timesteps: Any = None) -> Agreement:
    """Four images, and timesteps by default: what is kept for "auto"."""
    given = images[[0, 1, 0, 1]]
    found = measure_agreement(
        lambda dtype: load(dtype=dtype), given, PROMPT, {"bfloat16": backends}, timesteps,
        progress=False,
    )  # fmt: skip
    return found[0]


def test_a_short_gate_decides_nothing(tiny_sd: Path, images: Tensor) -> None:
    load = partial(DiffusionPrior.from_pretrained, tiny_sd)
    exact = load()
    three = measure_agreement(
        lambda dtype: load(dtype=dtype), images[[0, 1, 0]], PROMPT, {"bfloat16": ["sdpa"]},
        progress=False,
    )  # fmt: skip
    few = gate(load, images, ["sdpa"], TIMESTEPS)
    assert not three[0].kept and not few.kept
    assert gate_results(exact, exact.device, torch.bfloat16) == {}
    assert gate(load, images, ["sdpa"]).kept
    assert gate_results(exact, exact.device, torch.bfloat16).keys() == {"sdpa"}


@pytest.mark.parametrize(
    "other", [{"beta_end": 0.013}, {"prediction_type": "v_prediction"}, {"beta_schedule": "linear"}]
)
def test_another_schedule_on_the_same_weights_is_another_teacher(
    tiny_sd: Path, other: dict[str, Any]
) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd)
    precision.keep_gate_result(prior, prior.device, torch.bfloat16, "sdpa", "")
    changed = DDIMScheduler.from_config(prior.scheduler.config, **other)
    parts = (prior.vae, prior.unet, prior.text_encoder, prior.tokenizer)
    same, different = DiffusionPrior(*parts, prior.scheduler), DiffusionPrior(*parts, changed)
    assert gate_results(same, prior.device, torch.bfloat16) == {"sdpa": ""}
    assert gate_results(different, prior.device, torch.bfloat16) == {}


def test_float32_kept_by_auto_is_not_rounded(tiny_sd: Path, images: Tensor) -> None:
    exact = DiffusionPrior.from_pretrained(tiny_sd)
    precision.keep_gate_result(exact, exact.device, torch.bfloat16, "sdpa", "it is off")
    with pytest.warns(UserWarning, match="takes float32"):
        prior = DiffusionPrior.from_pretrained(tiny_sd, dtype="auto")
    assert torch.equal(prior.unet.conv_in.weight, exact.unet.conv_in.weight)


def test_gradients_that_are_not_finite_fail(tiny_sd: Path, images: Tensor) -> None:
    def load(dtype: str) -> DiffusionPrior:
        prior = DiffusionPrior.from_pretrained(tiny_sd, dtype=dtype)
        if dtype == "float16":
            prior.unet.conv_in.weight.data.fill_(6e4)
        return prior

    (found,) = measure_agreement(
        load, images[:1], PROMPT, {"float16": ["sdpa"]}, [500], progress=False
    )
    assert not found.passed and found.timestep is None and math.isnan(found.unet)
