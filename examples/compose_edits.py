"""Two distilled edits on one picture, each with its own strength: a grid of all combinations.

    sdd demo
    python examples/compose_edits.py runs/demo/a-face-with-white-hair runs/demo/a-surprised-face \
        runs/demo/faces/face-1.png

Both mappers see the unedited latent, and their changes add up; nothing is trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import sdd_fast as sdd
from sdd_fast.grid import grid
from sdd_fast.images import save_png

STRENGTHS = (0.0, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="run folder or mapper file of one edit")
    parser.add_argument("second", type=Path, help="the same, of another edit")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--domain", help="default: the one that the edits name")
    parser.add_argument("--out", type=Path, default=Path("composed.png"))
    options = parser.parse_args()

    editor = sdd.Editor.load([options.first, options.second], domain=options.domain)
    w_plus = editor.encode(options.picture)  # [1, num_layers, w_dim]; encoded once
    rows = [torch.cat([editor.edit(w_plus, [a, b]) for a in STRENGTHS]) for b in STRENGTHS]
    first, second = (info.prompt for info in editor.infos)
    picture = grid(
        rows,
        column_labels=[f"{first} × {a:g}" for a in STRENGTHS],
        row_labels=[f"{second} × {b:g}" for b in STRENGTHS],
    )
    save_png(options.out, picture)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
