"""Runs the commands of the documentation: `make docs-check`.

Every fenced ```bash and ```python block of README.md, CONTRIBUTING.md and docs/*.md is executed, in
order, in one scratch folder per file, with `sdd` and `python` of this environment first on the
PATH. A block is left out when the line before it says why:

    <!-- docs-check: skip (trains for an hour) -->

`$ ` prompts are not used in the documentation, so that blocks can be pasted.

    python tools/check_docs.py [--list] [FILE ...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(bash|python)\s*$")
SKIP = re.compile(r"^<!--\s*docs-check:\s*skip\s*\((.+)\)\s*-->\s*$")
TIME_LIMIT = 900  # seconds for one block


@dataclass(frozen=True)
class Block:
    file: Path
    line: int  # of its first command, from 1
    language: str
    text: str
    skip: str  # the reason, or ""


def blocks(file: Path) -> list[Block]:
    found = []
    lines = file.read_text(encoding="utf-8").splitlines()
    previous = ""
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence:
            start = number + 1
            try:
                number = lines.index("```", start)
            except ValueError:
                raise SystemExit(f"{file}:{start}: the code block is not closed") from None
            skip = SKIP.match(previous)
            text = "\n".join(lines[start:number]) + "\n"
            found.append(Block(file, start + 1, fence[1], text, skip[1] if skip else ""))
        if lines[number].strip():
            previous = lines[number]
        number += 1
    return found


def run(block: Block, folder: Path) -> bool:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = (
        ["bash", "-euo", "pipefail", "-c", block.text]
        if block.language == "bash"
        else [sys.executable, "-c", block.text]
    )
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        print(f"  did not finish within {TIME_LIMIT} s")
        return False
    if done.returncode != 0:
        print("".join(f"  | {line}\n" for line in (block.text + done.stdout).splitlines()[-40:]))
        print(f"  exit status {done.returncode}")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the commands of the documentation.")
    parser.add_argument("files", nargs="*", type=Path, help="default: README, CONTRIBUTING, docs/")
    parser.add_argument("--list", action="store_true", help="print the blocks, run nothing")
    arguments = parser.parse_args()
    files = arguments.files or [
        p
        for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
        if p.is_file() and "generated" not in p.parts  # pages that `make docs` makes of others
    ]
    failed = ran = skipped = 0
    for file in files:
        with tempfile.TemporaryDirectory() as scratch:
            for block in blocks(file.resolve()):
                name = f"{os.path.relpath(block.file, ROOT)}:{block.line} ({block.language})"
                if block.skip:
                    print(f"skip {name}: {block.skip}", flush=True)
                    skipped += 1
                    continue
                print(f"run  {name}", flush=True)
                if arguments.list:
                    continue
                start = time.monotonic()
                ok = run(block, Path(scratch))
                print(f"  {'ok' if ok else 'FAILED'}, {time.monotonic() - start:.0f} s", flush=True)
                ran += 1
                failed += not ok
    print(f"{ran} run, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
