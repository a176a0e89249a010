"""The mappers against the authors' formula, written in float64 from the stored weights."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from sdd_fast.models import LevelsMapper, StyleSpaceMapper
from sdd_fast.models.layers import EqualLinear
from sdd_fast.models.mapper import LEVELS, level_range
from sdd_fast.models.style_space import is_to_rgb

SUBSETS = [list(c) for n in (1, 2, 3) for c in combinations(LEVELS, n)]
LAYERS = {"coarse": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, 11)}

# torch.jit.script and its relatives are deprecated; that is known.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def build(levels: list[str], **options) -> LevelsMapper:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    mapper = LevelsMapper(
        **{"num_layers": 11, "w_dim": 6, "levels": levels, "zero_init": False, **options}
    ).double()
    with torch.no_grad():
        for name, parameter in mapper.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=30.0)
    return mapper


def reference_mlp(
    state: dict[str, Tensor], prefix: str, x: Tensor, norm_dim: int = -1, last: bool = True
) -> Tensor:
    x = x / (x.square().mean(norm_dim, keepdim=True) + 1e-8).sqrt()
    for i in range(1, 5):
        weight, bias = state[f"{prefix}.{i}.weight"], state[f"{prefix}.{i}.bias"]
        x = x @ (weight * 0.01 / math.sqrt(weight.shape[1])).T + 0.01 * bias
        if i < 4 or last:
            x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x


@pytest.mark.parametrize("levels", SUBSETS)
def test_levels(levels: list[str]) -> None:
    mapper = build(levels)
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    expected = torch.zeros_like(w_plus)
    for level in levels:
        part = LAYERS[level]
        expected[:, part] = reference_mlp(mapper.state_dict(), f"mlps.{level}", w_plus[:, part])
    torch.testing.assert_close(mapper(w_plus), expected)
    assert expected.abs().sum() > 1


def test_authors_pixel_norm() -> None:
    """`pixel_norm="layers"` divides by the mean square over the layers of a level."""
    mapper = build(["coarse", "fine"], pixel_norm="layers")
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    for level in ("coarse", "fine"):
        part = LAYERS[level]
        state = mapper.state_dict()
        expected = reference_mlp(state, f"mlps.{level}", w_plus[:, part], norm_dim=1)
        torch.testing.assert_close(mapper(w_plus)[:, part], expected)


@pytest.mark.parametrize("pixel_norm", ["channels", "layers"])
def test_one_mlp_for_all_layers(pixel_norm: str) -> None:
    mapper = build(["all"], pixel_norm=pixel_norm)
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    norm_dim = 1 if pixel_norm == "layers" else -1
    expected = reference_mlp(mapper.state_dict(), "mlps.all", w_plus, norm_dim=norm_dim)
    torch.testing.assert_close(mapper(w_plus), expected)
    assert mapper.levels == ["all"] and level_range("all", 18) == (0, 18)


@pytest.mark.parametrize("levels", [["all"], ["coarse", "medium", "fine"], ["fine"]])
@pytest.mark.parametrize("layers", [6, 9, 18])
def test_any_number_of_layers(levels: list[str], layers: int) -> None:
    """The same weights for every generator: as a mapper that was built for its layers."""
    scale = torch.rand(1, 6)
    mapper = build(levels, num_layers=None, pixel_norm="layers", scale=scale)
    w_plus = torch.randn(2, layers, 6, dtype=torch.float64)
    present = [level for level in levels if level_range(level, layers)[0] < layers]
    expected = torch.zeros_like(w_plus)
    if present:
        fixed = build(present, num_layers=layers, pixel_norm="layers", scale=scale)
        for level in present:
            fixed.mlps[level] = mapper.mlps[level]
        expected = fixed(w_plus)
    assert torch.equal(mapper(w_plus), expected)
    assert torch.equal(torch.jit.script(mapper)(w_plus), expected)
    assert mapper.subset(levels[:1]).config["num_layers"] is None
    with pytest.raises(ValueError, match=r"must be \[B, any number, 6\], got \[2, 5\]"):
        mapper(w_plus[:, :, 0].new_zeros(2, 5))


def test_without_output_activation() -> None:
    mapper = build(["medium"], output_activation=False)
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    expected = reference_mlp(mapper.state_dict(), "mlps.medium", w_plus[:, 4:8], last=False)
    torch.testing.assert_close(mapper(w_plus)[:, 4:8], expected)


@pytest.mark.parametrize("rows", [1, 11])
def test_scale(rows: int) -> None:
    scale = torch.rand(rows, 6) + 0.5
    plain, scaled = build(LEVELS), build(LEVELS, scale=scale)
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    torch.testing.assert_close(scaled(w_plus), plain(w_plus) * scale.double())
    assert scaled.state_dict()["scale"].shape == (11, 6)


def test_starts_with_no_change_but_learns() -> None:
    torch.manual_seed(0)
    mapper = LevelsMapper(10, 6)
    w_plus = torch.randn(2, 10, 6)
    delta = mapper(w_plus)
    assert torch.equal(delta, torch.zeros(2, 10, 6))
    delta.sum().backward()
    for name, mlp in mapper.mlps.items():
        assert mlp[-1].weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("levels", SUBSETS)
def test_levels_switched_off_at_call_time(levels: list[str]) -> None:
    mapper = build(LEVELS)
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    everything, some = mapper(w_plus), mapper(w_plus, levels)
    for level, part in LAYERS.items():
        expected = everything[:, part] if level in levels else torch.zeros_like(some[:, part])
        assert torch.equal(some[:, part], expected)
    assert torch.equal(mapper.subset(levels)(w_plus), some)
    assert torch.equal(mapper(w_plus, []), torch.zeros_like(w_plus))


@pytest.mark.parametrize("levels", SUBSETS)
@pytest.mark.parametrize("pixel_norm", ["channels", "layers"])
def test_scripts(levels: list[str], pixel_norm: str) -> None:
    mapper = build(levels, pixel_norm=pixel_norm, scale=torch.rand(1, 6))
    scripted = torch.jit.script(mapper)
    w_plus = torch.randn(2, 11, 6, dtype=torch.float64)
    assert torch.equal(scripted(w_plus), mapper(w_plus))
    assert torch.equal(scripted(w_plus, levels[:1]), mapper(w_plus, levels[:1]))
    with pytest.raises(torch.jit.Error, match="cannot be used"):
        scripted(w_plus, ["hair"])
    with pytest.raises(torch.jit.Error, match="w_plus must be"):
        scripted(w_plus[:, :3])


def test_level_ranges() -> None:
    assert [level_range(level, 18) for level in LEVELS] == [(0, 4), (4, 8), (8, 18)]
    assert [level_range(level, 6) for level in LEVELS] == [(0, 4), (4, 6), (6, 6)]


def test_size_of_the_authors_mapper() -> None:
    with torch.device("meta"):
        mapper = LevelsMapper(18)
    assert sum(p.numel() for p in mapper.parameters()) == 3 * 4 * (512 * 512 + 512)
    assert LevelsMapper(10, 6, ("fine", "coarse")).levels == ["coarse", "fine"]


DIMS = [8, 8, 8, 6, 6, 6, 4, 4]


@pytest.mark.parametrize("to_rgb", [True, False])
def test_style_space(to_rgb: bool) -> None:
    torch.manual_seed(0)
    mapper = StyleSpaceMapper(DIMS, to_rgb, zero_init=False).double()
    styles = [torch.randn(2, dim, dtype=torch.float64) for dim in DIMS]
    deltas = mapper(styles)
    for i, (style, delta) in enumerate(zip(styles, deltas, strict=True)):
        if i in (1, 4, 7) and not to_rgb:
            expected = torch.zeros_like(style)
        else:
            expected = reference_mlp(mapper.state_dict(), f"mlps.{i}", style)
            assert expected.abs().sum() > 0.1
        torch.testing.assert_close(delta, expected)
    scripted = torch.jit.script(mapper)
    for actual, expected in zip(scripted(styles), deltas, strict=True):
        assert torch.equal(actual, expected)


def test_style_space_starts_with_no_change() -> None:
    mapper = StyleSpaceMapper(DIMS)
    assert all(not d.any() for d in mapper([torch.randn(1, dim) for dim in DIMS]))
    assert [i for i in range(8) if is_to_rgb(i)] == [1, 4, 7]


def test_equal_linear_starts_like_an_ordinary_layer() -> None:
    """Whatever the multiplier, outputs have unit variance for unit inputs; the bias is as given."""
    torch.manual_seed(0)
    for multiplier in (1.0, 0.01):
        layer = EqualLinear(256, 512, bias_init=1.0, lr_multiplier=multiplier)
        y = layer(torch.randn(64, 256))
        assert abs(y.mean().item() - 1) < 0.02 and abs(y.std().item() - 1) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, "one or more of coarse, medium, fine"),
        ({"levels": ("fine", "fine")}, "each once"),
        ({"levels": ("course",)}, "one of coarse, medium, fine, all, got 'course'"),
        ({"levels": ("all", "fine")}, "each once, or all alone, got"),
        ({"num_layers": 8, "levels": ("fine",)}, "'fine' is empty, W\\+ has only 8 layers"),
        ({"pixel_norm": "rows"}, "'channels' or 'layers', got 'rows'"),
        ({"depth": 0}, "must be positive, got 10, 6, 0"),
        ({"scale": torch.ones(6)}, r"scale must be \[10, 6\] or \[1, 6\], got \[6\]"),
        ({"scale": torch.ones(3, 6)}, r"scale must be \[10, 6\] or \[1, 6\], got \[3, 6\]"),
        ({"scale": torch.ones(3, 6), "num_layers": None}, r"must be \[1, 6\], got \[3, 6\]"),
    ],
)
def test_bad_configurations(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelsMapper(**{"num_layers": 10, "w_dim": 6, **options})


def test_bad_inputs() -> None:
    mapper = LevelsMapper(10, 6, ["coarse"])
    for shape in ((10, 6), (1, 18, 6), (1, 10, 512)):
        with pytest.raises(ValueError, match=r"w_plus must be \[B, 10, 6\]"):
            mapper(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"has the levels .*coarse.*fine cannot be used"):
        mapper(torch.zeros(1, 10, 6), ["fine"])
    with pytest.raises(ValueError, match=r"has the levels .*coarse.*not \['fine'\]"):
        mapper.subset(["fine"])

    with pytest.raises(ValueError, match=r"a generator's style_dims .* got \[8, 8, 8\]"):
        StyleSpaceMapper([8, 8, 8])
    styles = StyleSpaceMapper(DIMS)
    with pytest.raises(ValueError, match="needs 8 style vectors, got 1"):
        styles([torch.zeros(1, 8)])
    with pytest.raises(ValueError, match=r"style 0 must be \[B, 8\], got \[1, 9\]"):
        styles([torch.zeros(1, 9)] * 8)
