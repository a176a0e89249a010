"""A gradient that is not finite: the module in which that arose is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.image_gradient import guidance, image_gradient
from sdd_fast.models import StyleGAN2
from sdd_fast.selection.hqs import hqs
from sdd_fast.teacher.prior import DiffusionPrior


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "mid_block.resnets.0.conv1"),
        ("unet", "up_blocks.1.resnets.0.conv2"),
        ("vae", "encoder.conv_in"),
    ],
)
def test_the_first_module_that_overflows_is_named(tiny_sd: Path, part: str, name: str) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd, dtype="float16")
    module = getattr(prior, part).get_submodule(name)
    module.weight.data.fill_(6e4)  # finite itself; its products are not
    embeds = prior.encode_prompt("white hair")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.ones(2, *prior.latent_shape)
    expected = (
        rf"infinite for sample 0 \(timestep 500\), sample 1 \(timestep 600\). It arose in "
        rf"{part}.{name} \({type(module).__name__}\). float16 ends at 65504: give dtype='float32'"
    )
    with pytest.raises(FloatingPointError, match=expected):
        image_gradient(prior, images, embeds, [500, 600], noise)
    with pytest.raises(FloatingPointError, match=expected):
        guidance(prior, images, embeds, [500, 600], noise)
    expected = rf"image 0 \(4 such pairs in this batch\). It arose in {part}.{name} \("
    with pytest.raises(FloatingPointError, match=expected):
        hqs(prior, images, embeds, [500, 600], progress=False)
    networks = (prior.unet, prior.vae)
    assert not any(m._forward_hooks or m._backward_hooks for n in networks for m in n.modules())


def test_training_and_the_balance_before_it_name_it_too(tiny_sd: Path, tmp_path: Path) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd, dtype="float16")
    conv = prior.unet.get_submodule("mid_block.resnets.0.conv1")
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    w_plus = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = r"It arose in unet.mid_block.resnets.0.conv1 \("

    def train(**config: Any) -> None:
        given = DistillConfig(steps=4, batch_size=2, checkpoint_every=1, **config)
        distill(
            prior, generator, w_plus, "old", [500], config=given, progress=False, run_dir=tmp_path,
            monitor=damage, resume=False,
        )  # fmt: skip

    def damage(*_: Any) -> dict[str, Any]:
        conv.weight.data.fill_(6e4)
        return {}

    guidance = GuidanceConfig(guidance_scale=5.0)
    with pytest.raises(
        FloatingPointError, match=rf"in step 3 of 4. The checkpoint after .*{found}"
    ):
        train(guidance=guidance, monitor_every=2)
    with pytest.raises(FloatingPointError, match=f"prediction is NaN or infinite. {found}"):
        train()


def test_an_overflow_on_the_way_back(tiny_sd: Path) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd, dtype="float16")

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g * torch.inf

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Steep.apply(x)

    prior.vae.encoder.conv_norm_out = torch.nn.Sequential(prior.vae.encoder.conv_norm_out, Module())
    images, noise = torch.zeros(1, 3, 32, 32), torch.ones(1, *prior.latent_shape)
    found = r"arose in the backward pass of vae.encoder.conv_norm_out.1 \(Module\). float16 ends"
    with pytest.raises(FloatingPointError, match=found):
        image_gradient(prior, images, prior.encode_prompt("hair"), 500, noise)


def test_damaged_embeddings_are_the_text_encoders(tiny_prior: DiffusionPrior) -> None:
    from dataclasses import replace

    embeds = tiny_prior.encode_prompt("white hair")
    embeds = replace(embeds, cond=embeds.cond * torch.nan)
    images, noise = torch.zeros(1, 3, 32, 32), torch.ones(1, *tiny_prior.latent_shape)
    with pytest.raises(FloatingPointError, match="arose in the text encoder. That is float32"):
        image_gradient(tiny_prior, images, embeds, 500, noise)
