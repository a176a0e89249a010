"""SDEdit beside diffusers' image-to-image pipeline, and at both ends of its level."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_faces import small_faces
from torch import Tensor

from sdd_fast.baselines.image_noise import ImageNoise
from sdd_fast.baselines.sdedit import SDEdit, SDEditBySolver
from sdd_fast.domains import Domain
from sdd_fast.teacher.prior import DiffusionPrior


@pytest.fixture(scope="module")
def images() -> Tensor:
    return small_faces()


SOLVERS = ["ddim", "dpm-solver++"]


class Drawn(ImageNoise):
    """Noise that was drawn before."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def draw(self, shape: Any, *numbers: int) -> Tensor:
        return self.noise


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_equals_the_image_to_image_pipeline_of_diffusers(
    tiny: Domain, images: Tensor, solver: str
) -> None:
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        StableDiffusionImg2ImgPipeline,
    )

    prior = tiny.prior
    scheduler = (
        DDIMScheduler.from_config(prior.scheduler.config)
        if solver == "ddim"
        else DPMSolverMultistepScheduler.from_config(
            prior.scheduler.config, algorithm_type="dpmsolver++"
        )
    )
    pipeline = StableDiffusionImg2ImgPipeline(
        prior.vae, prior.text_encoder, prior.tokenizer, prior.unet, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    z, embeds = prior.encode(images), prior.encode_prompt("white hair")
    cond, uncond = embeds.expand(3)
    made = pipeline(
        image=z, prompt_embeds=cond, negative_prompt_embeds=uncond, strength=0.75,
        num_inference_steps=8, guidance_scale=4.0, generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images  # fmt: skip

    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    editor = SDEdit(tiny, solver=solver, steps=8, level=0.75, guidance_scale=4.0)
    with torch.no_grad():
        ours = editor._edited(images, embeds, Drawn(noise))
    torch.testing.assert_close(ours, made, rtol=0, atol=1e-4 * float(made.abs().max()))


@pytest.mark.parametrize("level", [0.0, 0.01])
@pytest.mark.parametrize("solver", SOLVERS)
def test_towards_level_0_the_image_stays_but_for_the_vae(
    tiny: Domain, images: Tensor, solver: str, level: float
) -> None:
    prior = tiny.prior
    with torch.no_grad():
        kept = prior.decode(prior.encode(images)).clamp(-1, 1)
    edited = SDEdit(tiny, solver=solver, steps=10, level=level).edit(images, "white hair")
    torch.testing.assert_close(edited, kept, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_at_level_1_nothing_of_the_image_is_left(tiny: Domain, images: Tensor, solver: str) -> None:
    prior, embeds = tiny.prior, tiny.prior.encode_prompt("white hair")
    noise = Drawn(torch.randn(3, *prior.latent_shape, generator=torch.Generator().manual_seed(0)))
    made = {}
    for level in (0.8, 1.0):
        editor = SDEdit(tiny, solver=solver, steps=5, level=level, guidance_scale=2.0)
        with torch.no_grad():
            made[level] = [editor._edited(x, embeds, noise) for x in (images, images.flip(0))]
    assert torch.equal(*made[1.0])
    assert not torch.equal(*made[0.8])


def test_guidance_1_takes_one_row_a_step(tiny: Domain, images: Tensor) -> None:
    before = tiny.prior.unet_rows
    SDEditBySolver(tiny, steps=4, level=1.0, guidance_scale=1.0).edit(images, "white hair")
    assert tiny.prior.unet_rows - before == 4 * 3


def test_noise_belongs_to_an_image_and_is_normal(images: Tensor) -> None:
    noise = ImageNoise(images, 0).draw((4, 64, 64))
    assert noise.shape == (3, 4, 64, 64)
    assert torch.equal(ImageNoise(images[1:2], 0).draw((4, 64, 64))[0], noise[1])
    others = [ImageNoise(images, 1).draw((4, 64, 64)), ImageNoise(images, 0).draw((4, 64, 64), 7)]
    for other in others:
        assert abs(float((noise * other).mean())) < 0.02
    assert abs(float((noise[0] * noise[1]).mean())) < 0.03
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    # rounding of 8 bits: what a file of the image would hold
    assert torch.equal(ImageNoise((images + 1e-6).clamp(-1, 1), 0).draw((1,)), noise_of(images))


def noise_of(images: Tensor) -> Tensor:
    return ImageNoise(images, 0).draw((1,))


def test_an_unknown_solver_is_refused(tiny: Domain) -> None:
    with pytest.raises(ValueError, match="unknown solver 'euler'; there are: ddim, dpm-solver"):
        SDEdit(tiny, solver="euler")


def test_a_teacher_with_zero_terminal_snr_says_where_it_has_no_signal(
    tiny: Domain, tiny_sd_v: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd_v)
    monkeypatch.setattr(prior.schedule, "with_signal", 900)
    monkeypatch.setitem(vars(tiny), "prior", prior)
    with pytest.raises(ValueError, match="timestep 981 carries no signal.*up to 899"):
        SDEdit(tiny, level=1.0).edit(images, "white hair")
