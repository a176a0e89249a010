"""Generator files of the PyTorch port and our own: what they become, and what is refused."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stylegan2_reference as reference
import torch
from foreign_files import generator_from
from torch import Tensor

from sdd_fast.checkpoints.formats.read import Checkpoint, PickledObject, read_checkpoint
from sdd_fast.checkpoints.load import load_generator
from sdd_fast.checkpoints.stylegan2 import GENERATOR
from sdd_fast.files import save_tensors
from sdd_fast.models import ConvEmbedding, StyleGAN2, stylegan2, stylegan2_layers

W_DIM = 12
KERNEL = torch.ones(1, 3, 8, 1, 1)
SIZES = {"resolution": 16, "w_dim": W_DIM, "z_dim": W_DIM, "n_mlp": 3, "channel_base": 128,
         "channel_max": 8}  # fmt: skip


def held(content: Any) -> Checkpoint:
    return Checkpoint(Path("file.pt"), "torch", content)


def average() -> Tensor:
    return torch.randn(W_DIM, generator=torch.Generator().manual_seed(5))


def assert_agrees(network: StyleGAN2, net: reference.Net, **settings: Any) -> None:
    """The network, in float64, and the reference: w, truncation and images."""
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert {v.dtype for v in network.state_dict().values()} == {torch.float32}
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(2, network.z_dim, generator=rng, dtype=torch.float64)
    single = reference.render(net, reference.w_plus_of(net, z), **settings)
    torch.testing.assert_close(network(z.float()).double(), single, rtol=1e-4, atol=1e-4)
    wide = network.double()
    for psi, cutoff in ((1.0, None), (0.7, None), (0.5, 3)):
        w_plus = reference.w_plus_of(net, z, psi=psi, cutoff=cutoff)
        expected = reference.render(net, w_plus, **settings)
        torch.testing.assert_close(wide(z, psi, cutoff), expected, rtol=1e-9, atol=1e-9)
    w_plus = torch.randn(2, network.num_layers, W_DIM, generator=rng, dtype=torch.float64)
    for mode in ("const", "none"):
        expected = reference.render(net, w_plus, noise=mode == "const", **settings)
        torch.testing.assert_close(wide.synthesis(w_plus, mode), expected, rtol=1e-9, atol=1e-9)


def converted(state: dict[str, Tensor]) -> Any:
    return {"g_ema": state, "latent_avg": average()}


def trained(state: dict[str, Tensor]) -> Any:
    other = {key: value + 1 for key, value in state.items()}
    args = PickledObject("argparse.Namespace", {"size": 64, "channel_multiplier": 2})
    moments = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.002}]}
    return {
        "g": other, "d": {"final_linear.0.weight": torch.ones(2, 2)}, "g_ema": state,
        "g_optim": moments, "d_optim": moments, "args": args, "ada_aug_p": torch.tensor(0.1),
    }  # fmt: skip


def encoder_file(state: dict[str, Tensor]) -> Any:
    layers = 2 * sum(key.startswith("noises") for key in state) // 2 + 1
    parts = {"encoder.input_layer.0.weight": torch.ones(4, 3, 3, 3)}
    parts |= {f"decoder.{key}": value for key, value in state.items()}
    repeated = average().repeat(layers, 1)
    return {"state_dict": parts, "opts": {"stylegan_size": 1024}, "latent_avg": repeated}


def mapper_file(state: dict[str, Tensor]) -> Any:
    parts = {"mapper.course_mapping.mapping.1.weight": torch.ones(2, 2)}
    parts |= {f"decoder.{key}": value for key, value in state.items()}
    return {"state_dict": parts, "opts": {"description": "a face"}}


LAYOUTS = {
    "converted": converted,
    "trained": trained,
    "bare": dict,
    "encoder": encoder_file,
    "mapper": mapper_file,
}


@pytest.mark.parametrize("prefix", ["", "stylegan_decoder."])
@pytest.mark.parametrize("names", ["params_ema", "params"])
def test_basicsr_and_gfpgan(tmp_path: Path, prefix: str, names: str) -> None:
    """Their names and places, in a file with the rest of GFPGAN's network if there is a prefix."""
    state = reference.basicsr_state(reference.port_state(32, kernels=False))
    content = {names: {prefix + key: value for key, value in state.items()}}
    if names == "params_ema":
        content["params"] = {key: value + 1 for key, value in content[names].items()}
    if prefix:
        content[names] |= {"conv_body_first.weight": torch.ones(1), "toRGB.0.bias": torch.ones(1)}
        content[names]["condition_scale.0.0.weight"] = torch.ones(1)
    torch.save(content, tmp_path / "g.pth")
    network = load_generator(tmp_path / "g.pth")
    assert_agrees(network, reference.of_basicsr(state, network.latent_avg))
    facts = GENERATOR.describe(read_checkpoint(tmp_path / "g.pth"))
    where = ", in a file with other networks" if prefix else ""
    assert facts is not None and facts["generator"].startswith(f"StyleGAN2 of BasicSR{where}, 32")


