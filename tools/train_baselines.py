"""Train the baselines that need it in a domain; stop it and go on at will.

    python tools/train_baselines.py faces64 --out baselines              # all of them
    python tools/train_baselines.py faces64 few-step --out baselines --budget 0.5

Each leaves a folder of its name: `load_baseline("few-step", domain, path="baselines/few-step")`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sdd_fast as sdd
from sdd_fast.baselines.train import TRAININGS, train_baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domain", help="name or folder of a domain")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TRAININGS)}; default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder for their folders")
    parser.add_argument("--images", type=Path, help="captioned images, where none are rendered")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on the steps")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    domain = sdd.load_domain(options.domain, device=options.device)
    for name in options.names or list(TRAININGS):
        images = None if name == "instruct-pix2pix" else options.images
        out = options.out / name
        train_baseline(name, domain, out, images=images, budget=options.budget)
        print(f"written: {out}")


if __name__ == "__main__":
    main()
