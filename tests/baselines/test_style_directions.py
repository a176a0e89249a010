"""Global directions of styles: StyleCLIP's channels, StyleMC's layers."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor

from sdd_fast.baselines import load_baseline, styleclip_direction
from sdd_fast.baselines.style_shift import StyleShift, style_scales
from sdd_fast.baselines.styleclip_direction import channel_directions
from sdd_fast.domains import Domain

PROMPT = "white hair"


def layers(domain: Domain) -> list[int]:
    """The styles that directions change: those of convolutions."""
    return [i for i, name in enumerate(domain.generator.style_names) if "rgb" not in name]


def test_a_shift_counts_channels_of_convolutions_in_order(tiny: Domain) -> None:
    scales = style_scales(tiny)
    styles = tiny.generator.style_vectors(tiny.w_plus)
    for scale, style in zip(scales, styles, strict=True):
        mean = style.double().mean(0)
        deviation = (style.double() - mean).square().sum(0) / (len(style) - 1)
        torch.testing.assert_close(scale.double(), deviation.sqrt(), rtol=1e-4, atol=1e-6)
    shift = StyleShift(scales)
    assert not any(change.any() for change in shift(styles))
    with torch.no_grad():
        shift.direction.copy_(torch.arange(1.0, len(shift.direction) + 1))
    changes = shift(styles)
    taken = [changes[i] / scales[i] for i in layers(tiny)]
    counted = torch.arange(1.0, len(shift.direction) + 1).expand(len(tiny.w_plus), -1)
    torch.testing.assert_close(torch.cat(taken, 1), counted)
    assert not any(changes[i].any() for i in range(len(styles)) if i not in layers(tiny))


def test_channel_directions_are_those_of_one_channel_after_another(tiny: Domain) -> None:
    """Rendered one by one, with `set_style`; of every layer some channels."""
    assert tiny.clip is not None
    count, step = 2, 5.0
    found = channel_directions(tiny, tiny.clip, count, step)
    generator, scales = tiny.generator, style_scales(tiny)
    styles = generator.style_vectors(tiny.w_plus[:count])
    row = 0
    for i in layers(tiny):
        for channel in range(len(scales[i])):
            row += 1
            if channel % 3:
                continue
            moved = []
            for image in range(count):
                one = [style[image : image + 1] for style in styles]
                ends = [
                    generator.synthesis_from_styles(
                        generator.set_style(one, i, one[i][:, channel] + by, channel)
                    ).clamp(-1, 1)
                    for by in (step * scales[i][channel], -step * scales[i][channel])
                ]
                up, down = (tiny.clip.encode_images(end)[0].double() for end in ends)
                moved.append((up - down) / (up - down).norm())
            expected = torch.stack(moved).mean(0)
            torch.testing.assert_close(found[row - 1].double(), expected, rtol=0, atol=0.02)
    assert row == len(found)
    assert found.norm(dim=1).max() > 0.5  # or nothing was compared


def test_channels_below_the_threshold_do_not_change(tiny: Domain) -> None:
    assert tiny.clip is not None
    directions = channel_directions(tiny, tiny.clip, 2, 5.0)
    source, target = tiny.clip.encode_texts([tiny.source_text, PROMPT])
    wanted = (target - source) / (target - source).norm()
    relevance = (directions * wanted).sum(1)
    largest = relevance.abs().max()
    for threshold in (0.0, 0.5):
        baseline = load_baseline("styleclip-direction", tiny, images=2, threshold=threshold)
        baseline.prepare(PROMPT)
        direction = baseline._found[PROMPT].direction  # type: ignore[attr-defined]
        expected = relevance / largest
        expected[relevance.abs() < threshold * largest] = 0
        torch.testing.assert_close(direction, expected)
        assert direction.abs().max() == 1


def test_channels_are_measured_once_for_a_domain(
    tiny: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, float]] = []

    def counted(domain: Domain, clip: object, images: int, step: float) -> Tensor:
        calls.append((images, step))
        return channel_directions(domain, clip, images, step)  # type: ignore[arg-type]

    monkeypatch.setattr(styleclip_direction, "channel_directions", counted)
    for settings in ({"strength": 2.0}, {"threshold": 0.5}, {"strength": 1.0}, {"images": 1}):
        baseline = load_baseline("styleclip-direction", tiny, **{"images": 4} | settings)
        for prompt in (PROMPT, "an old man"):
            baseline.prepare(prompt)
    assert calls == [(4, 5.0), (1, 5.0)]


def test_a_prompt_that_is_the_source_has_no_direction(tiny: Domain) -> None:
    with pytest.raises(ValueError, match="there is no direction to go"):
        load_baseline("styleclip-direction", tiny, images=1).prepare(tiny.source_text)


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_stylemc_leaves_layers_alone_that_it_does_not_see(tiny: Domain, resolution: int) -> None:
    baseline = load_baseline("stylemc", tiny, steps=4, batch_size=2, resolution=resolution)
    baseline.prepare(PROMPT)
    changes = baseline._found[PROMPT].changes()  # type: ignore[attr-defined]
    sides = [4, 4, *(side for side in (8, 16, 32) for _ in range(3))]
    for i in layers(tiny):
        assert bool(changes[i].any()) == (sides[i] <= resolution), i


def test_what_all_prompts_share_is_measured_before_the_first(
    tiny: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(styleclip_direction, "_measured", WeakKeyDictionary())
    baseline = load_baseline("styleclip-direction", tiny, images=1)
    baseline.prepare_domain()

    def never(*of: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(styleclip_direction, "channel_directions", never)
    baseline.prepare("white hair")
