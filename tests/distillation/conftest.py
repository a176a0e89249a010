"""The generator of most tests of distillation."""

from __future__ import annotations

import pytest
import torch

from sdd_fast.models import StyleGAN2


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
