"""Settings that make no sense are told at once, by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from sdd_fast.checks import check_count, check_distinct, check_number, check_seed, raise_all
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.draws import choices, generator
from sdd_fast.inversion.refine import Refinement
from sdd_fast.selection.choose import Selection

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [0, -1, 10**9 + 1, 10**400, 1.0, True, None, "3"])
def test_counts(value: Any) -> None:
    check_count("steps", 1)
    check_count("steps", 10**9)
    with pytest.raises(ValueError, match="steps must be a positive integer, at most 1,000,000,000"):
        check_count("steps", value)


def test_prompts_that_differ_in_spaces_are_one() -> None:
    check_distinct([])
    check_distinct(["a bald face", "a  Bald face", "a baldface"])
    with pytest.raises(ValueError, match="must differ, but 'old' is given twice"):
        check_distinct(["old", "bald", "old"])
    for other in ("a bald face ", "\ta bald  face", "a bald\nface"):
        with pytest.raises(ValueError, match=r"'a bald face' and .* differ in spaces only"):
            check_distinct(["a bald face", other])


def test_several_problems_are_told_together() -> None:
    raise_all([])
    first, second = ValueError("first"), ValueError("second")
    with pytest.raises(ValueError, match="^first$") as alone:
        raise_all([first])
    assert alone.value is first
    with pytest.raises(ValueError, match="^first\nsecond$"):
        raise_all([first, second])


@pytest.mark.parametrize("value", [-1, 2**64, 10**400, 1.0, True, None])
def test_seeds(value: Any) -> None:
    check_seed(0)
    check_seed(2**64 - 1)
    for refuse in (check_seed, generator, lambda seed: DistillConfig(seed=seed)):
        with pytest.raises(ValueError, match=r"a seed must be an integer from 0 to 2⁶⁴ − 1") as e:
            refuse(value)
        assert len(str(e.value)) < 120


@pytest.mark.parametrize("value", [-0.1, NAN, INF, -INF, True, None, "1", 10**400])
def test_numbers(value: Any) -> None:
    check_number("lr", 0.0)
    check_number("lr", 2)
    with pytest.raises(ValueError, match=r"lr must be 0 or more, got "):
        check_number("lr", value)
    with pytest.raises(ValueError, match=r"lr must be a positive number, got 0"):
        check_number("lr", 0, positive=True)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        *((DistillConfig, {name: NAN}) for name in ("lr", "lam", "l2_weight", "guidance_rms")),
        *((DistillConfig, {name: INF}) for name in ("lr", "lam", "l2_weight", "guidance_rms")),
        *((DistillConfig, {name: 2**70}) for name in ("steps", "batch_size", "monitor_every")),
        (DistillConfig, {"betas": (0.9, 1.0)}),
        *((Selection, {name: 0}) for name in ("images", "noise_draws", "top", "batch_size")),
        *((Selection, {name: 1.5}) for name in ("images", "noise_draws", "top", "batch_size")),
        *((Selection, {"threshold": bad}) for bad in (NAN, INF, 1.5)),
        (Selection, {"seed": -1}),
        (Selection, {"margin": NAN}),
        (Selection, {"top": 4, "candidates": (100, 200)}),
        *((Refinement, {name: INF}) for name in ("lr", "l2_weight", "identity")),
        (Refinement, {"steps": 10**10}),
    ],
)  # fmt: skip
def test_absurd_settings(settings: Any, change: dict[str, Any]) -> None:
    settings()
    with pytest.raises(
        ValueError, match=r"k must be" if "candidates" in change else next(iter(change))
    ):
        settings(**change)


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers_of_other_libraries(three: Any) -> None:
    settings = [DistillConfig(steps=three, seed=three), Selection(seed=three, top=three)]
    assert asdict(settings[0]) == asdict(DistillConfig(steps=3, seed=3))
    assert asdict(settings[1]) == asdict(Selection(seed=3, top=3))
    assert all(type(value) is int for s in settings for value in (s.seed, getattr(s, "top", 3)))
    assert type(Refinement(steps=three).steps) is int
    assert torch.equal(
        torch.rand(4, generator=generator(three)), torch.rand(4, generator=generator(3))
    )
    assert choices(three).random() == choices(3).random()
    for wrong in (np.float64(3), np.bool_(True), torch.tensor(3.0), torch.tensor([3, 4])):
        with pytest.raises(ValueError, match="steps must be a positive integer"):
            check_count("steps", wrong)
