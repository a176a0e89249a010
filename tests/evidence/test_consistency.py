"""The score of agreement under other noise, against cosines pair by pair."""

from __future__ import annotations

import itertools

import pytest
import torch

from sdd_fast.evidence.consistency import consistency, mean_cosine
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.sds import residual
from sdd_fast.selection.evaluate import image_noise
from sdd_fast.teacher.prior import DiffusionPrior


def test_mean_cosine_is_that_of_all_pairs() -> None:
    vectors = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, found in zip(vectors, mean_cosine(vectors), strict=True):
        pairs = [float(a @ b / (a.norm() * b.norm())) for a, b in itertools.combinations(one, 2)]
        assert float(found) == pytest.approx(sum(pairs) / 6)


def test_scores_are_of_the_residuals_and_do_not_depend_on_other_images(
    tiny_prior64: DiffusionPrior,
) -> None:
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    embeds, config = tiny_prior64.encode_prompt("white hair"), GuidanceConfig(12.0)
    found = consistency(tiny_prior64, images, embeds, [100, 700], config, noises=3, seed=2)
    assert found.shape == (5, 2)
    noise = image_noise(tiny_prior64, 2, 4, 3, config).double()
    z = tiny_prior64.encode(images[4:]).expand(3, -1, -1, -1)
    r = residual(tiny_prior64, z, embeds, 700, noise, config).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(r[[0, 0, 1]], r[[1, 2, 2]])
    assert float(found[4, 1]) == pytest.approx(float(cosines.mean()), abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 noises, got 1"):
        consistency(tiny_prior64, images, embeds, [100], config, noises=1)