def test_gfpgan_s_clean_layout_is_called_by_its_name() -> None:
    state = reference.basicsr_state(reference.port_state(16, kernels=False))
    state = {key.replace("activate.bias", "bias"): value for key, value in state.items()}
    clean = {f"stylegan_decoder.{key}": value for key, value in state.items()}
    with pytest.raises(ValueError, match=r"file\.pt: .*'clean' layout, .* bilinear interpolation"):
        generator_from(held({"params_ema": clean}))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_wrapper_around_the_network(tmp_path: Path, wrapper: str, suffix: str) -> None:
    state = reference.port_state(16)
    wrapped = {wrapper + key: value for key, value in state.items()}
    if suffix == "pt":
        torch.save({"g_ema": wrapped | {"latent_avg": average()}}, tmp_path / "g.pt")
    else:
        save_tensors(tmp_path / "g.safetensors", wrapped)
    network = load_generator(tmp_path / f"g.{suffix}")
    assert suffix != "pt" or torch.equal(network.latent_avg, average())
    assert_agrees(network, reference.of_port(state, network.latent_avg))
    inner = {f"decoder.{key}": value for key, value in wrapped.items()}
    again = generator_from(held({"state_dict": inner}))
    assert torch.equal(again.convs[1].conv.weight, network.convs[1].conv.weight)


