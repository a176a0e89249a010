"""Baselines that are trained beforehand, by trainings of a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_faces import small_faces
from tiny_domain import write_tiny_domain
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.baselines import load_baseline
from sdd_fast.baselines.diffae import DiffAE, semantic_code
from sdd_fast.baselines.few_step import TEACHER_STEPS, FewStep, _Consistency, new_scheduler
from sdd_fast.baselines.image_noise import ImageNoise
from sdd_fast.baselines.instruct_pix2pix import InstructPix2Pix, _with_an_image_beside
from sdd_fast.baselines.train import TRAININGS, train_baseline, trainable_in
from sdd_fast.baselines.trained import ABOUT, copy_for_training
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.pairs import edited_pairs
from sdd_fast.domains.faces64.target import target_in
from sdd_fast.files import load_tensors
from sdd_fast.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore:the prompt .* only 16 are used:UserWarning")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return small_faces()


BUDGET = {"few-step": 0.003, "instruct-pix2pix": 0.001, "diffae": 0.001}
STEPS = {"few-step": 3, "instruct-pix2pix": 4, "diffae": 4}
ROWS = {"few-step": 2, "instruct-pix2pix": 2 * 3, "diffae": 2 * 2}
PROMPT = "white hair"

every = pytest.mark.parametrize("name", TRAININGS)


@pytest.fixture(scope="module")
def trained(tiny: Domain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return {
        name: train_baseline(name, tiny, folder / name, budget=BUDGET[name], progress=False)
        for name in TRAININGS
    }


@every
def test_what_is_trained_edits(
    tiny: Domain, images: Tensor, trained: dict[str, Path], name: str
) -> None:
    about = json.loads((trained[name] / ABOUT).read_text(encoding="utf-8"))
    assert about["baseline"] == name and about["training"]["steps"] == STEPS[name]
    editor = load_baseline(name, tiny, path=trained[name], steps=2)
    before = tiny.prior.unet_rows
    together = editor.edit(images, PROMPT)
    assert tiny.prior.unet_rows - before == 3 * ROWS[name]
    alone = torch.cat([editor.edit(x[None], PROMPT) for x in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-4)
    assert together.shape == images.shape and bool((together.abs() <= 1).all())
    assert float((editor.edit(images, "a bald face") - together).abs().max()) > 1e-4
    changed = float((editor.edit(images, PROMPT, seed=1) - together).abs().max())
    assert changed == 0 if name == "diffae" else changed > 1e-4
    assert editor.settings["path"] == str(trained[name])  # type: ignore[attr-defined]


@every
def test_a_training_that_was_stopped_ends_as_if_it_was_not(
    tiny: Domain, tmp_path: Path, trained: dict[str, Path], name: str
) -> None:
    def stop(event: Progress) -> None:
        if event.done == 1 and event.total == STEPS[name]:
            raise KeyboardInterrupt

    again = {"budget": BUDGET[name], "progress": stop}
    with pytest.raises(KeyboardInterrupt):
        train_baseline(name, tiny, tmp_path, **again)  # type: ignore[arg-type]
    assert not (tmp_path / ABOUT).exists()
    train_baseline(name, tiny, tmp_path, budget=BUDGET[name], progress=False)
    networks = [
        load_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors")[0]
        for folder in (tmp_path, trained[name])
    ]
    assert networks[0].keys() == networks[1].keys()
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
    with pytest.raises(ValueError, match="steps"):  # of another budget
        train_baseline(name, tiny, tmp_path, budget=0.01, progress=False)


def test_a_student_leaves_the_image_behind_noise_at_the_end_of_the_grid(tiny: Domain) -> None:
    prior, rng = tiny.prior, torch.Generator().manual_seed(0)
    consistent, text = _Consistency(prior), prior.encode_prompt(PROMPT).cond
    z = torch.randn(2, *prior.latent_shape, generator=rng)
    with torch.no_grad():
        ended = consistent(prior.unet, z, torch.zeros(2, dtype=torch.long), text.expand(2, -1, -1))
    assert torch.equal(ended, z)


def test_a_student_takes_for_the_image_what_the_scheduler_of_diffusers_does(tiny: Domain) -> None:
    prior, rng = tiny.prior, torch.Generator().manual_seed(0)
    consistent, text = _Consistency(prior), prior.encode_prompt(PROMPT).cond
    scheduler = new_scheduler(prior)
    scheduler.set_timesteps(TEACHER_STEPS)
    assert sorted(scheduler.timesteps.tolist()) == consistent.timesteps[1:].tolist()
    z_t = torch.randn(1, *prior.latent_shape, generator=rng)
    for i in (1, 7, TEACHER_STEPS):
        t = consistent.timesteps[i : i + 1]
        with torch.no_grad():
            ours = consistent(prior.unet, z_t, t, text)
            output = prior.unet(z_t, t, encoder_hidden_states=text).sample
        scheduler._step_index = None
        theirs = scheduler.step(output, int(t), z_t, generator=rng).denoised
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_step_of_the_teacher_is_one_of_ddim(tiny: Domain) -> None:
    prior, rng = tiny.prior, torch.Generator().manual_seed(0)
    z_t, noise = torch.randn(2, 2, *prior.latent_shape, generator=rng)
    t, later = torch.tensor([499, 999]), torch.tensor([479, 979])
    found = _Consistency(prior).ddim(z_t, noise, t, later).double()
    a = prior.alphas_cumprod.double()
    a_t, a_later = (a[i].view(-1, 1, 1, 1) for i in (t, later))
    clean = (z_t - (1 - a_t).sqrt() * noise) / a_t.sqrt()
    expected = a_later.sqrt() * clean + (1 - a_later).sqrt() * noise
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_instruct_pix2pix_equals_the_pipeline_of_diffusers(
    tiny: Domain, images: Tensor, trained: dict[str, Path]
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline

    prior = tiny.prior
    editor = load_baseline(
        "instruct-pix2pix", tiny, path=trained["instruct-pix2pix"], steps=3, guidance_scale=4.0,
        image_guidance_scale=1.3,
    )  # fmt: skip
    assert isinstance(editor, InstructPix2Pix)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        prior.vae, prior.text_encoder, prior.tokenizer, editor.unet,
        DDIMScheduler.from_config(prior.scheduler.config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    z, embeds, noise = prior.encode(images), prior.encode_prompt(PROMPT), ImageNoise(images, 0)
    cond, uncond = embeds.expand(3)
    theirs = pipeline(
        image=z / prior.vae.config.scaling_factor, prompt_embeds=cond,
        negative_prompt_embeds=uncond, latents=noise.draw(z.shape[1:]), num_inference_steps=3,
        guidance_scale=4.0, image_guidance_scale=1.3, output_type="latent",
    ).images  # fmt: skip
    with torch.no_grad():
        ours = editor._edited(images, embeds, noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_a_unet_that_sees_an_image_begins_as_the_teacher(tiny: Domain) -> None:
    prior = tiny.prior
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    unet, text = _with_an_image_beside(copy_for_training(prior)), prior.encode_prompt(PROMPT).cond
    given = {"timestep": 500, "encoder_hidden_states": text.expand(2, -1, -1)}
    with torch.no_grad():
        beside = unet(torch.cat([z, z.flip(0)], 1), **given).sample
        torch.testing.assert_close(beside, prior.unet(z, **given).sample, rtol=1e-5, atol=1e-5)
    assert all(weight.requires_grad for weight in unet.parameters())


def test_pairs_of_rendered_faces_differ_in_what_their_caption_says() -> None:
    rng = torch.Generator().manual_seed(0)
    before, after, captions = edited_pairs(64, 64, rng)
    domain = sdd.load_domain("faces64")
    assert domain.classifier is not None
    read = [{k: v.argmax(1) for k, v in domain.classifier(x).items()} for x in (before, after)]
    changed = kept = 0
    for i, caption in enumerate(captions):
        target = target_in(caption)
        assert target is not None
        attribute, values = target
        named = [domain_value(attribute, int(one[attribute][i])) for one in read]
        changed += named[1] in values and (named[0] != named[1])
        others = [k for k in read[0] if not k.startswith("hair") and k != attribute]
        kept += sum(int(read[0][k][i] == read[1][k][i]) for k in others) / len(others)
    assert changed > 0.9 * 64 and kept > 0.97 * 64


def domain_value(attribute: str, index: int) -> str:
    from sdd_fast.domains.faces64.attributes import ATTRIBUTES

    return ATTRIBUTES[attribute][index]


def test_a_folder_of_something_else_is_refused(
    tiny: Domain, trained: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="holds no baseline.json: train it with"):
        load_baseline("few-step", tiny, path=tmp_path)
    with pytest.raises(ValueError, match="is of 'instruct-pix2pix' in the domain 'tiny', not of"):
        load_baseline("few-step", tiny, path=trained["instruct-pix2pix"])
    with pytest.raises(FileExistsError, match="would be replaced; choose another folder"):
        train_baseline("few-step", tiny, trained["instruct-pix2pix"], progress=False)
    (tmp_path / ABOUT).write_text('{"baseline": "few-step", "domain": "tiny"}', encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="holds no U-Net of diffusers; train it again"):
        load_baseline("few-step", tiny, path=tmp_path)


def test_what_cannot_be_trained_is_refused(
    tiny: Domain, tiny_sd: Path, tiny_sdxl: Path, tmp_path: Path
) -> None:
    def train(name: str, domain: Domain = tiny, **more: Any) -> None:
        train_baseline(name, domain, tmp_path / "out", progress=False, **more)

    with pytest.raises(ValueError, match="'sdedit' is not trained; these are: few-step, "):
        train("sdedit")
    with pytest.raises(ValueError, match="budget is a factor"):
        train("few-step", budget=0.0)
    unlabeled = sdd.load_domain(write_tiny_domain(tmp_path / "plain", tiny_sd, faces=False))
    for name in ("few-step", "diffae"):
        with pytest.raises(ValueError, match="images is needed: a folder of captioned images"):
            train(name, unlabeled)
    with pytest.raises(ValueError, match="only domains of rendered images draw; tiny is none"):
        train("instruct-pix2pix", unlabeled)
    assert trainable_in(unlabeled) == ["few-step", "diffae"] and set(trainable_in(tiny)) == {
        *TRAININGS
    }
    with pytest.raises(ValueError, match="faces64 draws its faces: give no folder"):
        train("few-step", images=tmp_path)
    xl = sdd.load_domain(write_tiny_domain(tmp_path / "xl", tiny_sdxl))
    for name in TRAININGS:
        with pytest.raises(ValueError, match="SD 1.x and 2.x, not of SDXL"):
            train(name, xl)


def test_a_domain_of_clothing_learns_from_the_files_that_it_came_from(
    tiny_sd: Path, tmp_path: Path
) -> None:
    folder = write_tiny_domain(tmp_path / "clothes", tiny_sd, clothes=True)
    clothes = sdd.load_domain(folder)
    assert trainable_in(clothes) == ["few-step", "diffae"]
    with pytest.raises(FileNotFoundError, match="the photographs of Fashion-MNIST are expected"):
        train_baseline("few-step", clothes, tmp_path / "out", images=tmp_path, progress=False)
    out = train_baseline(
        "few-step", clothes, tmp_path / "out", images=folder / "files", budget=0.001, progress=False
    )
    student = load_baseline("few-step", clothes, path=out)
    assert student.edit(torch.zeros(1, 3, 32, 32), "a bag").shape == (1, 3, 32, 32)


def test_a_direction_of_the_code_tells_what_the_domain_says_is_like_the_prompt(
    tiny: Domain, trained: dict[str, Path]
) -> None:
    editor = load_baseline("diffae", tiny, path=trained["diffae"])
    assert isinstance(editor, DiffAE) and tiny.clip is not None
    with torch.no_grad():
        images = tiny.generator.synthesis(tiny.w_plus).clamp(-1, 1)
        texts = tiny.clip.encode_texts([PROMPT, tiny.source_text])
        like = tiny.clip.encode_images(images) @ (texts[0] - texts[1])
        code = semantic_code(editor._encoder, images)
    change = editor._change(PROMPT)
    third = len(images) // 3
    along = ((code - code.mean(0)) / code.std(0) @ (change / code.std(0)))[like.argsort()]
    assert float(along[-third:].min()) > float(along[:third].max())
    moved = (change / code.std(0)).square().mean().sqrt()
    assert float(moved) == pytest.approx(1, rel=1e-3)  # a standard deviation of each element


def test_diffae_goes_to_noise_by_its_code_and_back_by_the_changed_one(
    tiny: Domain, images: Tensor, trained: dict[str, Path]
) -> None:
    prior = tiny.prior
    editor = load_baseline("diffae", tiny, path=trained["diffae"], steps=2, strength=0.3)
    assert isinstance(editor, DiffAE)
    a = torch.cat([prior.alphas_cumprod[[501, 1]], prior.alphas_cumprod[:1]])
    code = semantic_code(editor._encoder, images)
    z = prior.encode(images)

    def step(z: Tensor, t: int, code: Tensor, a_from: Tensor, a_to: Tensor) -> Tensor:
        noise = editor.unet(z, t, encoder_hidden_states=code.view(3, 4, -1)).sample
        clean = (z - (1 - a_from).sqrt() * noise) / a_from.sqrt()
        return a_to.sqrt() * clean + (1 - a_to).sqrt() * noise

    with torch.no_grad():
        z = step(step(z, 1, code, a[2], a[1]), 501, code, a[1], a[0])
        code = code + 0.3 * editor._change(PROMPT)
        z = step(step(z, 501, code, a[0], a[1]), 1, code, a[1], a[2])
        expected = prior.decode(z).clamp(-1, 1)
    torch.testing.assert_close(editor.edit(images, PROMPT), expected, rtol=0, atol=1e-3)


def test_few_steps_need_a_level_that_has_them(tiny: Domain, trained: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="level 0.06 has 3 steps of the teacher, fewer than"):
        FewStep(tiny, trained["few-step"], steps=4, level=0.06)
