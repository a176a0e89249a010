"""Settings of published generators: labels, clamp, float16, rows of the picture, style space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.models import StyleGAN2
from sdd_fast.models.stylegan2_layers import StyledConv, ToRGB

SMALL = {"resolution": 32, "w_dim": 12, "z_dim": 10, "n_mlp": 2, "channel_base": 128,
         "channel_max": 8}  # fmt: skip


def build(**settings: Any) -> StyleGAN2:
    torch.manual_seed(0)
    network = StyleGAN2(**{**SMALL, **settings})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "noise.weight")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def w_plus(network: StyleGAN2) -> Tensor:
    return torch.randn(2, network.num_layers, 12, generator=torch.Generator().manual_seed(1))


def test_labels_are_embedded_and_normalized() -> None:
    network = build(c_dim=3).double()
    z, labels = torch.randn(4, 10).double(), torch.eye(3).double()[[0, 2, 1, 2]]
    state = network.state_dict()
    embedded = labels @ (state["style.embed.weight"] / 3**0.5).T + state["style.embed.bias"]
    parts = [x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt() for x in (z, embedded)]
    x = torch.cat(parts, 1)
    for i in (1, 2):
        weight, bias = state[f"style.{i}.weight"], state[f"style.{i}.bias"]
        x = F.leaky_relu(x @ (0.01 * weight / weight.shape[1] ** 0.5).T + 0.01 * bias, 0.2) * 2**0.5
    torch.testing.assert_close(network.mapping(z, labels=labels), x)
    torch.testing.assert_close(network(z, labels=labels), network.synthesis(network.broadcast(x)))
    torch.testing.assert_close(network.mapping(z, 0.5, labels), x / 2)  # latent_avg is zero


def test_the_average_is_over_all_classes() -> None:
    network = build(c_dim=2).double()
    network.update_latent_avg(torch.Generator().manual_seed(0), samples=4000)
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(20_000, 10, generator=rng, dtype=torch.float64)
    labels = torch.eye(2, dtype=torch.float64)[torch.arange(len(z)) % 2]
    w = network.mapping(z, labels=labels)
    assert ((network.latent_avg - w.mean(0)).abs() < 0.07 * w.std(0)).all()


def test_wrong_labels() -> None:
    z = torch.zeros(2, 10)
    network = build(c_dim=3)
    for call in (network, network.mapping):
        with pytest.raises(ValueError, match=r"is conditional and needs labels \[B, 3\]"):
            call(z)
    for labels in (torch.zeros(2, 4), torch.zeros(1, 3), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"labels must be \[B, 3\] with B = 2 as for z, got"):
            network.mapping(z, labels=labels)
    with pytest.raises(ValueError, match="has no classes .c_dim is 0.; leave labels out"):
        build()(z, labels=torch.zeros(2, 3))


def test_clamp_limits_every_layer() -> None:
    given = w_plus(build())
    free, clamped = build(), build(conv_clamp=0.5)
    assert not torch.allclose(free.synthesis(given), clamped.synthesis(given))
    limits = []
    for module in clamped.modules():
        if isinstance(module, (StyledConv, ToRGB)):
            module.register_forward_hook(
                lambda _, __, y: limits.append(float(y.detach().abs().max()))
            )
    clamped.synthesis(given)
    assert len(limits) == 11 and max(limits) == 0.5
    wide = build(conv_clamp=1e6)
    assert torch.equal(free.synthesis(given), wide.synthesis(given))


def dtypes_of_layers(network: StyleGAN2, given: Tensor) -> list[torch.dtype]:
    seen: list[torch.dtype] = []
    handles = [
        module.register_forward_hook(lambda _, args, __: seen.append(args[0].dtype))
        for module in network.modules()
        if isinstance(module, (StyledConv, ToRGB))
    ]
    network.synthesis(given)
    for handle in handles:
        handle.remove()
    return seen


def test_float16_layers() -> None:
    network = build(num_fp16_res=2, conv_clamp=256)
    given = w_plus(network).requires_grad_()
    single = network.synthesis(given)
    cotangent = torch.randn_like(single)
    (exact,) = torch.autograd.grad(single, given, cotangent)
    assert torch.equal(single, build(conv_clamp=256).synthesis(given))  # on a CPU, unless asked
    network.fp16 = True
    assert dtypes_of_layers(network, given) == [torch.float32] * 5 + [torch.float16] * 6
    half = network.synthesis(given)
    assert half.dtype == torch.float32 and not torch.equal(half, single)
    assert (half - single).abs().max() < 0.01 * single.abs().max()
    (gradient,) = torch.autograd.grad(half, given, cotangent)
    assert F.cosine_similarity(gradient.flatten(), exact.flatten(), 0) > 0.999
    for mode in ("random", "none"):
        rng = [torch.Generator().manual_seed(3) for _ in range(2)]
        image = network.synthesis(given, mode, rng[0])
        network.fp16 = False
        expected = network.synthesis(given, mode, rng[1])
        network.fp16 = True
        if mode == "none":
            assert (image - expected).abs().max() < 0.01 * expected.abs().max()
        assert image.isfinite().all()
    wide = network.double()  # float64 is asked for by name
    assert set(dtypes_of_layers(wide, given.double())) == {torch.float64}


def test_large_features_survive_float16() -> None:
    """What overflows without the normalization before the convolution."""
    network = build(num_fp16_res=3, conv_clamp=256)
    with torch.no_grad():
        network.input.input.mul_(1e4)
        for j in range(6):
            network.convs[j].conv.modulation.bias.mul_(1e3)
    expected = network.synthesis(w_plus(network))
    network.fp16 = True
    images = network.synthesis(w_plus(network))
    assert images.isfinite().all()
    assert (images - expected).abs().max() < 0.01 * expected.abs().max()


def test_rows_of_the_picture() -> None:
    whole, rows = build(), build(content_rows=(4, 28))
    given = w_plus(whole)
    assert whole.image_size == (32, 32) and rows.image_size == (24, 32)
    images = rows.synthesis(given)
    assert images.shape == (2, 3, 24, 32) and images.is_contiguous()
    assert torch.equal(images, whole.synthesis(given)[:, :, 4:28])


def test_everything_survives_the_file(tmp_path: Path) -> None:
    network = build(
        c_dim=3, lr_multiplier=0.02, conv_clamp=2.5, num_fp16_res=1,
        resample_filter=(1, 2, 2, 3), content_rows=(4, 28),
    )  # fmt: skip
    network.save(tmp_path / "network.safetensors")
    again = StyleGAN2.load(tmp_path / "network.safetensors")
    assert again.config == network.config
    z, labels = torch.randn(2, 10), torch.eye(3)[:2]
    assert torch.equal(again(z, labels=labels), network(z, labels=labels))
    again.fp16 = network.fp16 = True
    assert torch.equal(again(z, labels=labels), network(z, labels=labels))


def test_files_from_before_these_settings(tmp_path: Path) -> None:
    network = build()
    network.config = dict(SMALL)
    network.save(tmp_path / "network.safetensors")
    tensors, metadata = load_tensors(tmp_path / "network.safetensors")
    assert "c_dim" not in metadata["config"]
    again = StyleGAN2.load(tmp_path / "network.safetensors")
    given = w_plus(network)
    assert torch.equal(again.synthesis(given), network.synthesis(given))
    bad = metadata | {"config": metadata["config"][:-1] + ', "conv_clamp": -1}'}
    save_tensors(tmp_path / "bad.safetensors", tensors, bad)
    with pytest.raises(ValueError, match="no such StyleGAN2 can be built: .*conv_clamp"):
        StyleGAN2.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"c_dim": -1}, "c_dim must not be negative .* c_dim=-1"),
        ({"lr_multiplier": 0}, "lr_multiplier be positive.*lr_multiplier=0"),
        ({"conv_clamp": 0}, "conv_clamp must be positive or None, got 0"),
        ({"num_fp16_res": 4}, r"num_fp16_res must lie in \[0, 3\], got 4"),
        ({"resample_filter": (1, 2, 1)}, r"even number of taps.*got \[1, 2, 1\]"),
        ({"resample_filter": (1, -1)}, r"do not sum to 0, got \[1, -1\]"),
        ({"resample_filter": ()}, r"even number of taps.*got \[\]"),
        ({"content_rows": (4, 33)}, r"within 32, got \[4, 33\]"),
        ({"content_rows": (8, 8)}, r"within 32, got \[8, 8\]"),
        ({"content_rows": (8,)}, r"within 32, got \[8\]"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_style_names() -> None:
    network = build()
    names = network.style_names
    assert names[:6] == ["conv1", "to_rgb1", "convs.0", "convs.1", "to_rgbs.0", "convs.2"]
    assert len(names) == len(network.style_dims) == 11
    for name, dim in zip(names, network.style_dims, strict=True):
        layer = network.get_submodule(name)
        assert layer.conv.modulation.weight.shape == (dim, 12)
    # Wu et al. 2021 name channels (layer, channel) of the 26 layers of 1024 × 1024, toRGB included.
    with torch.device("meta"):
        large = StyleGAN2(1024)
    rgbs = [i for i, name in enumerate(large.style_names) if "rgb" in name]
    assert rgbs == list(range(1, 26, 3)) and large.style_names[15] == "convs.9"


def test_one_style_read_and_replaced() -> None:
    network = build()
    given = w_plus(network)
    styles = network.style_vectors(given)
    kept = [style.clone() for style in styles]
    changed = network.set_style(styles, "convs.1", 7.0, channel=5)
    assert torch.equal(changed[3][:, 5], torch.full((2,), 7.0))
    others = [c for c in range(8) if c != 5]
    assert torch.equal(changed[3][:, others], styles[3][:, others])
    assert all(torch.equal(changed[i], kept[i]) for i in range(11) if i != 3)
    assert all(torch.equal(a, b) for a, b in zip(styles, kept, strict=True))  # untouched
    assert torch.equal(network.get_style(changed, 3, 5), torch.full((2,), 7.0))
    assert torch.equal(network.get_style(changed, "to_rgbs.0"), styles[4])
    network.get_style(styles, "conv1").zero_()
    network.get_style(styles, "conv1", 0).zero_()
    assert torch.equal(styles[0], kept[0])  # what is read is a copy
    vector = torch.randn(2, 8)
    assert torch.equal(network.set_style(styles, 3, vector)[3], vector)
    assert not torch.allclose(
        network.synthesis_from_styles(changed), network.synthesis_from_styles(styles)
    )


def test_gradients_pass_through_a_replaced_channel() -> None:
    network = build().requires_grad_(False)
    given, value = w_plus(network).requires_grad_(), torch.ones(2, requires_grad=True)
    styles = network.set_style(network.style_vectors(given), "convs.2", value, channel=1)
    network.synthesis_from_styles(styles).square().sum().backward()
    assert value.grad is not None and (value.grad != 0).all()
    assert given.grad is not None and (given.grad != 0).any()


@pytest.mark.parametrize(
    ("layer", "channel", "message"),
    [
        ("convs.9", None, "layer must be one of conv1, to_rgb1, .* below 11, got 'convs.9'"),
        (11, None, "number below 11, got 11"),
        (-1, None, "got -1"),
        ("conv1", 8, "conv1 has style channels 0 to 7, got 8"),
        (10, -1, "to_rgbs.2 has style channels 0 to 3, got -1"),
    ],
)
def test_unknown_styles(layer: str | int, channel: int | None, message: str) -> None:
    network = build()
    styles = network.style_vectors(w_plus(network))
    with pytest.raises(ValueError, match=message):
        network.get_style(styles, layer, channel)
    with pytest.raises(ValueError, match=message):
        network.set_style(styles, layer, 0.0, channel)


@pytest.mark.parametrize("rows", [None, (4, 28)])
def test_the_image_of_a_lower_resolution_is_that_of_a_smaller_generator(
    rows: tuple[int, int] | None,
) -> None:
    """Of the same weights, without the later layers."""
    large = build(content_rows=rows)
    small = build(resolution=16, content_rows=None if rows is None else (2, 14))
    known = small.state_dict().keys()
    small.load_state_dict({k: v for k, v in large.state_dict().items() if k in known})
    w = w_plus(large)
    found = large.synthesis_from_styles(large.style_vectors(w), resolution=16)
    assert torch.equal(found, small.synthesis(w[:, : small.num_layers]))
    styles = large.style_vectors(w)
    assert torch.equal(large.synthesis_from_styles(styles, resolution=32), large.synthesis(w))
    for wrong in (2, 24, 64):
        with pytest.raises(ValueError, match=f"power of two from 4 to 32, got {wrong}"):
            large.synthesis_from_styles(styles, resolution=wrong)
