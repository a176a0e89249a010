"""The shipped weights, measured again on faces of other seeds than those in the model card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sdd_fast import DistillConfig, load_domain
from sdd_fast.distillation.distill import distill
from sdd_fast.domains.domain import EMBEDDED
from sdd_fast.domains.evaluate import measure_parts
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.evaluate import held_out_faces
from sdd_fast.domains.faces64.measure import measure_edit, read_attributes
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.selection.hqs import hqs

SEED = 77_000
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"


@pytest.fixture(scope="module")
def domain():
    return load_domain("faces64")


def test_all_weights_together_stay_small():
    files = list(EMBEDDED["faces64"].rglob("*.safetensors"))
    assert len(files) >= 10
    assert sum(f.stat().st_size for f in files) < 40e6
    assert not [f for f in EMBEDDED["faces64"].rglob("*") if f.suffix in (".pt", ".bin", ".pkl")]


def test_reconstruction_and_survival(domain):
    parts = measure_parts(domain, held_out_faces(domain, images=128, seed=SEED))
    assert parts["vae_psnr"] >= 29 and parts["generator_psnr"] >= 28
    survival = dict(parts["survival_generator"])
    assert survival.pop("expression") >= 0.85
    assert min(survival.values()) >= 0.95
    assert min(parts["classifier"].values()) >= 0.97


def test_latents_of_the_teacher_are_white(domain):
    z = domain.prior.encode(render(sample_faces(128, torch.Generator().manual_seed(SEED))))
    assert z.mean((0, 2, 3)).abs().max() < 0.1
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.1


def test_samples_follow_the_prompt(domain):
    rng = torch.Generator().manual_seed(SEED)
    prompts = ["a face with white hair"] * 10 + ["a surprised face"] * 10
    images = domain.prior.sample(prompts, 15, 5.0, rng=rng)
    seen = read_attributes(domain, images)
    assert (seen["hair_color"][:10] == 4).double().mean() >= 0.7
    assert (seen["expression"][10:] == 3).double().mean() >= 0.7


def prompts_of_the_guide() -> tuple[list[str], list[str]]:
    """Those that the teacher follows, and that it ignores, by the guide's table of words."""
    text = GUIDE.read_text(encoding="utf-8")
    table = text.split("\n## Domains\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| ([^|]*…[^|]*) \| ([^|]*) \| ([^|]*)\|$", table, re.MULTILINE)
    follows, ignores = (
        [
            row[0].replace("…", words)
            for row in rows
            for words in row[k].strip().split(", ")
            if words
        ]
        for k in (1, 2)
    )
    return follows, ignores


def test_the_teacher_follows_and_ignores_the_words_that_the_guide_says(domain):
    """By how far they move its prediction, in shares of what "a face with glasses" does."""
    prior, rng = domain.prior, torch.Generator().manual_seed(SEED)
    z = prior.encode(render(sample_faces(4, rng)))
    noise = torch.randn(z.shape, generator=rng)

    @torch.no_grad()
    def predicted(prompt: str) -> torch.Tensor:
        embeds = prior.encode_prompt(prompt)
        noised = [(t, prior.add_noise(z, noise, t)) for t in (500, 800)]
        return torch.stack([prior.predict_noise(z_t, t, embeds, 1.0) for t, z_t in noised])

    plain = predicted(domain.source_text)
    follows, ignores = prompts_of_the_guide()
    assert len(follows) >= 25 and len(ignores) >= 5 and set(EDITS) <= set(follows)
    moves = {prompt: predicted(prompt) - plain for prompt in (*follows, *ignores)}
    glasses = moves["a face with glasses"].norm()
    shares = {prompt: float(move.norm() / glasses) for prompt, move in moves.items()}
    assert min(shares[prompt] for prompt in follows) >= 0.15, shares
    assert max(shares[prompt] for prompt in ignores) <= 0.1, shares
    bearded = (predicted("a face with no beard") - plain).flatten()
    assert torch.cosine_similarity(bearded, moves["a face with a beard"].flatten(), 0) > 0.9


def test_generator_draws_faces_from_z(domain):
    """Samples of the mapping network look like faces to the judge, noise does not."""
    rng = torch.Generator().manual_seed(SEED)
    images = domain.generator(torch.randn(32, domain.generator.z_dim, generator=rng)).clamp(-1, 1)
    again = domain.generator.synthesis(domain.encoder(images)).clamp(-1, 1)
    assert (again - images).abs().mean() < 0.1
    assert images.std(0).mean() > 0.1  # and they differ


def test_clip_tells_prompts_apart(domain):
    people = sample_faces(64, torch.Generator().manual_seed(SEED))
    text = domain.clip.encode_texts(["a smiling face", "an angry face"])
    closer = []
    for i, value in enumerate(("smiling", "angry")):
        similarity = (
            domain.clip.encode_images(render(people.with_labels(expression=value))) @ text.T
        )
        closer.append((similarity.argmax(1) == i).double().mean())
    assert min(closer) >= 0.9


def test_identity_ignores_expression_and_tells_persons_apart(domain):
    people = sample_faces(64, torch.Generator().manual_seed(SEED))
    a = domain.identity(render(people.with_labels(expression="neutral")))
    b = domain.identity(render(people.with_labels(expression="surprised")))
    similarity = a @ b.T
    same, other = similarity.diagonal(), similarity[~torch.eye(64, dtype=torch.bool)]
    assert same.mean() > 0.8 and same.mean() > other.mean() + 0.5


def test_one_edit_from_selection_to_measurement(domain):
    """The main job, with few steps of few faces: the target appears, the rest stays."""
    prompt = "a surprised face"
    assert prompt in EDITS
    curve = hqs(
        domain.prior, domain.held_out[:2], prompt, range(100, 1000, 200),
        generator=domain.generator, config=DistillConfig().guidance, progress=False,
    )  # fmt: skip
    assert curve.largest() >= 300  # never among the timesteps that carry texture only
    result = distill(
        domain.prior, domain.generator, domain.w_plus, prompt, [curve.largest()],
        identity=domain.identity, w_std=domain.w_std, config=DistillConfig(steps=60, batch_size=4),
        progress=False,
    )  # fmt: skip
    quality = measure_edit(domain, result.mapper, result.info.lam, prompt, images=48, seed=SEED)
    assert quality.success >= 0.8 and quality.kept_mean >= 0.85
