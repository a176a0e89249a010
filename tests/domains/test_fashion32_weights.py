"""The weights of fashion32, measured again; skipped where they are not installed."""

from __future__ import annotations

import pytest
import torch

from sdd_fast import DistillConfig, load_domain
from sdd_fast.distillation.distill import distill
from sdd_fast.domains import Domain
from sdd_fast.domains.embedded import find_weights
from sdd_fast.domains.evaluate import measure_parts
from sdd_fast.domains.fashion32.attributes import ATTRIBUTES
from sdd_fast.domains.fashion32.evaluate import held_out_garments
from sdd_fast.domains.fashion32.measure import measure_edit
from sdd_fast.domains.fashion32.photographs import brightness
from sdd_fast.metrics.attributes import read_attributes
from sdd_fast.selection.hqs import hqs

WEIGHTS = find_weights("fashion32")
pytestmark = pytest.mark.skipif(
    not (WEIGHTS / "domain.json").is_file(),
    reason='the weights of fashion32 are not installed: pip install "sdd-fast-fashion32==1.*"',
)


@pytest.fixture(scope="module")
def domain() -> Domain:
    return load_domain("fashion32")


def test_all_weights_together_stay_small() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert not [path for path in files if path.suffix in (".pt", ".bin", ".pkl", ".npy")]


def test_the_photographs_come_with_their_licence(domain: Domain) -> None:
    assert "Zalando SE" in (WEIGHTS / "LICENSE-fashion-mnist.txt").read_text(encoding="utf-8")
    held_out = held_out_garments(domain)
    assert len(held_out.images) > 900
    for name, values in ATTRIBUTES.items():
        shares = held_out.labels[name].bincount(minlength=len(values)) / len(held_out.images)
        assert (shares - 1 / len(values)).abs().max() < 0.05


def test_reconstruction_and_survival(domain: Domain) -> None:
    parts = measure_parts(domain, held_out_garments(domain))
    assert parts["vae_psnr"] >= 22 and parts["generator_psnr"] >= 18
    assert parts["classifier"]["kind"] >= 0.8 and parts["classifier"]["brightness"] >= 0.9
    assert parts["survival_generator"]["kind"] >= 0.7


def test_samples_follow_the_prompt(domain: Domain) -> None:
    rng = torch.Generator().manual_seed(7)
    images = domain.prior.sample(["dark clothes"] * 8 + ["light clothes"] * 8, 15, 5.0, rng=rng)
    shade = brightness((images.mean(1).clamp(-1, 1) + 1) * 127.5)
    assert shade[:8].mean() < 90 and shade[8:].mean() > 130
    bags = domain.prior.sample(["a bag"] * 10, 15, 5.0, rng=rng)
    seen = read_attributes(domain, bags)["kind"]
    assert (seen == ATTRIBUTES["kind"].index("bag")).double().mean() >= 0.7


def test_clothes_are_darkened_and_keep_their_kind(domain: Domain) -> None:
    """The main job, in a third of the usual steps: the target appears, the rest stays."""
    prompt = "dark clothes"
    curve = hqs(
        domain.prior, domain.held_out[:2], prompt, range(100, 1000, 200),
        generator=domain.generator, config=DistillConfig().guidance, progress=False,
    )  # fmt: skip
    result = distill(
        domain.prior, domain.generator, domain.w_plus, prompt, [curve.largest()],
        identity=domain.identity, w_std=domain.w_std, config=DistillConfig(steps=80),
        progress=False,
    )  # fmt: skip
    target = ("brightness", ("dark",))
    edited, unedited = (
        measure_edit(
            domain, result.mapper, result.info.lam, prompt,
            target=target, strength=strength, images=48,
        ) for strength in (1.0, 0.0)
    )  # fmt: skip
    assert unedited.success < 0.2
    assert edited.success >= 0.6 and edited.kept["kind"] >= unedited.kept["kind"] - 0.25
