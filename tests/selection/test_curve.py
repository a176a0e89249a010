"""HQSCurve on hand-made statistics: normalization, choice of timesteps, files and the figure."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.selection.curve import HQSCurve
from sdd_fast.selection.plot import hqs_figure

LOG_N = math.log(3 * 512 * 512)
TIMESTEPS = (100, 300, 500, 700)


def curve(deficit: list[list[float]], l1: list[list[float]], **change) -> HQSCurve:
    deficits = torch.tensor(deficit, dtype=torch.float64)
    return HQSCurve(
        timesteps=TIMESTEPS[: deficits.shape[1]],
        entropy=LOG_N - deficits,
        deficit=deficits,
        l1=torch.tensor(l1, dtype=torch.float64),
        **change,
    )


@pytest.fixture
def two_images() -> HQSCurve:
    return curve(
        [[0.0, 1.0, 4.0, 2.0], [0.0, 30.0, 10.0, 40.0]],
        [[10.0, 20.0, 20.0, 30.0], [1.0, 1.0, 5.0, 3.0]],
        prompt="white hair",
    )


def test_scores_per_image(two_images: HQSCurve) -> None:
    """By hand: min-max of −deficit and of L1 within each image, then the difference."""
    entropy, l1 = two_images.normalized()
    assert entropy.tolist() == [[1.0, 0.75, 0.0, 0.5], [1.0, 0.25, 0.75, 0.0]]
    assert l1.tolist() == [[0.0, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 0.5]]
    assert two_images.scores.tolist() == [[-1.0, -0.25, 0.5, 0.5], [-1.0, -0.25, 0.25, 0.5]]
    assert two_images.mean.tolist() == [-1.0, -0.25, 0.375, 0.5]


def test_of_mean_normalizes_the_mean_curve(two_images: HQSCurve) -> None:
    of_mean = replace(two_images, normalize="of-mean")
    # mean deficit 0, 15.5, 7, 21; mean L1 5.5, 10.5, 12.5, 16.5
    expected = [
        (n - 5.5) / 11 - (1 - d / 21)
        for d, n in zip([0, 15.5, 7, 21], [5.5, 10.5, 12.5, 16.5], strict=True)
    ]
    assert of_mean.mean.tolist() == pytest.approx(expected)
    assert of_mean.scores.shape == (2, 4)


@pytest.mark.parametrize("normalize", ["per-image", "of-mean"])
def test_flat_curves_become_zeros(normalize: str) -> None:
    flat = curve([[0.1, 0.1]], [[5.0, 5.0]], normalize=normalize)
    assert flat.mean.tolist() == [0.0, 0.0]
    half = curve([[0.1, 0.1]], [[5.0, 6.0]], normalize=normalize)
    assert half.mean.tolist() == [0.0, 1.0]
    assert curve([[0.1]], [[5.0]], normalize=normalize).mean.tolist() == [0.0]


def test_what_was_not_evaluated(tmp_path: Path) -> None:
    """By hand: extremes of what is there, and differences to the timestep where all are."""
    nan = math.nan
    some = curve([[0.0, 2.0, 4.0], [0.0, nan, 8.0]], [[1.0, 2.0, 3.0], [1.0, nan, 5.0]])
    assert some.scores[0].tolist() == [-1.0, 0.0, 1.0]
    assert some.scores[1, [0, 2]].tolist() == [-1.0, 1.0] and some.scores[1, 1].isnan()
    assert some.mean.tolist() == [-1.0, 0.0, 1.0]  # the best has 1; −1 to it on the first image
    assert some.evaluations == (5, 6) and replace(some, candidates=10).evaluations == (5, 20)
    assert some.largest() == 500 and some.plateau(1.0) == [300, 500]
    loaded = HQSCurve.load(some.save(tmp_path / "curve.json"))
    assert torch.equal(loaded.evaluated, some.evaluated) and torch.equal(loaded.mean, some.mean)
    of_mean = replace(some, normalize="of-mean").mean
    # Means of D: 0, 2, 6; of N: 1, 2, 4. The second has D = 2, N = 2 of the first image alone.
    assert of_mean.tolist() == pytest.approx([-1.0, 1.0 + (1 / 3 + 2 / 6 - 2 / 3 - 4 / 6), 1.0])
    for entropy in ([[0.0, nan], [nan, 1.0]], [[0.0, nan], [0.0, nan]]):
        with pytest.raises(ValueError, match="for some image at every timestep, and for all"):
            curve(entropy, entropy)
    with pytest.raises(ValueError, match="l1 must be there where entropy is"):
        curve([[0.0, nan]], [[0.0, 1.0]])


def test_entropy_differences_below_its_rounding_still_count() -> None:
    """Deficits of 1e-17 vanish in H ≈ 13.6, whose float64 spacing is 2e-15, not in the score."""
    tiny = curve([[1e-17, 3e-17, 2e-17]], [[1.0, 1.0, 1.0]])
    assert tiny.entropy.unique().numel() == 1
    assert tiny.mean.tolist() == pytest.approx([-1.0, 0.0, -0.5])


def test_choice_of_timesteps(two_images: HQSCurve) -> None:
    assert two_images.select(0.3) == [500, 700]
    assert two_images.select(0.375) == [700], "the threshold itself must not be selected"
    assert two_images.select(-2) == list(TIMESTEPS)
    assert two_images.largest() == 700
    assert two_images.top(3) == [700, 500, 300]
    assert two_images.top(4) == [700, 500, 300, 100]
    tie = curve([[0.0, 1.0, 1.0]], [[0.0, 1.0, 1.0]])
    assert tie.largest() == 300 and tie.top(2) == [300, 500]


def test_a_threshold_that_selects_nothing_says_what_would(two_images: HQSCurve) -> None:
    with pytest.raises(ValueError, match=r"above 0.5: the largest is 0\.5000 at timestep 700"):
        two_images.select(0.5)


@pytest.mark.parametrize("threshold", [float("nan"), "0.5", None])
def test_bad_threshold(two_images: HQSCurve, threshold) -> None:
    with pytest.raises(ValueError, match="threshold must be a number"):
        two_images.select(threshold)


@pytest.mark.parametrize("k", [0, 5])
def test_bad_k(two_images: HQSCurve, k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be 1 to 4 .*, got {k}"):
        two_images.top(k)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": (300, 100)}, "ascending and distinct"),
        ({"timesteps": (100, 100)}, "ascending and distinct"),
        ({"l1": torch.ones(1, 3)}, r"l1 must be \[images, 2 timesteps\], got \(1, 3\)"),
        ({"l1": torch.ones(2, 2)}, "same shape as entropy"),
        ({"deficit": torch.tensor([[0.0, float("inf")]])}, "deficit must be finite"),
        ({"deficit": torch.tensor([[0.0, float("nan")]])}, "deficit must be there where entropy"),
        ({"entropy": torch.ones(2)}, r"entropy must be \[images, 2 timesteps\], got \(2,\)"),
        ({"normalize": "none"}, "normalize must be one of per-image, of-mean; got 'none'"),
    ],
)
def test_inconsistent_fields(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(curve([[0.0, 1.0]], [[1.0, 2.0]]), **change)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def test_json_keeps_every_digit(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    deficit, l1 = torch.rand(2, 3, 4, generator=rng, dtype=torch.float64)
    original = curve(
        (deficit * 1e-9).tolist(), l1.tolist(),
        prompt="weißes Haar, $5", negative_prompt="hat", gradient_map="abs-mean",
        normalize="of-mean", noise_draws=3, seed=11,
        config=GuidanceConfig(guidance_scale=30.0, jacobian="full", clip_topk=512),
    )  # fmt: skip
    path = tmp_path / "run" / "curve.json"
    original.save(path)
    loaded = HQSCurve.load(path)
    for name in ("entropy", "deficit", "l1", "scores", "mean"):
        assert torch.equal(getattr(loaded, name), getattr(original, name))
    settings = ("prompt", "negative_prompt", "gradient_map", "normalize", "noise_draws", "seed")
    for name in ("timesteps", "config", *settings):
        assert getattr(loaded, name) == getattr(original, name)
    assert json.loads(path.read_text("utf-8"))["largest"] == original.largest()
    assert [p.name for p in path.parent.iterdir()] == ["curve.json"], "a temporary file was left"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, 'lacks "format"'),
        ({"version": 99}, "version 99 of the format, expected 1"),
        ({"entropy": None}, "entropy must be a table of numbers"),
        ({"entropy": [["a", "b", "c", "d"]]}, "entropy must be a table of numbers"),
        ({"entropy": [[1.0, 2.0], [3.0]]}, "entropy must be a table of numbers"),
        ({"l1": [[1.0, 2.0]]}, "l1 must be"),
        ({"timesteps": "100"}, "timesteps must be a list"),
        ({"timesteps": [100, 300, 500, 700.5]}, r"timesteps\[3\] must be a non-negative integer"),
        ({"timesteps": [100, 300, 700, 500]}, "ascending"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"prompt": 3}, "prompt must be a string"),
        ({"confidence": "high"}, "confidence must be a number or null"),
        ({"candidates": 2.5}, "candidates must be a non-negative integer"),
        ({"config": []}, "config must be an object"),
        ({"config": {"temperature": 1}}, "temperature"),
        ({"config": {"jacobian": "half"}}, "jacobian must be one of"),
        ({"normalize": "none"}, "normalize must be one of"),
    ],
)
def test_damaged_json_names_the_field(
    two_images: HQSCurve, tmp_path: Path, change: dict, message: str
) -> None:
    path = two_images.save(tmp_path / "curve.json")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=f"curve.json .*{message}"):
        HQSCurve.load(path)


def test_curves_of_earlier_versions(two_images: HQSCurve, tmp_path: Path) -> None:
    path = two_images.save(tmp_path / "curve.json")
    content = json.loads(
        path.read_text().replace('"normalize": "per-image"', '"normalise": "of-mean"')
    )
    for name in ("gradient_at", "search", "confidence", "candidates"):
        del content[name]
    path.write_text(json.dumps(content))
    loaded = HQSCurve.load(path)
    assert (loaded.normalize, loaded.gradient_at) == ("of-mean", "image")
    assert (loaded.search, loaded.evaluations) == ("exhaustive", (8, 8))


def test_normalise_is_now_normalize(two_images: HQSCurve) -> None:
    with pytest.warns(DeprecationWarning, match="HQSCurve: normalise is now called normalize"):
        of_mean = replace(two_images, normalise="of-mean")  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="normalise is now called normalize"):
        assert of_mean.normalise == "of-mean"  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="normalised is now called normalized"):
        assert torch.equal(of_mean.normalised()[0], of_mean.normalized()[0])


def test_json_with_a_missing_field(two_images: HQSCurve, tmp_path: Path) -> None:
    path = two_images.save(tmp_path / "curve.json")
    content = json.loads(path.read_text("utf-8"))
    del content["l1"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="field 'l1' is missing"):
        HQSCurve.load(path)


def test_file_that_is_no_curve(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        HQSCurve.load(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match="not an HQS curve"):
        HQSCurve.load(tmp_path / "list.json")


# ── figure ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_plot_writes_a_picture(
    two_images: HQSCurve, tmp_path: Path, suffix: str, head: bytes
) -> None:
    path = two_images.plot(tmp_path / f"curve{suffix}", threshold=0.3)
    assert path.read_bytes().startswith(head)
    assert [p.name for p in tmp_path.iterdir()] == [f"curve{suffix}"]


def test_plot_shows_the_curve_and_the_choice(two_images: HQSCurve) -> None:
    entropy, l1 = (values.mean(0).tolist() for values in two_images.normalized())
    figure = hqs_figure(
        TIMESTEPS,
        two_images.scores,
        two_images.mean.tolist(),
        entropy,
        l1,
        chosen=[500, 700],
        threshold=0.3,
        prompt="costs $5 or $6",
    )
    figure.canvas.draw()
    score, parts = figure.axes
    lines = {line.get_label(): line for line in (*score.lines, *parts.lines)}
    assert list(lines["HQS (mean)"].get_ydata()) == two_images.mean.tolist()
    assert list(lines["L1 norm, normalized"].get_xdata()) == list(TIMESTEPS)
    marks = [c for c in score.collections if c.get_label() == "chosen timesteps"]
    assert marks[0].get_offsets().tolist() == [[500, 0.375], [700, 0.5]]
    assert score.get_title(loc="left") == "“costs $5 or $6”"


def test_plot_refuses_timesteps_off_the_curve(two_images: HQSCurve, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[550\] are not on the curve"):
        two_images.plot(tmp_path / "curve.png", chosen=[500, 550])
    assert not list(tmp_path.iterdir())


def test_plot_of_a_single_image_and_timestep(tmp_path: Path) -> None:
    assert curve([[0.1]], [[5.0]]).plot(tmp_path / "one.png").stat().st_size > 1000


def test_plateau(two_images: HQSCurve) -> None:
    assert two_images.mean.tolist() == [-1.0, -0.25, 0.375, 0.5]
    assert two_images.plateau(0.1) == [700]
    assert two_images.plateau(0.125) == [500, 700]  # the bound itself counts
    assert two_images.plateau(2) == [100, 300, 500, 700]
    for bad in (-0.1, math.nan, "wide"):
        with pytest.raises(ValueError, match="margin must be a number from 0"):
            two_images.plateau(bad)
