"""The runner of the documentation's commands finds, skips and fails what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).resolve().parents[1] / "tools" / "check_docs.py"
PAGE = """
```bash
echo one > made.txt
```
```python
print(open("made.txt").read())
```
<!-- docs-check: skip (would train for hours) -->

```bash
false
```
```text
false
```
"""


def check(page: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), str(page)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_blocks_run_in_order_and_marked_ones_are_skipped(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    done = check(page)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 run, 0 failed, 1 skipped" in done.stdout
    assert "would train for hours" in done.stdout


def test_a_failing_command_fails_the_check(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\necho before\nfalse | cat\necho after\n```\n")
    done = check(page)
    assert done.returncode == 1
    assert "exit status" in done.stdout and "1 failed" in done.stdout


def test_an_open_block_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\necho\n")
    done = check(page)
    assert done.returncode != 0 and "not closed" in done.stderr
