"""The delta of residuals against the formula in float64, from the raw networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.dds import delta_residual
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import PromptEmbeds

TIMESTEPS, SCALE = [40, 500, 900], 12.0


def randn(seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 8, 8, generator=rng, dtype=torch.float64)


def predicted(
    prior: DiffusionPrior, z: Tensor, t: int, noise: Tensor, text: PromptEmbeds, scale: float
) -> Tensor:
    """ε̂ of one latent [1, C, h, w], by two calls of the U-Net."""
    abar = float(prior.alphas_cumprod[t])
    z_t = abar**0.5 * z + (1 - abar) ** 0.5 * noise
    without = prior.unet(z_t, t, encoder_hidden_states=text.uncond).sample
    return without + scale * (prior.unet(z_t, t, encoder_hidden_states=text.cond).sample - without)


@pytest.mark.parametrize("scales", [None, [12.0, 3.0, 1.0]], ids=["one scale", "of each"])
def test_it_is_the_weighted_difference_of_two_predictions(
    tiny_prior64: DiffusionPrior, scales: list[float] | None
) -> None:
    prior = tiny_prior64
    target, source = (prior.encode_prompt(text) for text in ("white hair", "old face"))
    z, original, noise = randn(1), randn(2), randn(3)
    given = None if scales is None else torch.tensor(scales, dtype=torch.float64)
    config = GuidanceConfig(SCALE)
    r = delta_residual(prior, z, original, target, source, TIMESTEPS, noise, config, given)
    assert r.dtype == torch.float64 and not r.requires_grad
    for i, t in enumerate(TIMESTEPS):
        one, scale = slice(i, i + 1), SCALE if scales is None else scales[i]
        expected = (1 - float(prior.alphas_cumprod[t])) * (
            predicted(prior, z[one], t, noise[one], target, scale)
            - predicted(prior, original[one], t, noise[one], source, scale)
        )
        assert expected.abs().max() > 0
        torch.testing.assert_close(r[one], expected)
    clipped = GuidanceConfig(SCALE, clip_topk=7)
    kept = delta_residual(prior, z, original, target, source, TIMESTEPS, noise, clipped, given)
    assert [int(row.count_nonzero()) for row in kept] == [7, 7, 7]
    assert torch.equal(kept[kept != 0], r[kept != 0])
    for row, whole in zip(kept, r, strict=True):
        assert row[row != 0].abs().min() >= whole[row == 0].abs().max()
    scaled = GuidanceConfig(SCALE, clip_topk=7, residual_rms=2.0)
    sized = delta_residual(prior, z, original, target, source, TIMESTEPS, noise, scaled, given)
    sizes = kept.pow(2).mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(sized, 2 * kept / sizes)


def test_nothing_is_asked_of_what_is_not_edited(tiny_prior: DiffusionPrior) -> None:
    """To the bit, in float32 as well: a mapper that starts as no change is not moved."""
    z, noise = randn(1).float(), randn(3).float()
    text, again = (tiny_prior.encode_prompt("an old face") for _ in range(2))
    for config in (GuidanceConfig(SCALE), GuidanceConfig(1.0, clip_topk=5)):
        r = delta_residual(tiny_prior, z, z.clone(), text, again, TIMESTEPS, noise, config)
        assert not r.any()
        other = tiny_prior.encode_prompt("white hair")
        r = delta_residual(tiny_prior, z, z.clone(), other, again, TIMESTEPS, noise, config)
        assert r.any()


def test_the_jacobian_is_refused(tiny_prior: DiffusionPrior) -> None:
    z, text = randn(1).float(), tiny_prior.encode_prompt("old face")
    with pytest.raises(ValueError, match="jacobian=\"skip\", got 'full'"):
        delta_residual(tiny_prior, z, z, text, text, 500, z, GuidanceConfig(jacobian="full"))
