from __future__ import annotations

import argparse
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import stylegan2_reference
import torch
from irse_reference import arcface_shapes, pyramid, pyramid_shapes, random_state
from torch import Tensor

from sdd_fast.checkpoints.formats.read import Checkpoint, PickledObject, read_checkpoint
from sdd_fast.checkpoints.load import load_encoder, load_generator, load_identity
from sdd_fast.checkpoints.psp import ENCODER
from sdd_fast.files import save_tensors
from sdd_fast.models import Encoder
from sdd_fast.models.psp import PyramidEncoder

UNITS, WIDTH, LAYERS, W_DIM = (1, 2, 1, 1), 16, 9, 20
SHAPES = pyramid_shapes(LAYERS, W_DIM, UNITS, WIDTH)
E4E = {"encoder_type": "Encoder4Editing", "dataset_type": "ffhq_encode", "stylegan_size": 64}
PSP = {"encoder_type": "GradualStyleEncoder", "dataset_type": "ffhq_encode", "input_nc": 3}
CARS = {**E4E, "dataset_type": "cars_encode", "start_from_latent_avg": True}


def encoder_state() -> dict[str, Tensor]:
    return random_state(SHAPES)


def average(rows: int | None = None) -> Tensor:
    shape = (W_DIM,) if rows is None else (rows, W_DIM)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def training_file(state: dict[str, Tensor] | None = None, **beside: Any) -> dict[str, Any]:
    """As e4e and pSp write it; entries of None in `beside` are left out."""
    weights = {f"encoder.{k}": v for k, v in (state or encoder_state()).items()}
    decoder = {"decoder.style.1.weight": torch.zeros(4, 4), "decoder.noises.noise_0": torch.ones(1)}
    content = {"state_dict": weights | decoder, "opts": E4E, "latent_avg": average(LAYERS)} | beside
    return {k: v for k, v in content.items() if v is not None}


