from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.manipulator import frozen, manipulate, style_layer
from sdd_fast.models import LevelsMapper, StyleGAN2, StyleSpaceMapper


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    network = StyleGAN2(64, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(1))


def levels_mapper(seed: int) -> LevelsMapper:
    torch.manual_seed(seed)
    return LevelsMapper(10, 16, zero_init=False)


def style_mapper(generator: StyleGAN2, seed: int) -> StyleSpaceMapper:
    torch.manual_seed(seed)
    return StyleSpaceMapper(generator.style_dims, zero_init=False)


def test_one_mapper_is_the_equation(generator: StyleGAN2, w_plus: Tensor) -> None:
    mapper = levels_mapper(0)
    result = manipulate(generator, w_plus, [(mapper, 0.7)])
    want = w_plus + 0.7 * mapper(w_plus)
    torch.testing.assert_close(result.images, generator.synthesis(want))
    assert result.delta is not None and result.style_deltas is None
    torch.testing.assert_close(w_plus + result.delta, want)


def test_no_mapper_reconstructs(generator: StyleGAN2, w_plus: Tensor) -> None:
    result = manipulate(generator, w_plus, [])
    assert torch.equal(result.images, generator.synthesis(w_plus))
    assert result.delta is None and result.style_deltas is None


def test_edits_add_up_in_any_order(generator: StyleGAN2, w_plus: Tensor) -> None:
    a, b = levels_mapper(0), levels_mapper(1)
    s, t = style_mapper(generator, 2), style_mapper(generator, 3)
    edits = [(a, 1.0), (s, -0.5), (b, 0.3), (t, 2.0)]
    result = manipulate(generator, w_plus, edits)
    original = generator.style_vectors(w_plus)
    w_hat = w_plus + a(w_plus) + 0.3 * b(w_plus)
    styles = [
        style - 0.5 * x + 2 * y
        for style, x, y in zip(
            generator.style_vectors(w_hat), s(original), t(original), strict=True
        )
    ]
    torch.testing.assert_close(result.images, generator.synthesis_from_styles(styles))
    torch.testing.assert_close(result.images, manipulate(generator, w_plus, edits[::-1]).images)


def test_levels_off_change_nothing_there(generator: StyleGAN2, w_plus: Tensor) -> None:
    mapper = levels_mapper(0)
    delta = manipulate(generator, w_plus, [(mapper, 1.0)], ["coarse", "fine"]).delta
    full = mapper(w_plus)
    assert delta is not None
    assert torch.equal(delta[:, :4], full[:, :4]) and torch.equal(delta[:, 8:], full[:, 8:])
    assert not delta[:, 4:8].any()
    with torch.no_grad():  # with and without gradients the same sums are rounded differently
        nothing = manipulate(generator, w_plus, [(mapper, 1.0)], [])
        assert torch.equal(nothing.images, generator.synthesis(w_plus))


def test_levels_of_styles(generator: StyleGAN2, w_plus: Tensor) -> None:
    mapper = style_mapper(generator, 0)
    result = manipulate(generator, w_plus, [(mapper, 1.0)], ["medium"])
    full = mapper(generator.style_vectors(w_plus))
    assert result.style_deltas is not None
    for i, (got, want) in enumerate(zip(result.style_deltas, full, strict=True)):
        assert torch.equal(got, want if 4 <= style_layer(i) < 8 else torch.zeros_like(want))


def test_style_layer_matches_the_generator(generator: StyleGAN2) -> None:
    # Styles are affine in one layer of W+ each: changing a layer changes exactly its styles.
    base = torch.zeros(1, 10, 16)
    before = generator.style_vectors(base)
    for layer in range(10):
        moved = base.clone()
        moved[:, layer] = 1
        after = generator.style_vectors(moved)
        changed = [i for i in range(len(before)) if not torch.equal(before[i], after[i])]
        assert changed == [i for i in range(len(before)) if style_layer(i) == layer]


def test_errors(generator: StyleGAN2, w_plus: Tensor) -> None:
    with pytest.raises(ValueError, match="'hair'"):
        manipulate(generator, w_plus, [], ["hair"])
    with pytest.raises(ValueError, match=r"\['coarse'\]"):
        manipulate(generator, w_plus, [], "coarse")
    with pytest.raises(ValueError, match=r"\[3, 10, 1\].*\[3, 10, 16\]"):
        manipulate(generator, w_plus, [(nn.Linear(16, 1), 1.0)])


def test_frozen_restores_every_flag() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    network[0].weight.requires_grad_(False)
    network[1].eval()
    with pytest.raises(KeyboardInterrupt), frozen(network, None, len):
        assert not any(p.requires_grad for p in network.parameters())
        assert not any(m.training for m in network.modules())
        raise KeyboardInterrupt
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert [m.training for m in network] == [True, False, True]
