"""The fast encoder against diffusers' module in float64, and what autograd keeps of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from op_cases import norm_error
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from sdd_fast.ops._register import NATIVE
from sdd_fast.teacher.fast_encoder import encode_mean, unknown_to_fast_encoder
from sdd_fast.teacher.precision import memory_format
from sdd_fast.teacher.vae_encoder import VAEEncoder
from sdd_fast.training.vae import new_vae

STABLE_DIFFUSION = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "1.x and 2.x": STABLE_DIFFUSION,
    "XL": {**STABLE_DIFFUSION, "block_out_channels": (32, 64, 96, 96), "sample_size": 1024},
    "without quant_conv": {**STABLE_DIFFUSION, "use_quant_conv": False, "latent_channels": 16},
    "without attention": {**STABLE_DIFFUSION, "mid_block_add_attention": False},
}
# Of latent and gradient: the norm of the error as a share of the norm, after some 20 layers.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2,
}


def make(kind: str = "1.x and 2.x", **changes: Any) -> Any:
    """A VAE with random weights, in float64; norms start at 1 and 0, where a mix-up would hide."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    if kind == "faces64":
        vae: Any = new_vae(64)
    else:
        config = {**KINDS[kind], **changes}
        levels = len(config["block_out_channels"])
        config = {"down_block_types": ("DownEncoderBlock2D",) * levels,
                  "up_block_types": ("UpDecoderBlock2D",) * levels, **config}  # fmt: skip
        vae = AutoencoderKL(**config)
    for parameter in vae.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return vae.double().requires_grad_(False).eval()


def pictures(dtype: torch.dtype, height: int = 40, width: int = 24) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return (torch.rand(2, 3, height, width, generator=rng) * 2 - 1).to(dtype).requires_grad_()


def encoder_of(vae: Any, dtype: torch.dtype = torch.float32) -> VAEEncoder:
    return VAEEncoder(vae, resolution=64, unet_levels=1, device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", [*KINDS, "faces64"])
def test_latent_and_gradient_are_those_of_diffusers(kind: str, dtype: torch.dtype) -> None:
    vae = make(kind).to(dtype)
    wide = copy.deepcopy(vae).double()  # of the same rounded weights
    vae.encoder.to(memory_format=memory_format("vae", vae.device, dtype))
    y = pictures(dtype)
    y_wide = y.detach().double().requires_grad_()
    expected = wide.encode(y_wide).latent_dist.mode()
    latent = encode_mean(vae, y)
    assert latent.dtype == dtype
    assert norm_error(latent, expected.detach()) < TOLERANCE[dtype]
    # One forward serves every cotangent.
    for seed in (2, 3):
        rng = torch.Generator().manual_seed(seed)
        r = torch.randn(latent.shape, generator=rng).to(dtype)
        (d,) = torch.autograd.grad(latent, y, r, retain_graph=True)
        (d_wide,) = torch.autograd.grad(expected, y_wide, r.double(), retain_graph=True)
        assert norm_error(d, d_wide) < TOLERANCE[dtype]


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_of_images_and_weights_does_not_matter(
    format: torch.memory_format,  # noqa: A002
) -> None:
    vae = make()
    y = pictures(torch.float64)
    (expected,) = torch.autograd.grad(vae.encode(y).latent_dist.mode().square().sum(), y)
    vae.encoder.to(memory_format=format)
    for given in torch.contiguous_format, torch.channels_last:
        y = y.detach().contiguous(memory_format=given).requires_grad_()
        (d,) = torch.autograd.grad(encode_mean(vae, y).square().sum(), y)
        torch.testing.assert_close(d, expected)


@pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [1, 3])
def test_only_what_enters_each_normalization_is_kept(layers: int, dtype: torch.dtype) -> None:
    channels = (32, 64, 96)
    vae = make("without attention", block_out_channels=channels, layers_per_block=layers).to(dtype)
    y = pictures(dtype, 64, 32)
    sizes: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in vae.parameters()}
    alive = []  # so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        encode_mean(vae, y)
    maps = norms = 0
    before = channels[0]
    for level, after in enumerate(channels):
        pixels = 64 * 32 // 4**level
        # Two norms a block, the first of which sees the channels of the level before.
        maps += pixels * (before + (2 * layers - 1) * after)
        norms += 2 * layers
        before = after
    maps += 5 * pixels * before  # two blocks in the middle and the last norm
    norms += 5
    statistics = 2 * 32 * norms * 8  # mean and deviation of 32 groups, in float64
    assert sum(sizes.values()) == len(y) * (maps * dtype.itemsize + statistics)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"act_fn": "gelu"}, "GELU"),
        ({"down_block_types": ("DownEncoderBlock2D",) * 2 + ("AttnDownEncoderBlock2D",)},
         "AttnDownEncoderBlock2D"),
    ],
)  # fmt: skip
def test_other_vaes_run_on_diffusers_module_and_it_is_said_once(
    changes: dict[str, Any], named: str
) -> None:
    vae = make("1.x and 2.x", **changes)
    with pytest.warns(UserWarning, match=f"encoder has {named}.*diffusers runs"):
        encoder = encoder_of(vae, torch.float64)
    assert not encoder.fast
    y = pictures(torch.float64, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latent = encoder.encode(y)
    assert torch.equal(latent, 0.18215 * vae.encode(y).latent_dist.mode())


def test_parts_that_were_exchanged_are_noticed() -> None:
    class LoRAConv2d(torch.nn.Conv2d):
        pass

    vae = make()
    assert unknown_to_fast_encoder(vae) == ""
    vae.encoder.mid_block.resnets[1].output_scale_factor = 2.0
    assert unknown_to_fast_encoder(vae) == "output_scale_factor 2.0 (mid_block.resnets.1)"
    vae.encoder.conv_in = LoRAConv2d(3, 32, 3, padding=1)
    assert unknown_to_fast_encoder(vae) == "LoRAConv2d (conv_in)"
    assert unknown_to_fast_encoder(type("OtherVAE", (type(vae),), {})()) == "OtherVAE"


def test_parts_that_are_exchanged_later_are_used() -> None:
    """Pictures that tile are made by such a change of every convolution of a model in use."""
    vae = make()
    encoder, y = encoder_of(vae, torch.float64), pictures(torch.float64, 64, 64)
    assert encoder.fast
    vae.encoder.conv_act = torch.nn.Tanh()
    assert not encoder.fast
    vae.encoder.conv_act = torch.nn.SiLU()
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "circular"
    expected = 0.18215 * vae.encode(y).latent_dist.mode()
    assert not encoder.fast and torch.equal(encoder.encode(y), expected)
    for module in vae.encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "zeros"
    assert unknown_to_fast_encoder(vae) == "padding_mode circular (quant_conv)"


HOOKS: list[Callable[[torch.nn.Module, list[str]], Any]] = [
    lambda module, seen: module.register_forward_hook(lambda *_: seen.append("")),
    lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append("")),
    lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append("")),
    lambda module, seen: module.register_full_backward_pre_hook(lambda *_: seen.append("")),
    lambda _, seen: register_module_forward_hook(lambda *_: seen.append("")),
]


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("name", ["", "conv_in", "down_blocks.1.resnets.0.norm1", "conv_norm_out"])
def test_hooks_see_what_they_are_registered_for(
    register: Callable[[torch.nn.Module, list[str]], Any], name: str
) -> None:
    vae = make()
    encoder, y, seen = encoder_of(vae), pictures(torch.float32, 64, 64), list[str]()
    handle = register(vae.encoder.get_submodule(name), seen)
    try:
        assert not encoder.fast
        encoder.encode(y).sum().backward()
    finally:
        handle.remove()
    assert seen and encoder.fast