def write(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def expected(images: Tensor, deltas: bool, latent_avg: Tensor) -> Tensor:
    return latent_avg.double() + pyramid(encoder_state(), images, UNITS, LAYERS, deltas)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("opts", [E4E, PSP])
def test_training_file(tmp_path: Path, images: Tensor, opts: dict[str, Any], legacy: bool) -> None:
    path = write(tmp_path / "encoder.pt", training_file(opts=opts), legacy)
    encoder = load_encoder(path)
    assert isinstance(encoder, PyramidEncoder)
    assert encoder.input_size == (256, 256) and encoder.num_layers == LAYERS
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    wanted = expected(images, deltas=opts is E4E, latent_avg=average(LAYERS))
    torch.testing.assert_close(encoder(images).double(), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("opts", "latent_avg", "wanted"),
    [
        (E4E, average(), average().expand(LAYERS, -1)),
        (E4E, average(1), average(1).expand(LAYERS, -1)),
        (E4E, average(LAYERS), average(LAYERS)),
        ({**PSP, "start_from_latent_avg": True}, average(), average().expand(LAYERS, -1)),
        ({**PSP, "start_from_latent_avg": False}, average(), torch.zeros(LAYERS, W_DIM)),
        ({**PSP, "start_from_latent_avg": False}, None, torch.zeros(LAYERS, W_DIM)),
    ],
)
def test_average_latent(
    tmp_path: Path, opts: dict[str, Any], latent_avg: Tensor | None, wanted: Tensor
) -> None:
    content = training_file(opts=opts, latent_avg=latent_avg)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = load_encoder(write(tmp_path / "encoder.pt", content))
    assert torch.equal(encoder.latent_avg, wanted)


def with_decoder(**beside: Any) -> dict[str, Any]:
    """A file whose generator is whole, and whose w is as wide as the encoder's."""
    content = training_file(**{"latent_avg": None, **beside})
    state = stylegan2_reference.port_state(32, w_dim=W_DIM)
    content["state_dict"] |= {f"decoder.{key}": value for key, value in state.items()}
    return content


def test_the_average_of_the_generator_in_the_file(tmp_path: Path) -> None:
    """As e4e's files without latent_avg are meant: it is the mean of 10,000 random w."""
    content = with_decoder()
    path = write(tmp_path / "encoder.pt", content)
    encoder = load_encoder(path)
    assert torch.equal(encoder.latent_avg, load_generator(path).latent_avg.expand(LAYERS, -1))
    assert torch.equal(encoder.latent_avg, load_encoder(path).latent_avg)  # seeded
    net = stylegan2_reference.of_port(stylegan2_reference.port_state(32, w_dim=W_DIM))
    z = torch.randn(40_000, W_DIM, generator=torch.Generator().manual_seed(2)).double()
    w = stylegan2_reference.map_to_w(net, z)
    assert ((encoder.latent_avg[0].double() - w.mean(0)).abs() < 0.06 * w.std(0)).all()
    facts = ENCODER.describe(read_checkpoint(path))
    assert facts is not None and "average latent of the generator beside it" in facts["encoder"]
    none = write(tmp_path / "none.pt", {**content, "latent_avg": None})
    assert torch.equal(load_encoder(none).latent_avg, encoder.latent_avg)
    assert torch.equal(load_generator(none).latent_avg, load_generator(path).latent_avg)
    alone = write(tmp_path / "alone.pt", content["state_dict"])
    assert torch.equal(load_encoder(alone, kind="e4e").latent_avg, encoder.latent_avg)
    del content["state_dict"]["decoder.conv1.conv.weight"]  # of a generator that is not whole
    with pytest.raises(ValueError, match="missing: latent_avg, which this encoder starts from"):
        load_encoder(write(tmp_path / "encoder.pt", content))
    with pytest.raises(ValueError, match="missing: latent_avg, which this encoder starts from"):
        load_encoder(write(tmp_path / "encoder.pt", {**content, "latent_avg": None}))
    with pytest.raises(
        ValueError, match="shape of latent_avg: the file has an object of type list, expected"
    ):
        load_encoder(write(tmp_path / "encoder.pt", {**content, "latent_avg": [0.0]}))


def test_cars_are_wider_than_high(tmp_path: Path) -> None:
    encoder = load_encoder(write(tmp_path / "cars.pt", training_file(opts=CARS)))
    assert isinstance(encoder, PyramidEncoder) and encoder.input_size == (192, 256)
    cartoons = training_file(opts={**E4E, "dataset_type": "cartoon_encode"})
    encoder = load_encoder(write(tmp_path / "cartoons.pt", cartoons))
    assert isinstance(encoder, PyramidEncoder) and encoder.input_size == (256, 256)


def test_options_as_a_namespace(tmp_path: Path) -> None:
    content = training_file(opts=argparse.Namespace(**CARS))
    encoder = load_encoder(write(tmp_path / "cars.pt", content))
    assert isinstance(encoder, PyramidEncoder)
    assert encoder.deltas and encoder.input_size == (192, 256)


@pytest.mark.parametrize("prefix", ["encoder.", ""])
@pytest.mark.parametrize("kind", ["e4e", "psp"])
def test_state_dict_alone(tmp_path: Path, images: Tensor, prefix: str, kind: str) -> None:
    """It needs to be told of which kind it is, and lacks the average latent."""
    state = {prefix + k: v for k, v in encoder_state().items()}
    path = write(tmp_path / "encoder.pt", state)
    with pytest.raises(ValueError, match=r'e4e or pSp\?.*load_encoder\(path, kind="e4e"\)'):
        load_encoder(path)
    with pytest.raises(
        ValueError, match=r"missing: latent_avg.*Give it as load_encoder\(path, lat"
    ):
        load_encoder(path, kind=kind)
    encoder = load_encoder(path, kind=kind, latent_avg=average())
    wanted = expected(images, kind == "e4e", average())
    torch.testing.assert_close(encoder(images).double(), wanted, atol=2e-5, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write(tmp_path / "with_average.pt", state | {"latent_avg": average()})
        told = load_encoder(path, kind=kind, latent_avg=torch.zeros(W_DIM))
        assert torch.equal(told.latent_avg[3], average())


def test_state_dict_in_safetensors(tmp_path: Path) -> None:
    save_tensors(tmp_path / "e.safetensors", encoder_state() | {"latent_avg": average()})
    encoder = load_encoder(tmp_path / "e.safetensors", kind="psp")
    assert torch.equal(encoder.latent_avg[0], average())


def test_kind_against_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path / "encoder.pt", training_file())
    assert load_encoder(path, kind="e4e").config["deltas"] is True
    with pytest.raises(ValueError, match='kind="psp", but the file says.*Encoder4Editing'):
        load_encoder(path, kind="psp")
    with pytest.raises(ValueError, match='kind must be "e4e" or "psp", got \'pSp\''):
        load_encoder(path, kind="pSp")


@pytest.mark.parametrize("network", [PyramidEncoder, Encoder])
def test_our_own(tmp_path: Path, network: type) -> None:
    path = tmp_path / "encoder.safetensors"
    if network is Encoder:
        made: Any = Encoder(32, num_layers=5, w_dim=6, channel_base=64, channel_max=8)
    else:
        made = load_encoder(write(tmp_path / "encoder.pt", training_file(opts=CARS)))
    made.save(path)
    again = load_encoder(path)
    assert type(again) is network and again.config == made.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    for key, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_half_precision_and_old_files(tmp_path: Path) -> None:
    """Stored as float16, and from before normalization counted its training steps."""
    state = {
        k: v.half() for k, v in encoder_state().items() if not k.endswith("num_batches_tracked")
    }
    encoder = load_encoder(write(tmp_path / "encoder.pt", training_file(state)))
    stored = encoder.state_dict()
    assert stored["input_layer.1.num_batches_tracked"] == 0
    for key, value in state.items():
        assert stored[key].dtype == torch.float32 and torch.equal(stored[key], value.float()), key


def test_what_training_leaves_beside_is_not_needed(tmp_path: Path) -> None:
    """The generator, discriminator and optimizers; anything else is named."""
    content = training_file(
        global_step=1000,
        best_val_loss=0.1,
        optimizer={"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]},
        discriminator_state_dict={"mlp.0.weight": torch.zeros(2, 2)},
        discriminator_optimizer_state_dict={"state": {}},
        note="a text is no tensor",
    )
    load_encoder(write(tmp_path / "encoder.pt", content))
    content["extra"] = {"list": [torch.zeros(2)]}
    content["state_dict"]["mlp.weight"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        load_encoder(write(tmp_path / "encoder.pt", content))
    assert "(2 of its tensors)" in str(error.value)
    assert "unexpected: extra.list.0" in str(error.value)
    assert "unexpected: mlp.weight" in str(error.value)


def test_wrong_tensors_are_all_named(tmp_path: Path) -> None:
    state = encoder_state()
    del state["latlayer1.bias"], state["body.2.res_layer.5.fc1.weight"]
    state["styles.4.convs.0.weight"] = torch.zeros(W_DIM, 8, 3, 3)
    state["styles.5.other"] = torch.zeros(1)
    path = write(tmp_path / "encoder.pt", training_file(state))
    with pytest.raises(ValueError) as error:
        load_encoder(path)
    message = str(error.value)
    assert message.startswith(f"{path} does not fit PyramidEncoder (4 of its tensors):")
    assert "missing: latlayer1.bias\n" in message
    assert "missing: body.2.res_layer.5.fc1.weight\n" in message
    assert "unexpected: styles.5.other\n" in message
    assert (
        "shape of styles.4.convs.0.weight: the file has [20, 8, 3, 3], the network [20, 128, 3, 3]"
        in message
    )


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    state: dict[str, Any] = encoder_state() | {k.replace("__", "."): v for k, v in tensors.items()}
    return {k: v for k, v in state.items() if v is not None}


def without(*starts: str) -> dict[str, Tensor]:
    return {k: v for k, v in encoder_state().items() if not k.startswith(starts)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (training_file(opts=E4E, latent_avg=None), "missing: latent_avg, which this encoder"),
        (
            training_file(latent_avg=torch.zeros(5, W_DIM)),
            r"shape of latent_avg: the file has \[5, 20\], expected \[20\] or \[9, 20\]",
        ),
        (
            training_file(changed(input_layer__0__weight=torch.zeros(WIDTH, 6, 3, 3))),
            "ReStyle encoder, whose 6 input channels.*supported are e4e",
        ),
        (
            training_file(changed(input_layer__0__weight=torch.zeros(WIDTH, 19, 3, 3))),
            "encoder of 19 input channels, such as sketches or label maps",
        ),
        (
            training_file(without("input_layer.") | {"conv1.weight": torch.zeros(64, 6, 7, 7)}),
            "ReStyle encoder",
        ),
        (
            training_file(opts={"encoder_type": "ResNetProgressiveBackboneEncoder"}),
            "encoder of the kind ResNetProgressiveBackboneEncoder; supported are e4e",
        ),
        (
            training_file(without("styles.", "latlayer"), opts={"encoder_type": "WEncoder"}),
            "encoder of the kind WEncoder; supported are e4e",
        ),
        (without("styles.", "latlayer"), "of the kind without a feature pyramid; supported are"),
        (
            training_file(without("input_layer.0.")),
            "missing: input_layer.0.weight, which tells the network's size",
        ),
        (
            training_file(changed(input_layer__0__weight=torch.zeros(WIDTH))),
            r"input_layer.0.weight must have 4 dimensions, got \[16\]",
        ),
        (training_file(without("styles.0.linear.")), "missing: styles.0.linear.weight"),
        (
            training_file(without("body.4.")),
            r"four stages of 16, 32, 64, 128 channels, its units have \[16, 32, 32, 64\]",
        ),
        (
            training_file(changed(body__0__res_layer__3__weight=torch.zeros(7, 7, 3, 3))),
            r"four stages of 16, 32, 64, 128 channels, its units have \[7, 32, 32, 64, 128\]",
        ),
        (
            training_file(changed(latlayer1__bias=torch.zeros(128, dtype=torch.int8))),
            "quantized network is not supported.*\n  latlayer1.bias: int8",
        ),
        (
            training_file(
                changed(styles__0__linear__weight=torch.zeros(0, 0)), latent_avg=torch.zeros(0)
            ),
            "no such PyramidEncoder can be built: .* got num_layers=9, w_dim=0",
        ),
        (  # would be terabytes if allocated
            training_file(
                changed(styles__0__linear__weight=torch.zeros(10**6, 0)),
                latent_avg=torch.zeros(10**6),
            ),
            r"shape of styles.0.linear.weight: the file has \[1000000, 0\]",
        ),
        (
            training_file(
                changed(styles__0__linear__weight=torch.zeros(2**40, 0)),
                opts=PSP | {"start_from_latent_avg": False},
            ),
            "no such PyramidEncoder can be built",
        ),
        ({"g_ema": {"input.input": torch.zeros(1, 4, 4, 4)}}, "expected an encoder of images"),
        ({"state_dict": {"decoder.conv1.weight": torch.zeros(1)}}, "expected an encoder of images"),
        (random_state(arcface_shapes(UNITS, WIDTH, 8)), "expected an encoder of images"),
        ({"state_dict": torch.zeros(1)}, "expected an encoder of images"),
        ({"encoder.conv_in.weight": torch.zeros(1)}, "expected an encoder of images"),
        (torch.zeros(2, 18, 512), "expected an encoder of images"),
        ([torch.zeros(1)], "expected an encoder of images"),
        ({}, "expected an encoder of images"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "file.pt", content)
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(path)
    assert str(error.value).startswith(str(path))


def test_nonsense_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a file has in place of what belongs there."""
    nonsense = [
        None, 1, "text", float("nan"), [], {}, [torch.zeros(2)], PickledObject("a.B", {}),
        torch.zeros(()), torch.zeros(3), torch.zeros(0), torch.zeros(2**40, 0, 1, 1),
        torch.zeros(WIDTH, 3, 3, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.complex64),
    ]  # fmt: skip
    state = random_state(pyramid_shapes(1, W_DIM, (1, 1, 1, 1), WIDTH))  # is built 600 times
    rng, refused = random.Random(0), 0
    for _ in range(150):
        content = training_file(state, latent_avg=average())
        part = rng.choice([content, content["state_dict"], content["opts"] | {}, content])
        if "encoder_type" in part:
            content["opts"] = part
        part[rng.choice([*part, "other", 3])] = rng.choice(nonsense)
        checkpoint = Checkpoint(Path("file.pt"), "torch", content)
        monkeypatch.setattr(
            "sdd_fast.checkpoints.load.read_checkpoint", lambda _, checkpoint=checkpoint: checkpoint
        )
        for load in (load_encoder, load_identity):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    load("file.pt")
                except ValueError:
                    refused += 1
        ENCODER.describe(checkpoint)
    assert 150 < refused < 300  # an encoder is never an identity, but may still be an encoder


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_encoder(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            training_file(),
            "e4e on IR-SE of 5 units, W+ 9 × 20, input 256 × 256, added to the average latent",
        ),
        (
            training_file(opts=PSP | {"start_from_latent_avg": False}),
            "pSp on IR-SE of 5 units, W+ 9 × 20, input 256 × 256, without an average latent",
        ),
        (
            encoder_state(),
            "cannot be loaded: e4e or pSp? Their tensors are alike (on IR-SE of 5 units, W+ 9 × "
            "20), and this file lacks the opts that say which; call load_encoder(path, "
            'kind="e4e") or kind="psp" (sdd convert --part e4e)',
        ),
        (
            training_file(changed(input_layer__0__weight=torch.zeros(WIDTH, 6, 3, 3))),
            "cannot be loaded: a ReStyle encoder, whose 6 input channels are the image and its "
            "last reconstruction; supported are e4e (Encoder4Editing) and pSp "
            "(GradualStyleEncoder)",
        ),
        ({"g_ema": {"input.input": torch.zeros(1)}}, None),
        (torch.zeros(2, 18, 512), None),
    ],
)
def test_describe(tmp_path: Path, content: Any, text: str | None) -> None:
    facts = ENCODER.describe(read_checkpoint(write(tmp_path / "file.pt", content)))
    assert facts == (None if text is None else {"encoder": text})


def test_describe_full_size() -> None:
    state = {f"encoder.{k}": torch.empty(s, device="meta") for k, s in pyramid_shapes().items()}
    content = {"state_dict": state, "opts": CARS, "latent_avg": torch.zeros(18, 512)}
    assert ENCODER.describe(Checkpoint(Path("e4e.pt"), "torch", content)) == {
        "encoder": "e4e on IR-SE50, W+ 18 × 512, input 192 × 256, added to the average latent"
    }


def test_describe_our_own(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    Encoder(32, num_layers=5, w_dim=6, channel_base=64, channel_max=8).save(path)
    assert ENCODER.describe(read_checkpoint(path)) == {
        "encoder": "of this package, W+ 5 × 6, input 32 × 32"
    }
    load_encoder(write(tmp_path / "encoder.pt", training_file(opts=CARS))).save(path)
    assert ENCODER.describe(read_checkpoint(path)) == {
        "encoder": "e4e on IR-SE of 5 units, W+ 9 × 20, input 192 × 256"
    }
    damaged = Checkpoint(path, "safetensors", {}, {"network": "Encoder", "config": "[]"})
    assert ENCODER.describe(damaged) == {
        "encoder": "cannot be loaded: its configuration must be a JSON object, not of type list"
    }
