"""DDIB and edit-friendly inversion: what they leave alone, and their equations written out."""

from __future__ import annotations

import pytest
import torch
from small_faces import small_faces
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.baselines.ddib import DDIB
from sdd_fast.baselines.edit_friendly import EditFriendly
from sdd_fast.baselines.image_noise import ImageNoise
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.held_out import sample_images
from sdd_fast.teacher.prior import DiffusionPrior


@pytest.fixture(scope="module")
def images() -> Tensor:
    return small_faces()


TARGET = "white hair"


@pytest.fixture(params=["tiny_prior64", "tiny_v64"])
def domain(request: pytest.FixtureRequest, tiny: Domain, monkeypatch: pytest.MonkeyPatch) -> Domain:
    """The tiny domain in float64, by a teacher that predicts the noise, and by one that predicts
    v."""
    prior = request.getfixturevalue(request.param)
    monkeypatch.setitem(vars(tiny), "prior", prior)
    return tiny


@pytest.fixture(scope="session")
def tiny_v64(tiny_sd_v: str) -> DiffusionPrior:
    return DiffusionPrior.from_pretrained(tiny_sd_v, dtype=torch.float64)


def levels(prior: DiffusionPrior, steps: int) -> tuple[list[int], Tensor]:
    """Timesteps from the largest on, and ᾱ of each and of what follows the last (SD's ᾱ_0)."""
    timesteps = [1 + i * (1000 // steps) for i in range(steps)][::-1]
    abar = prior.alphas_cumprod.double()
    return timesteps, torch.cat([abar[timesteps], abar[:1]])


@torch.no_grad()
def ddim(
    prior: DiffusionPrior, z: Tensor, t: int, a_from: Tensor, a_to: Tensor, prompt: str, g: float
) -> Tensor:
    """One step of the DDIM ODE between two levels, the noise predicted at t."""
    noise = prior.predict_noise(z, t, prior.encode_prompt(prompt), g)
    clean = (z - (1 - a_from).sqrt() * noise) / a_from.sqrt()
    return a_to.sqrt() * clean + (1 - a_to).sqrt() * noise


@pytest.mark.parametrize(("level", "taken"), [(1.0, 5), (0.6, 3)])
def test_ddib_inverts_by_ddim_and_generates_with_guidance(
    domain: Domain, images: Tensor, level: float, taken: int
) -> None:
    prior = domain.prior
    expected = prior.encode(images)
    timesteps, a = levels(prior, 5)
    for i in reversed(range(5 - taken, 5)):
        expected = ddim(prior, expected, timesteps[i], a[i + 1], a[i], "an old face", 1.0)
    for i in range(5 - taken, 5):
        expected = ddim(prior, expected, timesteps[i], a[i], a[i + 1], TARGET, 4.0)
    editor = DDIB(domain, steps=5, level=level, guidance_scale=4.0)
    assert editor.source_prompt == domain.source_text == "an old face"
    with torch.no_grad():
        found = editor._edited(images, prior.encode_prompt(TARGET), ImageNoise(images, 0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ddib_to_the_source_prompt_nearly_reconstructs() -> None:
    """By a trained teacher; the more steps, the nearer, as the noise is predicted at the wrong end
    of each step of the inversion."""
    domain, prompt = sdd.load_domain("faces64"), "a photo of a face"
    faces = sample_images(domain, 2)
    with torch.no_grad():
        kept = domain.prior.decode(domain.prior.encode(faces)).clamp(-1, 1)
    error = []
    for steps in (4, 25):
        editor = DDIB(domain, steps=steps, level=1.0, guidance_scale=1.0)
        error.append(float((editor.edit(faces, prompt) - kept).abs().mean()))
    assert error[1] < error[0] / 2 and error[1] < 0.05


def test_edit_friendly_inversion_is_that_of_the_paper(domain: Domain, images: Tensor) -> None:
    """Noise maps z_t by Eq. 5 and generation by Eq. 3, first one loop and then the other."""
    prior, steps, skipped = domain.prior, 5, 2
    z, noise = prior.encode(images), ImageNoise(images, 0)
    timesteps, a = levels(prior, steps)
    x = [
        a[i].sqrt() * z + (1 - a[i]).sqrt() * noise.draw(z.shape[1:], t).double()
        for i, t in enumerate(timesteps)
    ] + [z]

    @torch.no_grad()
    def mean_and_deviation(x_t: Tensor, i: int, prompt: str, g: float) -> tuple[Tensor, Tensor]:
        predicted = prior.predict_noise(x_t, timesteps[i], prior.encode_prompt(prompt), g)
        clean = (x_t - (1 - a[i]).sqrt() * predicted) / a[i].sqrt()
        deviation = ((1 - a[i + 1]) / (1 - a[i]) * (1 - a[i] / a[i + 1])).sqrt()
        towards = (1 - a[i + 1] - deviation**2).sqrt() * predicted
        return a[i + 1].sqrt() * clean + towards, deviation

    maps = {}
    for i in range(skipped, steps):
        mean, deviation = mean_and_deviation(x[i], i, "an old face", 1.5)
        maps[i] = (x[i + 1] - mean) / deviation
    expected = x[skipped]
    for i in range(skipped, steps):
        mean, deviation = mean_and_deviation(expected, i, TARGET, 4.0)
        expected = mean + deviation * maps[i]

    editor = EditFriendly(
        domain, steps=steps, skip=0.4, guidance_scale=4.0, source_guidance_scale=1.5
    )
    with torch.no_grad():
        found = editor._edited(images, prior.encode_prompt(TARGET), noise)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("skip", [0.0, 0.5])
def test_edit_friendly_inversion_with_the_same_prompt_gives_the_image_back(
    domain: Domain, images: Tensor, skip: float
) -> None:
    """To the rounding of float64, by a teacher of any weights."""
    prior = domain.prior
    z, noise = prior.encode(images), ImageNoise(images, 0)
    editor = EditFriendly(
        domain, steps=6, skip=skip, guidance_scale=3.5, source_guidance_scale=3.5,
        source_prompt=TARGET,
    )  # fmt: skip
    with torch.no_grad():
        found = editor._edited(images, prior.encode_prompt(TARGET), noise)
        other = editor._edited(images, prior.encode_prompt("a bald face"), noise)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-9)
    assert float((other - z).abs().max()) > 1e-3


def test_what_is_skipped_altogether_keeps_the_image(tiny: Domain, images: Tensor) -> None:
    prior = tiny.prior
    with torch.no_grad():
        kept = prior.decode(prior.encode(images)).clamp(-1, 1)
    for editor in (EditFriendly(tiny, skip=1.0), DDIB(tiny, level=0.0)):
        torch.testing.assert_close(editor.edit(images, TARGET), kept, rtol=0, atol=1e-5)