def test_what_the_loader_refuses_is_described_as_refused() -> None:
    state = reference.port_state(16)
    four = state | {
        key: torch.cat([value, value[:, :1]], 1)
        for key, value in state.items()
        if key.startswith("to_rgb") and value.ndim > 3
    }
    for content, message in (
        (four, "a generator of images with 4 channels; supported is RGB"),
        (state | {"conv1.noise.weight": torch.ones(2)}, "does not fit StyleGAN2 (1 of"),
        (state | {"input.input": torch.full((1, 8, 4, 4), torch.nan)}, "holds NaN or infinity"),
    ):
        with pytest.raises(ValueError) as caught:
            generator_from(held(content))
        facts = GENERATOR.describe(held(content))
        assert message in str(caught.value) and facts is not None
        assert facts["generator"].startswith(f"cannot be loaded: {message}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    state = reference.port_state(32)
    network = generator_from(held(LAYOUTS[layout](state)))
    if layout in ("converted", "encoder"):
        assert torch.equal(network.latent_avg, average())
    else:  # the files hold none
        expected = reference.of_port(state)
        z = torch.randn(40_000, W_DIM, generator=torch.Generator().manual_seed(2)).double()
        mean = reference.map_to_w(expected, z).mean(0)
        spread = reference.map_to_w(expected, z).std(0)
        assert ((network.latent_avg.double() - mean).abs() < 0.06 * spread).all()
    assert_agrees(network, reference.of_port(state, network.latent_avg))


@pytest.mark.parametrize(
    ("resolution", "depth", "multiplier", "base"),
    [(8, 1, 1, 64), (16, 2, 2, 128), (64, 8, 1, 256), (128, 2, 2, 512), (256, 2, 1, 256)],
)
def test_every_size(
    tmp_path: Path, resolution: int, depth: int, multiplier: int, base: int
) -> None:
    state = reference.port_state(resolution, depth=depth, multiplier=multiplier)
    torch.save(converted(state), tmp_path / "generator.pt")
    network = load_generator(tmp_path / "generator.pt")
    assert network.config == {
        "resolution": resolution, "w_dim": W_DIM, "z_dim": W_DIM, "n_mlp": depth,
        "channel_base": base, "channel_max": 8, "c_dim": 0, "lr_multiplier": 0.01,
        "conv_clamp": None, "num_fp16_res": 0, "resample_filter": [1, 3, 3, 1],
        "content_rows": None,
    }  # fmt: skip
    net = reference.of_port(state, average())
    if resolution <= 64:
        assert_agrees(network, net)
    else:
        w_plus = torch.randn(1, network.num_layers, W_DIM, dtype=torch.float64)
        images = network.double().synthesis(w_plus)
        torch.testing.assert_close(images, reference.render(net, w_plus), rtol=1e-9, atol=1e-9)


def test_round_trip_through_our_own_file(tmp_path: Path) -> None:
    """What was told from a foreign file, the rows of the picture too, survives `save`."""
    state = reference.port_state(32, taps=(1, 2, 3, 3, 2, 1))
    network = generator_from(held(converted(state)), content_rows=(4, 28))
    network.save(tmp_path / "ours.safetensors")
    again = load_generator(tmp_path / "ours.safetensors")
    assert again.config == network.config and again.config["content_rows"] == [4, 28]
    assert again.image_size == (24, 32)
    w_plus = torch.randn(2, 8, W_DIM)
    assert torch.equal(again.synthesis(w_plus), network.synthesis(w_plus))
    expected = reference.render(reference.of_port(state), w_plus.double(), taps=(1, 2, 3, 3, 2, 1))
    images = again.double().synthesis(w_plus.double())
    # The taps are stored in float32.
    torch.testing.assert_close(images, expected[:, :, 4:28], rtol=1e-6, atol=1e-6)
    other = load_generator(tmp_path / "ours.safetensors", content_rows=(0, 16))
    assert other.image_size == (16, 32)


def test_a_state_dict_as_safetensors(tmp_path: Path) -> None:
    state = reference.port_state(16)
    save_tensors(tmp_path / "port.safetensors", state)
    network = load_generator(tmp_path / "port.safetensors")
    assert_agrees(network, reference.of_port(state, network.latent_avg))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_through_the_disk(tmp_path: Path, zipped: bool) -> None:
    """With the `argparse.Namespace` that a safe `torch.load` refuses, and torch's own dicts."""
    state = OrderedDict(reference.port_state(16))
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    content = trained(state) | {"args": argparse.Namespace(size=16, path="pictures")}
    content["d_optim"] = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict()
    path = tmp_path / "550000.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    network = load_generator(path)
    assert_agrees(network, reference.of_port(dict(state), network.latent_avg))


def test_half_precision_becomes_single() -> None:
    state = {key: value.half() for key, value in reference.port_state(16).items()}
    network = generator_from(held({"g_ema": state, "latent_avg": average().half()}))
    assert_agrees(network, reference.of_port(state, network.latent_avg))


def test_early_files_without_noise_maps_and_kernels() -> None:
    state = reference.port_state(32, noises=False, kernels=False)
    first, second = (generator_from(held(converted(state))) for _ in range(2))
    assert torch.equal(first.noises.noise_6, second.noises.noise_6)
    drawn = first.state_dict()
    assert all(0.5 < drawn[f"noises.noise_{k}"].std() < 1.5 for k in range(7))
    assert first.noises.noise_1.ne(first.noises.noise_2).all()
    whole = state | {key: value for key, value in drawn.items() if key.startswith("noises")}
    assert_agrees(first, reference.of_port(whole, average()))
    facts = GENERATOR.describe(held(converted(state)))
    assert facts is not None and facts["noise maps"] == "none in the file: drawn with a fixed seed"


def test_other_filters_are_honoured() -> None:
    taps = (1.0, 2.0, 5.0, 4.0)  # not symmetric: the orientation counts
    state = reference.port_state(32, taps=taps)
    network = generator_from(held(converted(state)))
    assert network.config["resample_filter"] == pytest.approx([t / 12 for t in taps], rel=1e-6)
    stored = network.config["resample_filter"]
    w_plus = torch.randn(1, 8, W_DIM, dtype=torch.float64)
    net = reference.of_port(state)
    expected = reference.render(net, w_plus, taps=stored)
    images = network.double().synthesis(w_plus)
    torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)
    turned = reference.render(net, w_plus, taps=stored[::-1])
    assert (turned - images).abs().max() > 0.1


