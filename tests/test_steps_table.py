"""The table of trainings of several lengths."""

from __future__ import annotations

from typing import Any

import compare_steps
from steps_table import SIDES, steps_part


def edit(
    side: str, prompt: str, success: float, steps: int, batch_size: int, seed: int = 0
) -> dict[str, Any]:
    return {
        "side": side, "prompt": prompt, "seed": seed, "steps": steps, "batch_size": batch_size,
        "success": success, "kept": 0.9,
    }  # fmt: skip


def words(part: str) -> str:
    return " ".join(part.split())


def test_means_differences_and_intervals() -> None:
    edits = [
        edit("ours", "a", 1.0, 100, 4), edit("ours", "b", 0.0, 200, 4),
        edit("authors, 4000 of 2", "a", 0.75, 4000, 2),
        edit("authors, 4000 of 2", "b", 0.25, 4000, 2),
    ]  # fmt: skip
    (part,) = steps_part({"edits": edits})
    assert "Below each mean: its difference to the authors' training" in words(part)
    authors, ours = (line.split(" | ") for line in part.strip().splitlines()[-2:])
    assert authors[:3] == ["| authors, 4000 of 2", "8,000", "2"]
    assert authors[3:5] == ["0.500 [0.250, 0.750]", "0.25"]
    # Of two trainings the resampled means are 0, ½ and 1; their differences +¼, 0 and -¼.
    assert ours[:3] == ["| ours", "600", "2"]
    assert ours[3] == "0.500 [0.000, 1.000]<br>+0.000 [-0.250, +0.250]" and ours[4] == "0.00"
    assert ours[5] == "0.900 [0.900, 0.900]<br>+0.000 [+0.000, +0.000]"


def test_without_the_authors_there_are_no_differences() -> None:
    (part,) = steps_part({"edits": [edit("ours", "a", 1.0, 100, 4)]})
    assert "<br>" not in part and "difference" not in part


def test_the_text_names_what_is_compared_and_what_is_not() -> None:
    """Over which prompts and seeds; a side without rows is no side of the comparison."""
    edits = [
        edit(side, prompt, 1.0, 100, 4, seed)
        for side in ("ours, 150 of 8", "ours, 250 of 4") for prompt in "ab" for seed in (0, 2)
    ]  # fmt: skip
    edits += [edit("ours, 200 of 4", "a", 1.0, 200, 4), edit("another", "a", 1.0, 1, 4)]
    told = words(steps_part({"edits": edits})[0])
    assert (
        "Compared over 2 prompts and seeds 0, 2, 4 trainings a side: *ours, 150 of 8*; "
        "*ours, 250 of 4*." in told
    )
    assert "means are of those alone: *ours, 200 of 4* (1 of 4); *another* (1 of 4)." in told
    assert (
        "Not compared, since nothing is measured of them for these prompts and seeds yet: "
        "*authors, 4000 of 2*; *ours, 300 of 8*; *ours, 250 of 4, stopped early*." in told
    )
    one = words(steps_part({"edits": [edit(side, "a", 1.0, 1, 4) for side in SIDES]})[0])
    assert "Compared over 1 prompt and seed 0, 1 training a side: *authors, 4000 of 2*; " in one
    assert "Not compared" not in one and "alone" not in one


def test_the_sides_are_those_that_are_measured() -> None:
    assert set(SIDES) == set(compare_steps.SIDES)
