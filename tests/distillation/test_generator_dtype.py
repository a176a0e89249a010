"""What the generator's layers compute in while a mapper is trained."""

from __future__ import annotations

import copy

import pytest
import torch

import sdd_fast as sdd
from sdd_fast.distillation import generator_dtype
from sdd_fast.distillation.generator_dtype import choose_generator_dtype, in_dtype
from sdd_fast.models import StyleGAN2


@pytest.fixture
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(32, w_dim=16, z_dim=16, channel_base=512, channel_max=32).eval()


@pytest.fixture
def w_plus(generator: StyleGAN2) -> torch.Tensor:
    return torch.randn(4, generator.num_layers, 16)


@pytest.fixture
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_dtype, "fastest_dtype", lambda device: torch.bfloat16)


def test_every_layer_computes_in_it_and_images_stay_float32(
    generator: StyleGAN2, w_plus: torch.Tensor
) -> None:
    low = in_dtype(generator, "bfloat16")
    seen = []
    for layer in (*low.convs, low.conv1, low.to_rgb1, *low.to_rgbs):
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    image = low.synthesis(w_plus)
    assert image.dtype == torch.float32 and len(seen) == len(generator.style_dims)
    assert set(seen) == {torch.bfloat16}
    reference = copy.deepcopy(generator).double().synthesis(w_plus.double())
    error = (image - reference).norm() / reference.norm()
    assert 1e-4 < error < 0.03  # that of bfloat16, not of float32


def test_the_given_generator_stays_as_it_is(generator: StyleGAN2, w_plus: torch.Tensor) -> None:
    before = generator.synthesis(w_plus)
    low = in_dtype(generator, "bfloat16")
    low.synthesis(w_plus)
    assert generator.layers_dtype is None
    assert torch.equal(generator.synthesis(w_plus), before)
    with torch.no_grad():
        generator.conv1.conv.weight.mul_(2)  # the same weights, not a copy
    assert low.conv1.conv.weight is generator.conv1.conv.weight


@pytest.mark.usefixtures("fast_bfloat16")
def test_auto_takes_it_where_the_gradient_agrees(
    generator: StyleGAN2, w_plus: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_generator_dtype(generator, w_plus, "auto") == "bfloat16"
    monkeypatch.setattr(generator_dtype, "LEAST_COSINE", 1.0)
    assert choose_generator_dtype(generator, w_plus, "auto") == "float32"


@pytest.mark.usefixtures("fast_bfloat16")
def test_auto_leaves_what_overflows_or_is_double_alone(
    generator: StyleGAN2, w_plus: torch.Tensor
) -> None:
    doubled = copy.deepcopy(generator).double()
    assert choose_generator_dtype(doubled, w_plus.double(), "auto") == "float32"
    with torch.no_grad():
        generator.input.input.fill_(float("nan"))
    assert choose_generator_dtype(generator, w_plus, "auto") == "float32"


def test_auto_is_float32_where_bfloat16_is_slow(
    generator: StyleGAN2, w_plus: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator_dtype, "fastest_dtype", lambda device: torch.float32)
    assert choose_generator_dtype(generator, w_plus, "auto") == "float32"
    assert choose_generator_dtype(generator, w_plus, "bfloat16") == "bfloat16"


def test_refuses_a_generator_that_cannot(w_plus: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="needs a float32 generator with an attribute"):
        choose_generator_dtype(torch.nn.Linear(1, 1), w_plus, "bfloat16")
    with pytest.raises(ValueError, match="generator_dtype must be one of auto, float32"):
        sdd.DistillConfig(generator_dtype="float16")
