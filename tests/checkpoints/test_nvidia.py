"""NVIDIA's generators: renaming, settings that change the image, and what is refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvidia_files
import pytest
import stylegan2_reference as reference
import torch
from foreign_files import generator_from
from torch import Tensor

from sdd_fast.checkpoints.formats.read import Checkpoint, PickledObject
from sdd_fast.checkpoints.load import load_generator
from sdd_fast.checkpoints.nvidia import _rename
from sdd_fast.checkpoints.stylegan2 import GENERATOR
from sdd_fast.models import StyleGAN2

W_DIM = 12


def held(network: nvidia_files.Generator, **beside: Any) -> Checkpoint:
    return Checkpoint(
        Path("file.pkl"), "pickle", {"G_ema": nvidia_files.as_read(network), **beside}
    )


def assert_agrees(
    network: StyleGAN2,
    original: nvidia_files.Generator,
    labels: Tensor | None = None,
    lr: float = 0.01,
    **settings: Any,
) -> None:
    """The network and the reference on the original's tensors: w, truncation and images.

    In float64 they differ by the place of the 1e-8 in the demodulation, hence 1e-7.
    """
    net = reference.of_nvidia(original.state_dict())
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(2, network.z_dim, generator=rng)
    w_plus = reference.w_plus_of(net, z.double(), labels, lr=lr)
    images = reference.render(net, w_plus, **settings)
    # Several times the largest difference of float32 found, relative to the images' size.
    size = float(images.abs().max())
    assert (network(z, labels=labels) - images).abs().max() < 1e-4 * size
    wide = network.double()
    for psi, cutoff in ((1.0, None), (0.7, None), (0.5, 3)):
        w_plus = reference.w_plus_of(net, z.double(), labels, psi, cutoff, lr)
        images = reference.render(net, w_plus, **settings)
        actual = wide(z.double(), psi, cutoff, labels=labels)
        assert (actual - images).abs().max() < 1e-7 * size
    w_plus = torch.randn(2, network.num_layers, W_DIM, generator=rng, dtype=torch.float64)
    for mode in ("const", "none"):
        images = reference.render(net, w_plus, noise=mode == "const", **settings)
        assert (wide.synthesis(w_plus, mode) - images).abs().max() < 1e-7 * size


def test_every_setting_is_read() -> None:
    original = nvidia_files.generator(
        64, z_dim=7, depth=3, lr=0.02, channel_base=128, conv_clamp=256, num_fp16_res=2,
        taps=(1, 2, 2, 1),
    )  # fmt: skip
    network = generator_from(held(original))
    assert network.config == {
        "resolution": 64, "w_dim": W_DIM, "z_dim": 7, "n_mlp": 3, "channel_base": 128,
        "channel_max": 8, "c_dim": 0, "lr_multiplier": 0.02, "conv_clamp": 256,
        "num_fp16_res": 2, "resample_filter": pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        "content_rows": None,
    }  # fmt: skip
    assert torch.equal(network.latent_avg, original.mapping.w_avg)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"resolution": 8, "depth": 1},
        {"resolution": 32, "depth": 2},
        {"resolution": 64, "depth": 8, "channel_base": 512},
        {"resolution": 64, "z_dim": 5, "channel_base": 128},
        {"resolution": 32, "use_noise": False},
        {"resolution": 32, "lr": 0.02},
        {"resolution": 32, "conv_clamp": 0.7},
        {"resolution": 32, "num_fp16_res": 2},  # in float32 on the CPU
    ],
)
def test_images(settings: dict[str, Any]) -> None:
    original = nvidia_files.generator(**settings)
    network = generator_from(held(original))
    lr, clamp = settings.get("lr", 0.01), settings.get("conv_clamp")
    assert_agrees(network, original, lr=lr, clamp=clamp)
    if clamp is not None:  # it was reached
        with pytest.raises(AssertionError):
            assert_agrees(generator_from(held(original)), original, clamp=None)


@pytest.mark.parametrize("taps", [(1, 1), (1, 2, 5, 4), (1, 2, 3, 5, 5, 3, 2, 2)])
def test_other_filters(taps: tuple[int, ...]) -> None:
    """The eight taps are stored as they are, fewer as their outer product."""
    original = nvidia_files.generator(32, taps=taps)
    network = generator_from(held(original))
    w_plus = torch.randn(1, 8, W_DIM, dtype=torch.float64)
    net = reference.of_nvidia(original.state_dict())
    expected = reference.render(net, w_plus, taps=network.config["resample_filter"])
    images = network.double().synthesis(w_plus)
    torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)
    assert (reference.render(net, w_plus) - images).abs().max() > 0.1


def test_labels() -> None:
    original = nvidia_files.generator(16, c_dim=4)
    labels = torch.eye(4, dtype=torch.float64)[[2, 0]]
    network = generator_from(held(original))
    assert network.config["c_dim"] == 4 and network.config["z_dim"] == 10
    assert_agrees(network, original, labels)
    z = torch.randn(2, 10, dtype=torch.float64)
    one, two = (network.mapping(z, labels=each) for each in (labels, labels.flip(0)))
    assert (one - two).abs().max() > 0.1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_through_the_disk(tmp_path: Path, protocol: int) -> None:
    """Neither the source code in the file nor what it refers to is run: both would exit."""
    original = nvidia_files.generator(16, c_dim=3, conv_clamp=256, num_fp16_res=1)
    path = nvidia_files.write(tmp_path / "network.pkl", nvidia_files.snapshot(original), protocol)
    assert nvidia_files.SOURCE.encode() in path.read_bytes()
    with nvidia_files.originals():
        with pytest.raises(SystemExit):
            pickle.loads(path.read_bytes())
        network = load_generator(path)
    assert network.config["conv_clamp"] == 256 and network.config["num_fp16_res"] == 1
    labels = torch.eye(3, dtype=torch.float64)[[1, 2]]
    assert_agrees(network, original, labels, clamp=256)


def test_which_network_is_taken() -> None:
    averaged, other = nvidia_files.generator(16), nvidia_files.generator(16, seed=1)
    beside = {
        "G": nvidia_files.as_read(other), "training_set_kwargs": {"path": "x.zip"},
        "D": nvidia_files.as_read(nvidia_files.discriminator()), "augment_pipe": None,
    }  # fmt: skip
    network = generator_from(held(averaged, **beside))
    assert torch.equal(network.latent_avg, averaged.mapping.w_avg)
    for content in ({"G": nvidia_files.as_read(other)}, nvidia_files.as_read(other)):
        network = generator_from(Checkpoint(Path("file.pkl"), "pickle", content))
        assert torch.equal(network.latent_avg, other.mapping.w_avg)
    for content, what in (({"D": beside["D"]}, "discriminator"), (beside["D"], "pickled Discrim")):
        with pytest.raises(ValueError, match=rf"file\.pkl is a {what}.*; expected a StyleGAN2"):
            generator_from(Checkpoint(Path("file.pkl"), "pickle", content))
    with pytest.raises(ValueError, match="unexpected: critic"):
        generator_from(held(averaged, critic=beside["D"]))


def test_without_an_average_it_is_estimated() -> None:
    original = nvidia_files.generator(16)
    del original.mapping.w_avg
    network = generator_from(held(original))
    whole = nvidia_files.generator(16).state_dict()
    z = torch.randn(40_000, 10, generator=torch.Generator().manual_seed(2)).double()
    w = reference.map_to_w(reference.of_nvidia(whole), z)
    assert ((network.latent_avg.double() - w.mean(0)).abs() < 0.06 * w.std(0)).all()


def setting(path: str, name: str, value: Any) -> Callable[[nvidia_files.Generator], None]:
    return lambda network: setattr(network.get_submodule(path), name, value)


def missing(path: str, name: str) -> Callable[[nvidia_files.Generator], None]:
    return lambda network: delattr(network.get_submodule(path), name)


def renamed(path: str, kind: str) -> Callable[[nvidia_files.Generator], None]:
    def change(network: nvidia_files.Generator) -> None:
        module = network.get_submodule(path)
        module.__class__ = type(kind, (type(module),), {})

    return change


def as_stylegan3(network: nvidia_files.Generator) -> None:
    network.synthesis.input = nvidia_files.DiscriminatorBlock()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("synthesis.b8", "architecture", "resnet"), "b8: architecture is 'resnet', only"),
        (setting("synthesis.b8", "architecture", "orig"), "architecture is 'orig', only 'skip'"),
        (setting("synthesis.b8.conv1", "activation", "relu"), "activation is 'relu', only 'lrelu'"),
        (setting("synthesis.b8.conv0", "up", 1), r"b8\.conv0: up is 1.*, only 2 is supported"),
        (setting("synthesis.b8.conv0", "act_gain", 1.0), "act_gain is 1.0, only 1.41"),
        (setting("synthesis.b8.torgb", "weight_gain", 1.0), r"b8\.torgb: weight_gain is 1.0"),
        (setting("synthesis.b8.conv1", "conv_clamp", 3), "conv_clamp is not the same everywhere"),
        (missing("synthesis.b8.torgb", "conv_clamp"), r"b8\.torgb has no attribute conv_clamp"),
        (missing("synthesis.b16", "use_fp16"), "b16 has no attribute use_fp16"),
        (setting("synthesis.b8", "use_fp16", True), r"float16 blocks are \[8\], which are not the"),
        (setting("mapping.fc1", "activation", "linear"), r"mapping\.fc1: activation is 'linear'"),
        (setting("mapping.fc1", "weight_gain", 0.1), r"mapping\.fc1: weight_gain is 0.1"),
        (setting("mapping.fc0", "weight_gain", "x"), "weight_gain is 'x', not a finite number"),
        (setting("synthesis.b4.torgb.affine", "bias_gain", 2.0), "affine: bias_gain is 2.0"),
        (setting("synthesis.b16", "use_fp16", torch.ones(2)), "use_fp16 is .*, not True or False"),
        (setting("synthesis.b8.torgb", "weight_gain", 10**400), "not a finite number"),
        (setting("", "img_channels", 1), "the network: img_channels is 1.*, only 3 is supported"),
        (renamed("synthesis.b8", "SeparableBlock"), "b8 is of class SeparableBlock, not one"),
        (renamed("", "TriPlaneGenerator"), "the network is of class TriPlaneGenerator, not one of"),
        (as_stylegan3, r"file\.pkl: a StyleGAN3 generator .alias-free"),
        (setting("", "z_dim", 9), "its z_dim is 9, but its tensors are those of z_dim 10"),
        (setting("", "img_resolution", 32), "img_resolution is 32, but its tensors are those of"),
    ],
)  # fmt: skip
def test_what_cannot_be_reproduced(
    change: Callable[[nvidia_files.Generator], None], message: str
) -> None:
    original = nvidia_files.generator(16)
    change(original)
    with pytest.raises(ValueError, match=message) as caught:
        generator_from(held(original))
    assert "file.pkl" in str(caught.value)
    facts = GENERATOR.describe(held(original))
    assert facts is not None and facts["generator"].startswith("cannot be loaded: ")


def test_every_problem_is_named() -> None:
    original = nvidia_files.generator(16)
    setting("synthesis.b8", "architecture", "orig")(original)
    setting("synthesis.b4.conv1", "activation", "swish")(original)
    with pytest.raises(ValueError, match=r"b4\.conv1: activation is 'swish'(.|\n)*b8: arch"):
        generator_from(held(original))


def test_tensors_that_do_not_fit() -> None:
    original = nvidia_files.generator(16)
    del original.synthesis.b8.conv1.bias
    original.synthesis.b16.torgb.more = torch.nn.Parameter(torch.ones(2))
    original.mapping.fc1.bias = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"file\.pkl does not fit StyleGAN2 \(3 of") as caught:
        generator_from(held(original))
    for line in (
        "missing: convs.1.activate.bias",
        "unexpected: synthesis.b16.torgb.more",
        "shape of style.2.bias: the file has [3], the network [12]",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    "state",
    [
        {"_modules": {}, "_parameters": {}, "_buffers": {}},
        {"_modules": {}},
        {"_modules": {"mapping": 3}},
        {"_modules": [1, 2]},
        {"_modules": {"mapping": PickledObject("MappingNetwork", {})}},
    ],
)
def test_modules_that_are_none(state: dict[str, Any]) -> None:
    content = {"G_ema": PickledObject("Generator", state)}
    with pytest.raises(ValueError, match=r"file\.pkl"):
        generator_from(Checkpoint(Path("file.pkl"), "pickle", content))


def test_description() -> None:
    original = nvidia_files.generator(
        32, c_dim=4, depth=8, channel_base=128, conv_clamp=256, num_fp16_res=2
    )
    assert GENERATOR.describe(held(original)) == {
        "generator": "StyleGAN2 of NVIDIA, 32 × 32, W+ 8 × 12, 8 mapping layers, "
        "128 / resolution channels (at most 8)",
        "classes": "4",
        "clamp": "256",
        "float16": "the 2 highest resolutions, on a GPU",
    }


def test_the_published_names_and_shapes() -> None:
    """Every tensor of the 1024 × 1024 FFHQ network, as listed with its shape by those who took the
    published file apart, has its place in ours, and no place stays empty."""
    lines = Path(nvidia_files.__file__).with_name("stylegan2_1024.txt").read_text().splitlines()
    listed = {name: [int(n) for n in shape] for name, *shape in map(str.split, lines)}
    with torch.device("meta"):
        expected = {key: value.shape for key, value in StyleGAN2(1024).state_dict().items()}
        renamed = {}
        for name, shape in listed.items():
            path, _, last = name.rpartition(".")
            if last != "resample_filter":
                key, value = _rename(path, last, torch.empty(shape))
                renamed[key] = value.shape
    assert renamed == expected
    buffers = ("resample_filter", "noise_const", "w_avg")
    counts = [math.prod(shape) for name, shape in listed.items() if not name.endswith(buffers)]
    assert sum(counts) == 30_370_060
    # What the tests write has the same names.
    assert set(nvidia_files.generator(1024, depth=8, channel_base=4096).state_dict()) == set(listed)
