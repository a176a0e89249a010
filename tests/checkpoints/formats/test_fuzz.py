from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
FILES = 2_000


def fuzz(script: Path, folder: Path, files: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), str(folder), "5", str(files)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )


def test_mutated_files_load_or_raise_value_error(tmp_path: Path) -> None:
    """In a process of bounded memory and time per file, watched for whatever it calls."""
    child = fuzz(FUZZ, tmp_path, FILES)
    assert child.returncode == 0, (child.returncode, child.stderr[-3000:])
    # Half of the results are of read_checkpoint, half of scan. Were all files refused by the first
    # look at them, or hardly changed, this would test little.
    loaded, refused = (int(word) for word in child.stdout.split() if word.isdigit())
    assert loaded + refused == 2 * FILES
    assert loaded > FILES / 10 and refused > FILES / 2


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ("__import__('os').system('true')", "reading a file did"),
        ("bytearray(2**33)", "MemoryError"),
        ("while True: pass", "takes too long"),
    ],
)
def test_the_fuzzer_notices_what_it_looks_for(tmp_path: Path, instead: str, message: str) -> None:
    script = FUZZ.read_text()
    assert script.count("function(path)") == 1
    changed = tmp_path / "fuzz.py"
    changed.write_text(
        script.replace("Path(__file__).parent", f"Path({str(FUZZ.parent)!r})")
        .replace(
            "result = function(path)",
            f"result = argparse.Namespace(content=0)\n                {instead}",
        )
        .replace("SECONDS = 20", "SECONDS = 0.2")
    )
    child = fuzz(changed, tmp_path, 3)
    assert child.returncode != 0 and message in child.stderr, child.stderr[-3000:]
