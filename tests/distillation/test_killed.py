"""A process at work in a folder, another that wants to work there, and a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation.killed import __file__ as script, train

from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.training_state import saved_step


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_what_was_killed_goes_on_from_its_checkpoint_to_the_same_bits(
    tiny_sd: Path, tiny_prior: DiffusionPrior, tmp_path: Path
) -> None:
    """Meanwhile nobody else is let in, and what other processes read is whole."""
    place, threads = tmp_path / "run", str(torch.get_num_threads())
    child = subprocess.Popen(
        [sys.executable, str(script), str(tiny_sd), str(place)],
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "at work\n"
            with pytest.raises(BlockingIOError, match=f"process {child.pid} on .* is at work here"):
                train(tiny_prior, place)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    assert saved_step(place / "checkpoint.safetensors") == 2
    assert not (place / "mapper.safetensors").exists()
    steps: list[int] = []
    resumed = train(tiny_prior, place, lambda event: steps.append(event.done))
    assert steps[0] == 2  # and not begun anew
    whole = train(tiny_prior, None)
    told: list[dict[str, Any]] = []
    for result in (resumed, whole):
        told.append(result.mapper.state_dict())
        for entry in result.history:
            del entry["seconds"]
    assert all(torch.equal(told[0][name], value) for name, value in told[1].items())
    assert resumed.history == whole.history
