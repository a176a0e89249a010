"""The benchmark of selection: a dry run leaves samples of every side, which add up, and a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import time_selection
import turn_tables


def test_samples_of_several_calls_add_up(tmp_path: Path) -> None:
    arguments = ["--device", "emulated", "--results", str(tmp_path), "--cases", "VAE", "U-Net"]
    time_selection.main([*arguments, "--rounds", "1"])
    time_selection.main([*arguments, "--rounds", "2", "--sides", "ours"])
    (path,) = tmp_path.glob("*/selection.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    for row in result["cases"]:
        counts = {side: len(samples) for side, samples in row["samples_s"].items()}
        assert counts.pop("ours") == 3 and set(counts.values()) == {1} and len(counts) > 1
        assert set(row["sides"]) == set(row["samples_s"])
    page = "\n".join(turn_tables.selection_part({path: result}))
    assert "| ours |" in page and "On a GPU: not measured." in page

    time_selection.main([*arguments, "--rounds", "1", "--sides", "ours", "--restart"])
    again = json.loads(path.read_text(encoding="utf-8"))
    assert {len(row["samples_s"]["ours"]) for row in again["cases"]} == {1}

    path.write_text(json.dumps(result | {"torch": "1.0"}), encoding="utf-8")
    with pytest.raises(SystemExit, match="other versions"):
        time_selection.main(arguments)
