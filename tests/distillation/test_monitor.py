from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdd_fast.distillation.judge import ADVICE, from_earlier, judge
from sdd_fast.distillation.monitor import EditMonitor
from sdd_fast.models import LevelsMapper, StyleSpaceMapper


class Paint(nn.Module):
    """A stand-in for a generator: W+ [B, 2, 3] → flat color above, another below, 16×16."""

    num_layers, w_dim, image_size = 2, 3, (16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def synthesis(self, w_plus: Tensor) -> Tensor:
        colors = (w_plus * self.gain).permute(0, 2, 1)[..., None]  # [B, 3, 2, 1]
        return colors.repeat_interleave(8, 2).expand(-1, -1, -1, 16)


class Shift(nn.Module):
    """A mapper that adds a fixed color, to one half of the picture or both."""

    def __init__(self, *delta: Sequence[float]) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.tensor(delta, dtype=torch.float32))

    def forward(self, w_plus: Tensor) -> Tensor:
        return self.delta.expand_as(w_plus)


class ColorClip:
    """Texts are colors, images are their mean color: directions can be worked out by hand."""

    colors = {"gray": (0.1, 0.1, 0.1), "red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1)}

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([self.colors[text] for text in texts])

    def encode_images(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


GRAY = torch.full((5, 2, 3), 0.1)


def monitor(**changes: Any) -> EditMonitor:
    settings: dict[str, Any] = {"prompt": "red", "source_text": "gray", "batch_size": 2}
    return EditMonitor(Paint(), GRAY, **(settings | changes))


def test_sizes_by_hand() -> None:
    measured = monitor(w_std=torch.full((1, 3), 0.1))(Shift([0.4, 0, 0], [0, 0, 0]), 0.5)
    # One of three channels moves by 0.2 of a range of 2 in one half of the picture.
    assert measured["edit_size"] == pytest.approx(0.2 / 2 / 3 / 2, rel=1e-5)
    assert measured["peak_change"] == pytest.approx(0.2 / 2 / 3, rel=1e-5)
    assert measured["latent_change"] == pytest.approx((2.0**2 / 6) ** 0.5, rel=1e-5)
    assert measured["saturated_share"] == 0
    assert "direction" not in measured and "identity" not in measured


def test_peak_sees_what_the_mean_does_not() -> None:
    # A change of 2 % of the pixels hardly moves the mean, yet the peak reports it in full.
    class Dot(Paint):
        def synthesis(self, w_plus: Tensor) -> Tensor:
            images = super().synthesis(torch.zeros_like(w_plus)).clone()
            images[:, :, 0, :6] = w_plus[:, 0, :, None]
            return images

    measured = EditMonitor(Dot(), GRAY, prompt="red")(Shift([0.8] * 3, [0] * 3), 1.0)
    assert measured["edit_size"] == pytest.approx(0.4 * 6 / 256, rel=1e-5)
    assert measured["peak_change"] == pytest.approx(0.4, rel=1e-5)
    # Without a CLIP nobody has looked where the edit goes, and nobody calls it ok.
    assert measured["verdict"] == "direction unknown" and "look" in measured["advice"]


def test_direction_towards_and_away_from_the_prompt() -> None:
    target = F.normalize(torch.tensor([1.0, 0.1, 0.1]), dim=0)
    gray = torch.full((3,), 3**-0.5)
    reddened = F.normalize(torch.tensor([0.7, 0.1, 0.1]), dim=0)
    red = Shift([0.6, 0, 0], [0.6, 0, 0])
    towards = monitor(clip=ColorClip(), direction_above=0.5)(red, 1.0)
    want = F.cosine_similarity(reddened - gray, target - gray, dim=0)
    assert towards["direction"] == pytest.approx(float(want), abs=1e-5)
    assert towards["clip_gain"] == pytest.approx(float((reddened - gray) @ target), abs=1e-5)
    assert towards["clip_similarity"] == pytest.approx(float(reddened @ target), abs=1e-5)
    assert towards["verdict"] == "ok" and towards["advice"] == []
    assert monitor(clip=ColorClip())(red, 1.0)["verdict"] == "uncalibrated"
    away = monitor(clip=ColorClip())(Shift([0, 0.6, 0], [0, 0.6, 0]), 1.0)
    assert away["direction"] < 0 and away["clip_gain"] < 0
    assert away["verdict"] == "off target"
    assert away["advice"] == list(ADVICE["off target"])


def test_no_effect_and_saturated() -> None:
    assert monitor()(Shift([0] * 3, [0] * 3), 1.0)["verdict"] == "no effect"
    measured = monitor()(Shift([2.0] * 3, [0] * 3), 1.0)
    assert measured["saturated_share"] == pytest.approx(0.5)
    assert measured["verdict"] == "saturated"
    # What overshoots before the edit already is not the edit's doing.
    bright = EditMonitor(Paint(), torch.full((2, 2, 3), 1.5), prompt="red")
    assert bright(Shift([0.2] * 3, [-1.0] * 3), 1.0)["saturated_share"] == 0


def test_identity() -> None:
    def color(images: Tensor) -> Tensor:
        return images.mean((2, 3))

    measured = monitor(identity=color)(Shift([0.6, 0, 0], [0.6, 0, 0]), 1.0)
    want = F.cosine_similarity(torch.tensor([0.7, 0.1, 0.1]), torch.full((3,), 0.1), dim=0)
    assert measured["identity"] == pytest.approx(float(want), abs=1e-5)


@pytest.mark.parametrize(
    ("figures", "verdict", "advice"),
    [
        ({"saturated_share": 0.06, "peak_change": 0.0}, "saturated", "lower_guidance_scale"),
        ({"saturated_share": 0.04, "peak_change": 0.04}, "no effect", "more_steps"),
        ({"saturated_share": 0, "peak_change": 0.3, "direction": 0.04}, "off target",
         "other_timesteps"),
        ({"saturated_share": 0, "peak_change": 0.3, "direction": 0.06}, "uncalibrated", "look"),
        ({"saturated_share": 0, "peak_change": 0.3, "direction": 0.06, "direction_above": 0.3},
         "off target", "other_timesteps"),
        ({"saturated_share": 0, "peak_change": 0.3, "direction": 0.31, "direction_above": 0.3},
         "ok", None),
        ({"saturated_share": 0, "peak_change": 0.3}, "direction unknown", "look"),
        ({"saturated_share": 0, "peak_change": 0.3, "direction": 0.4, "direction_above": 0.3,
          "identity": 0.2}, "flawed",
         "larger_identity_weight"),
        ({"saturated_share": 0, "peak_change": 0.3, "direction": math.nan, "direction_above": 0.3,
          "identity": None}, "direction unknown", "look"),
        ({"saturated_share": 0, "peak_change": math.nan, "direction": 0.4}, "not measurable",
         "lower_guidance_scale"),
    ],
)  # fmt: skip
def test_verdict_and_advice(figures: dict[str, float], verdict: str, advice: str | None) -> None:
    judged = judge(figures)
    assert judged.code == verdict
    assert judged.advice[:1] == (() if advice is None else (advice,))


def test_no_figure_makes_up_for_words_that_the_teacher_was_never_taught() -> None:
    praised = monitor(clip=ColorClip(), unknown_words=["elephant"])(Shift([0.6, 0, 0], [0.6, 0, 0]))
    assert praised["direction"] > 0.5
    assert praised["verdict"] == "unknown words" and praised["advice"] == ["known_words"]
    figures = {"saturated_share": 0.0, "peak_change": 0.3, "direction": 0.9}
    shown = {"success": 0.97, "images": 200, "kept": {"skin": 0.99}}
    assert judge(figures, shown).level == "good"
    assert judge(figures, shown, ["elephant"]).level == "fair"  # seen to be reached all the same
    assert judge(figures, {**shown, "success": 0.3}, ["elephant"]).code == "missed"


def test_names_of_earlier_versions() -> None:
    measured = monitor()(Shift([2.0] * 3, [0] * 3), 1.0)
    with pytest.warns(DeprecationWarning, match="saturated_share"):
        assert measured["burnt_share"] == measured["saturated_share"]
    with pytest.raises(KeyError):
        measured["burned"]
    old = {"step": 4, "burnt_share": 0.5, "peak_change": 0.6, "verdict": "burnt", "advice": "Try"}
    new = from_earlier(old)
    assert new["verdict"] == "saturated" and new["advice"] == list(ADVICE["saturated"])
    assert new["saturated_share"] == 0.5 and "burnt_share" not in new and new["step"] == 4
    assert from_earlier({"step": 4, "residual": 1.0}) == {"step": 4, "residual": 1.0}


def test_networks_and_mapper_are_left_as_they_were() -> None:
    paint, mapper = Paint(), Shift([0.1] * 3, [0] * 3)
    EditMonitor(paint, GRAY, prompt="red")(mapper, 1.0)
    for module in (paint, mapper):
        assert module.training
        assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_real_mappers() -> None:
    from sdd_fast.models import StyleGAN2

    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    held_out = torch.randn(3, 8, 8)
    judge_edit = EditMonitor(generator, held_out, prompt="red", batch_size=2)
    still = judge_edit(LevelsMapper(8, 8, ["coarse", "medium"]), 1.0)
    assert still["edit_size"] == still["latent_change"] == 0
    mapper = StyleSpaceMapper(generator.style_dims, zero_init=False)
    moved = judge_edit(mapper, 1.0)
    deltas = torch.cat(mapper(generator.style_vectors(held_out)), 1)
    want = deltas.square().mean(1).sqrt().mean()
    assert moved["latent_change"] == pytest.approx(want.item(), rel=1e-4)
    assert moved["edit_size"] > 0


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"M ≥ 1, got \[0, 2, 3\]"):
        EditMonitor(Paint(), GRAY[:0], prompt="red")
    with pytest.raises(ValueError, match="source_text"):
        EditMonitor(Paint(), GRAY, prompt="red", clip=ColorClip())
