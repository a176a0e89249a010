"""sdd bench: tables, exit codes, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_runner import Sdd

from sdd_fast.measured import measured_file
from sdd_fast.selection import agreement
from sdd_fast.timing import time_cost
from sdd_fast.timing.stages import Stage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_mode_that_passes_and_one_that_cannot_run(
    sdd: Sdd, domain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["bench", "precision", "--domain", str(domain), "--images", "1"]
    words += ["--timesteps", "500", "--attention", "sdpa,sdpa-cudnn", "--dtypes", "float16"]
    monkeypatch.setattr(agreement, "LEAST_VAE", 0.9)
    monkeypatch.setattr(agreement, "LEAST_UNET", -1.0)
    done = sdd(*words)
    assert done.code == 0, done.err
    rows = {line.split()[1]: line for line in done.out.splitlines() if line.startswith("float16,")}
    assert rows["sdpa"].split()[-2:] == ["500", "passed"]
    assert "cannot run" in rows["sdpa-cudnn"] and "No viable backend" in rows["sdpa-cudnn"]
    monkeypatch.setattr(agreement, "LEAST_VAE", 1.1)
    failed = sdd(*words)
    assert failed.code == 1 and "at least 1.1 is needed" in failed.out
    assert "held-out" not in done.err
    more = sdd(*[word if word != "1" else "99" for word in words])
    assert "99 images are requested, the domain 'tiny' has 8 held-out latents" in more.err
    assert "fewer than 4 images" in failed.out and not measured_file().exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtypes", "int8"], "dtype must be one of float16, bfloat16"),
        (["--attention", "sage"], "it quantizes"),
        (["--images", "0"], "images must be a positive integer"),
        (["--prompt", ""], "the prompt is empty"),
        (["--timesteps", "2000", "--images", "1"], "timestep 2000 is out of range"),
        (["--timesteps", "500,500"], "timesteps must be distinct"),
    ],
)
def test_bad_input(sdd: Sdd, domain: Path, words: list[str], message: str) -> None:
    done = sdd("bench", "precision", "--domain", str(domain), *words)
    assert done.code == 1 and message in done.err


def test_time_cost_leaves_tables_and_goes_on_from_its_samples(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = torch.randn(64, 64)
    small = [Stage.of("ceiling", "product", lambda: a @ a, 1)]
    small.append(Stage.of("ceiling", "copy", a.clone, 1))
    monkeypatch.setattr(time_cost, "ceilings", lambda *of: small)
    words = ["bench", "time-cost", "--domain", str(domain), "--quick", "--rounds", "1"]
    words += ["--timesteps", "500", "--images", "2", "--batch", "2", "--out", str(tmp_path / "c")]
    done = sdd(*words, "-m", "7", "-n", "3", "--steps", "20")
    assert done.code == 0, done.err
    assert "## Computed: 7 images for each of 3 prompts" in done.out
    assert "Selection: 1 timestep on 2 images. Training: 20 steps." in done.out
    assert done.out.strip().endswith(
        f"written: {tmp_path}/c/time-cost.md, {tmp_path}/c/time-cost.png and "
        f"{tmp_path}/c/time-cost.json"
    )
    for path in (tmp_path / "c", tmp_path / "c" / "time-cost.json"):
        shown = sdd("info", path)
        assert shown.code == 0, shown.err
        facts = dict(line.split("  ", 1) for line in shown.out.splitlines())
        assert "7 images for each of 3 prompts" in facts["computed for"]
        assert facts["time cost of edits"].strip() == f"{tmp_path}/c"
        assert {"SDD", "SDEdit, 50 DDIM steps"} <= facts.keys()
    samples = json.loads((tmp_path / "c" / "time-cost.json").read_text())["samples_s"]
    again = sdd(*words, "-m", "9")
    assert again.code == 0 and "9 images for each of 10 prompts" in again.out
    assert json.loads((tmp_path / "c" / "time-cost.json").read_text())["samples_s"] == samples
    other = sdd.fails(*words, "--batch", "1")
    assert "batch_size is 2 there and 1 now" in other and "start over there with --restart" in other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "0"], "images must be a positive integer"),
        (["-n", "-1"], "prompts must be a positive integer"),
        (["--rounds", "0"], "rounds must be a positive integer"),
        (["--batch-size", "0"], "batch_size must be a positive integer"),
        (["--images", "0"], "images must be a positive integer"),
        (["--prompt", ""], "the prompt is empty"),
        (["--timesteps", "2000"], "timestep 2000 is out of range"),
        (["--device", "cuda:77"], "this machine and torch have none"),
    ],
)
def test_bad_input_of_time_cost(
    sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "costs"
    done = sdd("bench", "time-cost", "--domain", str(domain), "--out", str(out), *words)
    assert done.code == 1 and message in done.err and not out.exists()
