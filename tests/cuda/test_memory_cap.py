"""Trainings and selections under a cap that the GPU's allocator enforces."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import StyleGAN2
from sdd_fast.selection.hqs import hqs
from sdd_fast.teacher.prior import DiffusionPrior

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

STEPS = [100, 500, 900]


@pytest.fixture(scope="module", autouse=True)
def whole_segments() -> Iterator[None]:
    """What earlier tests left must not count: of a segment in which a weight came to lie the
    allocator gives nothing back, unless segments can shrink."""
    torch.cuda.empty_cache()
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    yield
    torch.cuda.memory._set_allocator_settings("expandable_segments:False")


@pytest.fixture(scope="module")
def teacher(tiny_prior: DiffusionPrior) -> DiffusionPrior:
    """Of 256 pixels, with feature maps that are large beside its weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(64, 64, 128),
        norm_num_groups=16,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    text_encoder = copy.deepcopy(tiny_prior.text_encoder).cuda()
    return DiffusionPrior(
        vae.cuda(), unet.cuda(), text_encoder, tiny_prior.tokenizer, tiny_prior.scheduler
    )


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(256, w_dim=64, channel_base=8192, channel_max=64).cuda().eval()


@contextmanager
def cap(size: float) -> Iterator[None]:
    """Within it no more than `size` bytes can be had."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info()[1])
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def needed(work: Callable[[Any], Any]) -> float:
    """The least budget, as the refusal of a smaller one tells it."""
    with pytest.raises(ValueError, match="at least") as error:
        work("1MiB")
    told = re.search(r"takes ([\d.,]+) ([MG]B) at least", str(error.value))
    assert told is not None
    return float(told[1].replace(",", "")) * {"MB": 1e6, "GB": 1e9}[told[2]]


def works(teacher: DiffusionPrior, generator: StyleGAN2) -> dict[str, Callable[[Any], Tensor]]:
    w = torch.randn(8, generator.num_layers, 64, generator=torch.Generator().manual_seed(1))

    def train(budget: Any) -> Tensor:
        config = DistillConfig(
            steps=3, batch_size=8, guidance=GuidanceConfig(7.5), memory_budget=budget
        )
        result = distill(teacher, generator, w, "old", STEPS, config=config, progress=False)
        return torch.tensor([result.history[-1][name] for name in ("residual", "gradient")])

    def select(budget: Any) -> Tensor:
        curve = hqs(
            teacher, w, "old", STEPS, generator=generator, memory_budget=budget, progress=False
        )
        return curve.l1

    return {"distillation": train, "selection": select}


@pytest.mark.parametrize("what", ["distillation", "selection"])
def test_a_budget_holds_under_a_cap(
    teacher: DiffusionPrior, generator: StyleGAN2, what: str
) -> None:
    work = works(teacher, generator)[what]
    whole, least = work(None), needed(work)
    for budget in (1.1 * least, 2 * least):
        with cap(budget), warnings.catch_warnings():
            warnings.filterwarnings("error", "memory ran out")
            found = work(budget)
            assert torch.cuda.max_memory_reserved() <= budget
        torch.testing.assert_close(found, whole, rtol=0.02, atol=0)


@pytest.mark.parametrize("what", ["distillation", "selection"])
def test_without_a_budget_it_goes_on_in_smaller_pieces(
    teacher: DiffusionPrior, generator: StyleGAN2, what: str
) -> None:
    work = works(teacher, generator)[what]
    whole, least = work(None), needed(work)
    with cap(1.2 * least), pytest.warns(UserWarning, match="memory ran out .* it goes on with"):
        found = work(None)
    torch.testing.assert_close(found, whole, rtol=0.02, atol=0)
