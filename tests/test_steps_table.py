"""The table of trainings of several lengths."""

from __future__ import annotations

from typing import Any

from steps_table import steps_part


def edit(side: str, prompt: str, success: float, steps: int, batch_size: int) -> dict[str, Any]:
    return {
        "side": side, "prompt": prompt, "seed": 0, "steps": steps, "batch_size": batch_size,
        "success": success, "kept": 0.9,
    }  # fmt: skip


def test_means_differences_and_intervals() -> None:
    edits = [
        edit("ours", "a", 1.0, 100, 4), edit("ours", "b", 0.0, 200, 4),
        edit("authors, 4000 of 2", "a", 0.75, 4000, 2),
        edit("authors, 4000 of 2", "b", 0.25, 4000, 2),
    ]  # fmt: skip
    (part,) = steps_part({"edits": edits})
    assert "2 prompts, seeds 0, all" in part
    authors, ours = (line.split(" | ") for line in part.strip().splitlines()[-2:])
    assert authors[:3] == ["| authors, 4000 of 2", "8,000", "2"]
    assert authors[3:5] == ["0.500 [0.250, 0.750]", "0.25"]
    # Of two trainings the resampled means are 0, ½ and 1; their differences +¼, 0 and -¼.
    assert ours[:3] == ["| ours", "600", "2"]
    assert ours[3] == "0.500 [0.000, 1.000]<br>+0.000 [-0.250, +0.250]" and ours[4] == "0.00"
    assert ours[5] == "0.900 [0.900, 0.900]<br>+0.000 [+0.000, +0.000]"


def test_without_the_authors_there_are_no_differences() -> None:
    (part,) = steps_part({"edits": [edit("ours", "a", 1.0, 100, 4)]})
    assert "<br>" not in part