def test_a_forward_of_its_own_and_other_weights_are_used() -> None:
    """As programs that move weights to a device when they are needed, or quantize them, do it."""
    vae = make()
    encoder, y = encoder_of(vae, torch.float64), pictures(torch.float64, 64, 64)
    before = encoder.encode(y)
    conv = vae.encoder.conv_out
    conv.forward = lambda x: 2 * torch.nn.Conv2d.forward(conv, x)
    assert not encoder.fast and not torch.equal(encoder.encode(y), before)
    del conv.forward
    assert encoder.fast

    class Twice(torch.nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    torch.nn.utils.parametrize.register_parametrization(conv, "weight", Twice())
    assert not encoder.fast and not torch.equal(encoder.encode(y), before)


def test_how_the_module_was_told_to_work_is_respected() -> None:
    vae = make()
    encoder = encoder_of(vae)
    assert encoder.fast
    for on, off in [(vae.enable_slicing, vae.disable_slicing),
                    (vae.enable_tiling, vae.disable_tiling),
                    (vae.enable_gradient_checkpointing, vae.disable_gradient_checkpointing),
                    (vae.requires_grad_, lambda: vae.requires_grad_(False))]:  # fmt: skip
        on()
        assert not encoder.fast
        off()
        assert encoder.fast


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_module_stays_whole(tmp_path: Path, dtype: torch.dtype) -> None:
    """Its weights may change their memory format, but neither values nor what can be done."""
    vae = make().to(dtype)
    state = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    encoder = encoder_of(vae)
    encoder.encode(pictures(torch.float32, 64, 64)).sum().backward()
    assert vae.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())
    vae.save_pretrained(tmp_path)
    again = type(vae).from_pretrained(tmp_path, torch_dtype=dtype)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    # Weights that change afterwards are those that count.
    y = pictures(torch.float32, 64, 64)
    before = encoder.encode(y).detach()
    vae.encoder.conv_out.weight.mul_(0)
    vae.quant_conv.bias.zero_()
    vae.encoder.conv_out.bias.zero_()
    assert before.any() and not encoder.encode(y).any()


def test_it_works_under_transforms() -> None:
    vae = make()
    y = pictures(torch.float64)
    r = torch.randn(2, 4, 10, 6, dtype=torch.float64)
    (expected,) = torch.autograd.grad(encode_mean(vae, y), y, r)
    _, vjp = torch.func.vjp(lambda y: encode_mean(vae, y), y.detach())
    torch.testing.assert_close(vjp(r)[0], expected)


@pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
@pytest.mark.parametrize("kind", [*KINDS, "faces64"])
def test_cotangents_in_one_batch_give_what_each_gives(kind: str) -> None:
    vae = make(kind)
    vae.encoder.to(memory_format=torch.channels_last)
    y = pictures(torch.float64)
    latent = encode_mean(vae, y)
    r = torch.randn(3, *latent.shape, dtype=torch.float64)
    each = [torch.autograd.grad(latent, y, one, retain_graph=True)[0] for one in r]
    (batched,) = torch.autograd.grad(latent, y, r, is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack(each))
