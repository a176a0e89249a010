"""Mapper files: ours, and foreign ones against their formula in plain PyTorch float64."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.checkpoints.formats.read import Checkpoint, PickledObject, read_checkpoint
from sdd_fast.checkpoints.load import load_mapper
from sdd_fast.checkpoints.mapper import MAPPER
from sdd_fast.editing.editor import Editor
from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.manipulator import MapperInfo, save_mapper
from sdd_fast.models import LevelsMapper, StyleGAN2, StyleSpaceMapper

DIM = 6
STYLE_DIMS = [8, 8, 8, 6, 6, 6, 4, 4]  # 16 × 16 pixels
LEVELS = {
    "course_mapping": slice(0, 4),
    "medium_mapping": slice(4, 8),
    "fine_mapping": slice(8, 99),
}


# --- foreign files, written from their description ------------------------------------------------


def mlp(name: str, dim: int = DIM) -> dict[str, Tensor]:
    tensors = {}
    for layer in (1, 2, 3, 4):
        tensors[f"{name}.mapping.{layer}.weight"] = torch.randn(dim, dim) / 0.01
        tensors[f"{name}.mapping.{layer}.bias"] = torch.randn(dim) * 30
    return tensors


def levels_state(*names: str) -> dict[str, Any]:
    return {key: value for name in names for key, value in mlp(name).items()}


def styles_state(to_rgb: bool) -> dict[str, Tensor]:
    kept = [i for i in range(len(STYLE_DIMS)) if to_rgb or i not in (1, 4, 7)]
    return {k: v for i in kept for k, v in mlp(f"mapper_{i}", STYLE_DIMS[i]).items()}


def decoder(resolution: int) -> dict[str, Tensor]:
    """Some of the generator's names; a mapper's loader counts the convolutions and no more."""
    state = {"decoder.conv1.conv.weight": torch.zeros(1), "decoder.style.1.bias": torch.zeros(1)}
    for j in range(2 * int(math.log2(resolution)) - 4):
        state[f"decoder.convs.{j}.conv.weight"] = torch.zeros(1)
        state[f"decoder.convs.{j}.conv.blur.kernel"] = torch.zeros(1)
    return state


def styleclip(
    mapper: dict[str, Any], resolution: int | None = 256, **options: Any
) -> dict[str, Any]:
    state = {f"mapper.{key}": value for key, value in mapper.items()}
    state |= decoder(resolution) if resolution else {}
    return {"state_dict": state, "opts": {"description": "a person with purple hair", **options}}


def their_mlp(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """PixelNorm over dimension 1, then x·(W·scale)ᵀ, + b·lr_mul, leaky ReLU, · √2."""
    x = x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-8)
    for layer in (1, 2, 3, 4):
        weight = state[f"{name}.mapping.{layer}.weight"].double()
        bias = state[f"{name}.mapping.{layer}.bias"].double()
        x = x @ (weight * (0.01 / math.sqrt(weight.shape[1]))).T + 0.01 * bias
        x = math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)
    return x


def their_levels(state: dict[str, Tensor], w_plus: Tensor) -> Tensor:
    out = torch.zeros_like(w_plus)
    for name, layers in LEVELS.items():
        if f"{name}.mapping.1.weight" in state:
            out[:, layers] = their_mlp(state, name, w_plus[:, layers])
    return out


def load(content: Any, tmp_path: Path) -> tuple[nn.Module, MapperInfo]:
    torch.save(content, tmp_path / "mapper.pt")
    return load_mapper(tmp_path / "mapper.pt")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# --- what they compute ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("course_mapping", "medium_mapping", "fine_mapping"),
        ("course_mapping", "medium_mapping"),
        ("fine_mapping",),
    ],
)
@pytest.mark.parametrize("layout", ["styleclip", "mapper", "name", "model", "bare"])
def test_levels(layout: str, names: tuple[str, ...], tmp_path: Path) -> None:
    state = levels_state(*names)
    content: Any = {layout: state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    if layout == "styleclip":
        content = styleclip(state)
    elif layout == "bare":
        content = state
    mapper, info = load(content, tmp_path)
    assert isinstance(mapper, LevelsMapper)
    assert not mapper.training and not any(p.requires_grad for p in mapper.parameters())
    assert {value.dtype for value in mapper.state_dict().values()} == {torch.float32}
    assert mapper.num_layers == (14 if layout == "styleclip" else None)
    assert info.lam == 0.1 and info.timesteps == () and info.domain == ""
    words = {"course_mapping": "coarse", "medium_mapping": "medium", "fine_mapping": "fine"}
    assert info.levels == tuple(mapper.levels) == tuple(words[name] for name in names)
    assert info.prompt == ("a person with purple hair" if layout == "styleclip" else "")
    w_plus = torch.randn(3, 14, DIM, dtype=torch.float64)
    expected = their_levels(state, w_plus)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(mapper.double()(w_plus), expected)


def test_normalizes_over_the_layers_of_the_generator_at_hand(tmp_path: Path) -> None:
    """Where the file does not tell how many layers there are: as many as come."""
    state = levels_state("medium_mapping", "fine_mapping")
    mapper, _ = load({"mapper": state}, tmp_path)
    for layers in (10, 16, 18):
        w_plus = torch.randn(2, layers, DIM, dtype=torch.float64)
        torch.testing.assert_close(mapper.double()(w_plus), their_levels(state, w_plus))


def test_one_mlp_for_all_layers(tmp_path: Path) -> None:
    state = mlp("mapping")
    options = {"no_coarse_mapper": False, "no_medium_mapper": False, "no_fine_mapper": False}
    mapper, info = load(styleclip(state, mapper_type="SingleMapper", **options), tmp_path)
    w_plus = torch.randn(2, 14, DIM, dtype=torch.float64)
    torch.testing.assert_close(mapper.double()(w_plus), their_mlp(state, "mapping", w_plus))
    assert info.levels == ("all",)


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize("layout", ["styleclip", "mapper"])
def test_style_space(layout: str, to_rgb: bool, tmp_path: Path) -> None:
    state = styles_state(to_rgb)
    content = styleclip(state) if layout == "styleclip" else {"mapper": state}
    mapper, info = load(content, tmp_path)
    assert isinstance(mapper, StyleSpaceMapper)
    assert mapper.style_dims == STYLE_DIMS and info.lam == 0.1
    styles = [torch.randn(2, dim, dtype=torch.float64) for dim in STYLE_DIMS]
    for i, change in enumerate(mapper.double()(styles)):
        if to_rgb or i not in (1, 4, 7):
            torch.testing.assert_close(change, their_mlp(state, f"mapper_{i}", styles[i]))
        else:
            assert not change.any()


def test_sizes_of_the_published_style_space() -> None:
    """1024 × 1024: 26 styles, of which the mapper without toRGB lacks 1, 4, …, 25."""
    dims = [512] * 15 + [256] * 3 + [128] * 3 + [64] * 3 + [32] * 2
    state: dict[str, Tensor] = {}
    for i in set(range(26)) - set(range(1, 26, 3)):
        state[f"mapper_{i}.mapping.1.weight"] = torch.empty(dims[i], dims[i], device="meta")
        state[f"mapper_{i}.mapping.1.bias"] = torch.empty(dims[i], device="meta")
    facts = MAPPER.describe(Checkpoint(Path("m.pt"), "torch", {"mapper": state}))
    assert facts == {"mapper": "26 style vectors, without toRGB (the SDD authors' code)"}


@pytest.mark.parametrize("tells", [True, False])
def test_an_edit_is_theirs(tells: bool, tmp_path: Path) -> None:
    """G(w + 0.1 M(w)), of a file that tells the number of layers and of one that does not."""
    generator = StyleGAN2(64, w_dim=DIM, z_dim=DIM, n_mlp=1, channel_base=128, channel_max=8)
    generator = generator.eval().requires_grad_(False)
    state = levels_state("course_mapping", "fine_mapping")
    content = styleclip(state, 64) if tells else {"mapper": state}
    w_plus = torch.randn(2, 10, DIM)
    found = Editor(generator, [load(content, tmp_path)]).edit(w_plus)
    changed = w_plus.double() + 0.1 * their_levels(state, w_plus.double())
    expected = generator.double().synthesis(changed).clamp(-1, 1)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-3)
    if tells:
        small = StyleGAN2(32, w_dim=DIM, z_dim=DIM, n_mlp=1, channel_base=64, channel_max=8)
        with pytest.raises(ValueError, match=r"\[10, 6\], but the generator's is \[8, 6\]"):
            Editor(small, [load(content, tmp_path)])


def test_a_style_mapper_of_another_generator(tmp_path: Path) -> None:
    generator = StyleGAN2(16, w_dim=DIM, z_dim=DIM, n_mlp=1, channel_base=64, channel_max=5)
    with pytest.raises(ValueError, match="edits styles of lengths .*another generator"):
        Editor(generator, [load({"mapper": styles_state(False)}, tmp_path)])


# --- what they tell -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "options", "expected"),
    [
        (1024, {}, 18),
        (512, {"stylegan_size": 512}, 16),
        (None, {"stylegan_size": 1024}, 18),
        (None, {"stylegan_size": "1024"}, None),
        (None, {"stylegan_size": 1000}, None),
        (None, {}, None),
    ],
)
def test_number_of_layers(
    resolution: int | None, options: dict[str, Any], expected: int | None, tmp_path: Path
) -> None:
    content = styleclip(levels_state("course_mapping"), resolution, **options)
    assert load(content, tmp_path)[0].num_layers == expected


def test_options_of_any_form() -> None:
    state = styleclip(levels_state("course_mapping"), None)["state_dict"]
    for options, prompt in (
        (PickledObject("argparse.Namespace", {"description": "beard"}), "beard"),
        ({"description": 7}, None),
        (None, None),
    ):
        content = {"state_dict": state, "opts": options}
        facts = MAPPER.describe(Checkpoint(Path("m.pt"), "torch", content))
        assert facts is not None and facts.get("prompt") == prompt
        assert facts["mapper"] == "coarse of W+ any number × 6 (StyleCLIP)"


def test_a_namespace_is_read_too(tmp_path: Path) -> None:
    """StyleCLIP writes vars(opts); forks of it write the Namespace itself."""
    content = styleclip(levels_state("course_mapping"))
    content["opts"] = argparse.Namespace(description="beard", stylegan_size=256)
    mapper, info = load(content, tmp_path)
    assert info.prompt == "beard" and mapper.num_layers == 14


def test_description_of_what_is_no_mapper() -> None:
    for content in (torch.zeros(2), [1], {"g_ema": {}}, {"state_dict": {"encoder.x": 1}}, {},
                    {"course_mapping.mapping.1.bias": 3}):  # fmt: skip
        assert MAPPER.describe(Checkpoint(Path("m.pt"), "torch", content)) is None


# --- what does not fit ----------------------------------------------------------------------------


def test_every_difference_is_listed(tmp_path: Path) -> None:
    state = levels_state("course_mapping", "medium_mapping")
    del state["course_mapping.mapping.2.bias"]
    state["medium_mapping.mapping.4.weight"] = torch.zeros(DIM, 2)
    state["hair.weight"] = torch.zeros(1)
    state["mapper_3.mapping.1.bias"] = torch.zeros(1)
    content = styleclip(state)
    content["discriminator"] = {"weight": [torch.zeros(1)]}
    content["step"] = 7
    with pytest.raises(ValueError) as caught:
        load(content, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'mapper.pt'} does not fit LevelsMapper (5 of its tensors):"
    assert sorted(line.strip() for line in lines[1:]) == [
        "missing: mapper.course_mapping.mapping.2.bias",
        "shape of mapper.medium_mapping.mapping.4.weight: the file has [6, 2], the network [6, 6]",
        "unexpected: discriminator.weight.0",
        "unexpected: mapper.hair.weight",
        "unexpected: mapper.mapper_3.mapping.1.bias",
    ]


def test_a_level_that_the_options_promise(tmp_path: Path) -> None:
    content = styleclip(levels_state("course_mapping"), no_coarse_mapper=False)
    assert load(content, tmp_path)[1].levels == ("coarse",)
    content["opts"] |= {"no_medium_mapper": False, "no_fine_mapper": True}
    with pytest.raises(ValueError, match=r"missing: mapper\.medium_mapping\.mapping\.1\.weight"):
        load(content, tmp_path)


def test_all_layers_and_a_level_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mapper\.pt: no such LevelsMapper can be built: .*all alone"
    ):
        load(levels_state("mapping", "fine_mapping"), tmp_path)


def test_style_space_mapper_with_a_hole(tmp_path: Path) -> None:
    state = {k: v for k, v in styles_state(True).items() if not k.startswith("mapper_4.")}
    with pytest.raises(ValueError, match=r"missing: mapper_4\.mapping\.1\.weight"):
        load({"mapper": state}, tmp_path)


@pytest.mark.parametrize("value", [torch.tensor(1.0), "text"])
def test_a_name_without_a_usable_tensor(value: Any, tmp_path: Path) -> None:
    state = levels_state("course_mapping")
    state["course_mapping.mapping.1.bias"] = value
    with pytest.raises(ValueError, match=r"missing: course_mapping\.mapping\.1\.bias"):
        load(state, tmp_path)


def test_claims_no_more_memory_than_it_fills(tmp_path: Path) -> None:
    """A vector is as wide as a mapper of terabytes; the file has kilobytes."""
    state = {"course_mapping.mapping.1.bias": torch.zeros(1).expand(3_000_000)}
    with pytest.raises(ValueError, match=r"missing: course_mapping\.mapping\.1\.weight"):
        load(state, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {0: 1, "mapper.course_mapping.mapping.1.weight": torch.zeros(2, 2)}},
        {"mapper": {1: 2, "course_mapping.mapping.1.bias": torch.zeros(0)}, "name": 7},
        {"mapper_0.mapping.1.bias": torch.zeros(0)},
        {"mapper_99.mapping.9.bias": torch.zeros(2)},
        {"mapping.mapping.1.weight": torch.zeros(2, 2, dtype=torch.complex64)},
    ],
)
def test_nonsense_in_any_place(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mapper\.pt"):
        load(content, tmp_path)
    facts = MAPPER.describe(Checkpoint(Path("m.pt"), "torch", content))
    assert facts is not None and "mapper" in facts


# --- ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mapper",
    [
        LevelsMapper(10, 16, zero_init=False, scale=torch.rand(1, 16)),
        LevelsMapper(None, 16, ["all"], zero_init=False, pixel_norm="layers"),
        StyleSpaceMapper(STYLE_DIMS, zero_init=False),
    ],
)
def test_round_trip(tmp_path: Path, mapper: nn.Module) -> None:
    info = MapperInfo("a “white” häir", 0.25, ("coarse", "fine"), (100, 800), "faces64")
    path = tmp_path / "m.safetensors"
    save_mapper(path, mapper, info, {"source": "by hand"})
    state = torch.random.get_rng_state()
    loaded, read = load_mapper(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert read == info
    assert type(loaded) is type(mapper) and not loaded.training
    assert loaded.config == mapper.config
    assert not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in mapper.state_dict().items())
    type(mapper).load(path)  # type: ignore[attr-defined]
    assert load_tensors(path)[1]["source"] == "by hand"
    facts = MAPPER.describe(read_checkpoint(path))
    assert facts is not None and facts["prompt"] == info.prompt and "sdd_fast" in facts["mapper"]


def test_a_mapper_of_nan_does_not_replace_a_good_one(tmp_path: Path) -> None:
    path, mapper = tmp_path / "m.safetensors", LevelsMapper(10, 4)
    save_mapper(path, mapper, MapperInfo("a"))
    good = path.read_bytes()
    name, weight = next(iter(mapper.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=rf"not written to .*m\.safetensors: its {name} has"):
        save_mapper(path, mapper, MapperInfo("a"))
    assert path.read_bytes() == good


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError):
        load_mapper(path)
    StyleGAN2(8, w_dim=4, z_dim=4, n_mlp=1, channel_base=8, channel_max=4).save(path)
    with pytest.raises(ValueError, match="expected a latent mapper: mapper.safetensors of a run"):
        load_mapper(path)
    save_tensors(path, {"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected a latent mapper"):
        load_mapper(path)
    for config, message in (
        ({"config": "{", "prompt": '"x"'}, "its configuration is not valid JSON"),
        ({}, "metadata names no network and configuration"),
        ({"config": '{"num_layers": 10, "levels": ["hair"]}'}, "no such LevelsMapper .*hair"),
        ({"config": '{"hair": 10}'}, "no such LevelsMapper can be built: .*hair"),
    ):
        save_tensors(path, {}, {"network": "LevelsMapper", **config})
        with pytest.raises(ValueError, match=rf"m\.safetensors: .*{message}"):
            load_mapper(path)
        facts = MAPPER.describe(read_checkpoint(path))
        assert facts is not None and "mapper" in facts  # a description never fails
    save_mapper(path, LevelsMapper(10, 4), MapperInfo())
    tensors, metadata = load_tensors(path)
    tensors.popitem()
    save_tensors(path, tensors, metadata)
    with pytest.raises(ValueError, match="missing: "):
        load_mapper(path)


DAMAGED_TENSORS: dict[str, tuple[Any, str]] = {
    "missing": (lambda t: {k: v for k, v in t.items() if "weight" not in k}, "missing: mlps"),
    "extra": (lambda t: t | {"mlps.hair.1.weight": torch.ones(1)}, "unexpected: mlps.hair"),
    "misshapen": (lambda t: t | {"scale": torch.ones(3, 3)}, "shape of scale"),
    "not finite": (lambda t: t | {"scale": torch.full((10, 4), torch.nan)}, "NaN or infinity.*"),
    "infinite half": (
        lambda t: t | {"scale": torch.full((10, 4), torch.inf).half()}, "NaN or infinity"
    ),
    "quantized": (lambda t: t | {"scale": torch.ones(10, 4, dtype=torch.int8)}, "quantized"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED_TENSORS)
def test_damaged_tensors_of_our_own_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.safetensors"
    save_mapper(path, LevelsMapper(10, 4), MapperInfo("a"))
    tensors, metadata = load_tensors(path)
    change, message = DAMAGED_TENSORS[damage]
    save_tensors(path, change(tensors), metadata)
    with pytest.raises(ValueError, match=rf"(?s)m\.safetensors.*{message}"):
        load_mapper(path)
    facts = MAPPER.describe(read_checkpoint(path))
    assert facts is not None and facts["mapper"].startswith("cannot be loaded: ")


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("lam", "NaN", "no finite number"),
        ("lam", "1e400", "no finite number"),
        ("lam", "9" * 400, "400 digits"),
        ("lam", '"1"', "lam must be a finite number, got '1'"),
        ("lam", "true", "lam must be a finite number"),
        ("prompt", "[]", "prompt must be text"),
        ("prompt", '"\\ud83d"', "half a character"),
        ("domain", "7", "domain must be text"),
        ("levels", '"fine"', "levels must be a list of levels"),
        ("timesteps", "[1.5]", "timesteps must be a list of timesteps"),
        ("timesteps", "{", "Expecting property name"),
    ],
)
def test_damaged_descriptions_of_our_own_files(
    tmp_path: Path, field: str, text: str, message: str
) -> None:
    path = tmp_path / "m.safetensors"
    save_mapper(path, LevelsMapper(10, 4), MapperInfo("a"))
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {field: text})
    with pytest.raises(
        ValueError, match=rf"m\.safetensors: the description of its mapper is damaged: .*{message}"
    ):
        load_mapper(path)
