"""sdd distill: what only some trainings ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Sdd

WORDS = ["--timesteps", "500", "--steps", "1", "--batch-size", "1", "--measured-images", "0"]


@pytest.mark.parametrize(("given", "recorded"), [(None, "an old face"), ("a face", "a face")])
def test_delta_denoising_takes_off_what_the_source_text_asks_for(
    sdd: Sdd, domain: Path, tmp_path: Path, given: str | None, recorded: str
) -> None:
    words = ["distill", "old hair", "--domain", domain, "--out", tmp_path / "run", *WORDS]
    words += ["--gradient", "dds"] + ([] if given is None else ["--source-prompt", given])
    done = sdd(*words)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["distill"]
    assert (config["gradient"], config["source_prompt"]) == ("dds", recorded)
    assert "this run is finished" in sdd(*words).out
    assert "config.gradient" in sdd.fails(*words[: words.index("--gradient")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gradient", "ddss"], "gradient must be one of sds, dds, got 'ddss'"),
        (["--source-prompt", "a face"], 'source_prompt belongs to gradient="dds"'),
        (["--gradient", "dds", "--source-prompt", " "], "needs a source_prompt that says what"),
    ],
)
def test_a_gradient_that_does_not_exist_and_a_source_prompt_without_use_are_refused(
    sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert message in sdd.fails("distill", "old", "--domain", domain, "--out", out, *words)
    assert not out.exists()
