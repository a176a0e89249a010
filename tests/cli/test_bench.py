"""sdd bench precision: its table, its exit code, and what it refuses before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Sdd

from sdd_fast.selection import agreement


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
    assert failed.code == 1 and "failed (float32 chooses 500)" in failed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtypes", "int8"], "dtype must be one of float16, bfloat16"),
        (["--attention", "sage"], "it quantizes"),
        (["--images", "0"], "images must be a positive integer"),
        (["--timesteps", "2000", "--images", "1"], "timestep 2000 is out of range"),
    ],
)
def test_bad_input(sdd: Sdd, domain: Path, words: list[str], message: str) -> None:
    done = sdd("bench", "precision", "--domain", str(domain), *words)
    assert done.code == 1 and message in done.err
