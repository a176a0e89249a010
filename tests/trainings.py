"""Acts as the process of a page's training, in a moment: the prompt says how it is to end."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

PRETENDED = Path(__file__)


def tell(kind: str, value: Any) -> None:
    print(json.dumps({"kind": kind, "value": value}), flush=True)


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = json.loads(sys.argv[1])
    prompt, folder = job["request"]["prompt"], Path(job["folder"])
    try:
        return act(prompt, folder)
    except KeyboardInterrupt:
        tell("error", "stopped after 3 steps")
        return 130


def act(prompt: str, folder: Path) -> int:
    print("a line of a library")
    tell("say", "timesteps: 700 (given by hand)")
    task = {"task": prompt, "done": 3, "total": 20, "unit": "steps", "text": "residual 5.1"}
    tell("progress", task | {"closed": False})
    if prompt == "fail":
        tell("error", "it has other settings")
        return 1
    if prompt == "die":
        print("the last words", file=sys.stderr)
        return 9
    write(folder)
    while prompt == "wait":
        time.sleep(0.05)
    verdict = {"level": "fair", "headline": "It <works>", "advice": "try twice the steps"}
    tell("verdict", verdict)
    return 0


def write(folder: Path) -> None:
    """What a run has while it is trained."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    figures = {"edit_size": 0.1, "peak_change": 0.4, "saturated_share": 0.0, "identity": 0.9}
    history = [{"step": i, "residual": 5.0 / i, "l2": 0.1, **figures} for i in (1, 2, 3)]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "samples").mkdir(exist_ok=True)
    Image.new("RGB", (64, 40), "#8ab4f8").save(folder / "samples/step-000003.png")
    Image.new("RGB", (64, 40), "#c5221f").save(folder / "curve.png")


if __name__ == "__main__":
    sys.exit(main())