def flipped(state: dict[str, Tensor]) -> None:
    """What a conversion from TensorFlow does to upsampling kernels."""
    for key in ("convs.0.conv.weight", "convs.2.conv.weight"):
        state[key] = state[key].flip(3, 4)


def incremented(state: dict[str, Tensor]) -> None:
    """What such a conversion does to the biases of the styles."""
    for key in state:
        if key.endswith("modulation.bias"):
            state[key] = state[key] + 1


def exchanged(state: dict[str, Tensor]) -> None:
    one, two = "noises.noise_1", "noises.noise_2"
    state[one], state[two] = state[two], state[one]


@pytest.mark.parametrize("mistake", [flipped, incremented, exchanged])
def test_the_reference_tells_wrong_conversions_apart(
    mistake: Callable[[dict[str, Tensor]], None],
) -> None:
    """Stripes and washed-out colors: what the comparisons above are there to catch."""
    state = reference.port_state(32)
    wrong = dict(state)
    mistake(wrong)
    network = generator_from(held(converted(wrong)))
    with pytest.raises(AssertionError):
        assert_agrees(network, reference.of_port(state, average()))
    assert_agrees(generator_from(held(converted(wrong))), reference.of_port(wrong, average()))


@pytest.mark.parametrize("op", ["upfirdn2d", "modulated_conv2d"])
def test_the_reference_tells_a_wrong_network_apart(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the factor 4 of upsampling, and with the blur's filter left out."""
    state = reference.port_state(32)
    network = generator_from(held(converted(state)))
    module = stylegan2 if op == "upfirdn2d" else stylegan2_layers
    before = getattr(module, op)
    wrong = {"gain": 1.0} if op == "upfirdn2d" else {"resample_filter": torch.tensor([0.5, 0.5])}

    def changed(*args: Any, **given: Any) -> Tensor:
        result: Tensor = before(*args, **given | wrong)
        return result

    monkeypatch.setattr(module, op, changed)
    with pytest.raises(AssertionError):
        assert_agrees(network, reference.of_port(state, average()))


def test_every_difference_is_named() -> None:
    state = reference.port_state(32)
    del state["convs.3.conv.weight"], state["to_rgb1.bias"], state["noises.noise_4"]
    state["convs.1.activate.bias"] = torch.zeros(5)
    state["convs.2.conv.weight"] = torch.zeros(1, 8, 7, 3, 3)
    state["convs.1.conv.blur.kernel"] = torch.zeros(4, 4)
    state["to_rgbs.0.more"] = torch.zeros(1)
    with pytest.raises(ValueError) as caught:
        generator_from(held(converted(state)))
    message = str(caught.value)
    assert message.startswith("file.pt does not fit StyleGAN2 (7 of its tensors)")
    for line in (
        "missing: convs.3.conv.weight",
        "missing: to_rgb1.bias",
        "missing: noises.noise_4",
        "unexpected: convs.1.conv.blur.kernel",
        "unexpected: to_rgbs.0.more",
        "shape of convs.1.activate.bias: the file has [5], the network [8]",
        "shape of convs.2.conv.weight: the file has [1, 8, 7, 3, 3], the network [1, 8, 8, 3, 3]",
    ):
        assert line in message


def test_unknown_tensors_beside_the_generator() -> None:
    content = converted(reference.port_state(16)) | {"extra": [torch.ones(1)], "iteration": 5}
    with pytest.raises(ValueError, match=r"file\.pt does not fit .*\n  unexpected: extra\.0$"):
        generator_from(held(content))
    content = mapper_file(reference.port_state(16))
    content["state_dict"]["face_pool.weight"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"unexpected: face_pool\.weight"):
        generator_from(held(content))


def without(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


def widened(state: dict[str, Any]) -> dict[str, Any]:
    other = reference.port_state(32, width=16)
    wide = {key: value for key, value in other.items() if key.startswith("convs.3.")}
    return state | wide | {k: v for k, v in other.items() if k.startswith("to_rgbs.1.")}


def with_kernel(kernel: Tensor) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: state | {"convs.2.conv.blur.kernel": kernel}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "style."), "a generator with 0 mapping layers and 3 resolutions"),
        (lambda s: without(without(s, "to_rgbs."), "convs."), "0 resolutions above 4"),
        (lambda s: without(s, "style.1.weight"), r"1 of its .*\n  missing: style\.1\.weight"),
        (
            lambda s: s | dict.fromkeys((f"to_rgbs.{j}.conv.weight" for j in range(99)), KERNEL),
            "and 99 resolutions above 4 × 4; .* at most 8",
        ),
        (widened, r"8 at 4, 8 at 8, 16 at 16, 8 at 32 channels, which is not min\(base"),
        (lambda s: s | {3: torch.ones(1)}, "entries that are no tensors: 3 is no name"),
        (lambda s: s | {"step": 3}, "entries that are no tensors: step is of type int"),
        (with_kernel(torch.ones(4, 4)), r"convs\.2\..*kernel \[4, 4\] is not a separable filter"),
        (with_kernel(torch.ones(3, 3) * 4 / 9), "even number of taps"),
        (with_kernel(torch.ones(4, 4) / 4), "another filter than that of the layers before it"),
        (with_kernel(torch.full((4, 4), float("nan"))), "not a separable filter"),
        (with_kernel(torch.ones(0, 0)), "not a separable filter"),
    ],
)  # fmt: skip
def test_generators_that_cannot_be_reproduced(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    content = converted(change(reference.port_state(32, depth=8)))
    with pytest.raises(ValueError, match=message) as caught:
        generator_from(held(content))
    assert "file.pt" in str(caught.value)
    facts = GENERATOR.describe(held(content))
    assert facts is not None


@pytest.mark.parametrize(
    ("latent_avg", "message"),
    [
        (torch.randn(8, W_DIM), r"the same for every layer, got \[8, 12\]"),
        (torch.randn(3), r"shape of latent_avg: the file has \[3\], the network \[12\]"),
        ([1.0], "got list"),
    ],
)
def test_wrong_averages(latent_avg: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator_from(held({"g_ema": reference.port_state(16), "latent_avg": latent_avg}))


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_generator(tmp_path / "nowhere.pt")
    ConvEmbedding(5, resolution=16, width=4).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"is an identity network .*; expected a StyleGAN2"):
        load_generator(tmp_path / "other.safetensors")
    torch.save({"d": {"final_linear.0.weight": torch.ones(2, 2)}}, tmp_path / "d.pt")
    with pytest.raises(ValueError, match=r"d\.pt is a discriminator; expected a StyleGAN2 "):
        load_generator(tmp_path / "d.pt")
    content = {"synthesis.b4.const": torch.ones(8, 4, 4)}
    with pytest.raises(ValueError, match=r"without its settings .* which are in the \.pkl"):
        generator_from(held(content))
    for content in ({"encoder.input_layer.0.weight": torch.ones(1)}, {}):
        with pytest.raises(ValueError, match=r"file\.pt is a.*; expected a StyleGAN2 generator"):
            generator_from(held(content))
        assert GENERATOR.describe(held(content)) is None
    for content in (torch.ones(3, 18, 512), [1, 2]):
        with pytest.raises(ValueError, match=r"file\.pt is a.*; expected a StyleGAN2 generator"):
            generator_from(held(content))
        assert GENERATOR.describe(held(content)) is None


def test_whole_numbers_are_no_weights() -> None:
    state = reference.port_state(16)
    state["conv1.activate.bias"] = torch.ones(8, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"file\.pt: .*quantized.*\n  conv1\.activate\.bias: int64"
    ):
        generator_from(held(state))


def test_rows_that_the_image_lacks() -> None:
    with pytest.raises(ValueError, match=r"file\.pt: .*content_rows must be .* within 16"):
        generator_from(held(reference.port_state(16)), content_rows=(4, 17))


def test_damaged_files_of_our_own(tmp_path: Path) -> None:
    state = reference.port_state(16)
    for config, message in (
        ("{", "configuration is not valid JSON"),
        ('{"resolution": 16}', "does not fit StyleGAN2"),
        ("[]", "configuration must be a JSON object, not of type list"),
        (json.dumps(SIZES | {"n_mlp": 10**12}), "no such StyleGAN2.*more layers than the file"),
        (json.dumps(SIZES | {"w_dim": 10**12}), "does not fit StyleGAN2|no such StyleGAN2"),
        (json.dumps(SIZES | {"w_dim": 2**62}), "does not fit StyleGAN2|no such StyleGAN2"),
        (json.dumps(SIZES | {"resolution": 48}), "no such StyleGAN2 can be built: .*got 48"),
        (json.dumps(SIZES | {"conv_clamp": "x"}), "no such StyleGAN2 can be built: "),
        (json.dumps(SIZES | {"content_rows": 5}), "no such StyleGAN2 can be built: "),
        (json.dumps(SIZES | {"color": 1}), "no such StyleGAN2 can be built: .*color"),
    ):
        metadata = {"network": "StyleGAN2", "config": config}
        save_tensors(tmp_path / "ours.safetensors", state, metadata)
        with pytest.raises(ValueError, match=rf"ours\.safetensors.*{message}"):
            load_generator(tmp_path / "ours.safetensors")
        assert GENERATOR.describe(read_checkpoint(tmp_path / "ours.safetensors")) is not None


def test_description(tmp_path: Path) -> None:
    facts = GENERATOR.describe(held(converted(reference.port_state(32, depth=8, multiplier=2))))
    assert facts == {
        "generator": "StyleGAN2 of the PyTorch port, 32 × 32, W+ 8 × 12, 8 mapping layers, "
        "256 / resolution channels (at most 8)"
    }
    facts = GENERATOR.describe(held(mapper_file(reference.port_state(16))))
    assert facts is not None and facts["mean of w"] == "not in the file: estimated"
    assert "PyTorch port, in a file with other networks, 16 × 16" in facts["generator"]
    network = StyleGAN2(
        16, 8, 8, 2, 64, 8, c_dim=3, conv_clamp=256, num_fp16_res=1,
        resample_filter=(1, 1), content_rows=(2, 14),
    )  # fmt: skip
    network.save(tmp_path / "ours.safetensors")
    facts = GENERATOR.describe(read_checkpoint(tmp_path / "ours.safetensors"))
    assert facts == {
        "generator": "StyleGAN2 of this package, 16 × 16, W+ 6 × 8, 2 mapping layers, "
        "64 / resolution channels (at most 8)",
        "classes": "3",
        "clamp": "256",
        "float16": "the 1 highest resolutions, on a GPU",
        "picture": "rows 2 to 14",
        "filter": "1, 1",
    }


def test_full_width() -> None:
    """The widths of config f, up to 16 × 16."""
    state = reference.port_state(16, w_dim=512, depth=8, multiplier=2, width=512)
    network = generator_from(held({"g_ema": state, "latent_avg": torch.zeros(512)}))
    net = reference.of_port(state)
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(1))
    w = reference.map_to_w(net, z.double())
    torch.testing.assert_close(network.mapping(z).double(), w, rtol=1e-4, atol=1e-4)
    w_plus = w[:, None].repeat(1, 6, 1)
    images = reference.render(net, w_plus)
    difference = (network.synthesis(w_plus.float()) - images).abs().max()
    assert difference < 1e-5 * images.abs().max()


def test_full_size(tmp_path: Path) -> None:
    """`stylegan2-ffhq-config-f.pt` as it is published, through the disk."""
    state = reference.port_state(1024, w_dim=512, depth=8, multiplier=2, width=512)
    torch.save({"g_ema": state, "latent_avg": torch.zeros(512)}, tmp_path / "generator.pt")
    network = load_generator(tmp_path / "generator.pt")
    assert network.config["channel_base"] == 32768 and network.config["channel_max"] == 512
    assert network.image_size == (1024, 1024) and network.num_layers == 18
    assert sum(p.numel() for p in network.parameters()) == 30_370_060
    loaded = network.state_dict()
    kernels = {key for key in state if key.endswith(".kernel")}
    assert set(state) - kernels == set(loaded) - {"latent_avg"} and len(kernels) == 16
    assert all(torch.equal(value, state[key]) for key, value in loaded.items() if key in state)
