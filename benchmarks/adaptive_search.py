"""How often an adaptive search chooses what an exhaustive one does, and at what cost.

python benchmarks/adaptive_search.py --tables TABLES   (computes them where they are not there)

Statistics of 64 held-out images at every timestep are computed once for each prompt of faces64, and
kept in TABLES. Bootstraps over their images are then searched both ways from these tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import sdd_fast as sdd
from sdd_fast import draws
from sdd_fast.files import write_json
from sdd_fast.selection import search
from sdd_fast.selection.curve import HQSCurve, scores
from sdd_fast.selection.partial import PartialCurves


class Table:
    """Answers like an `Evaluator`, from statistics [P, 3, N, T] that are there already."""

    def __init__(self, statistics: Tensor, timesteps: tuple[int, ...], at_once: int = 8) -> None:
        self.statistics, self.timesteps, self.at_once = statistics, list(timesteps), at_once
        self.evaluations = 0

    def batches(self, images: range) -> list[range]:
        firsts = range(0, len(images), self.at_once)
        return [images[first : first + self.at_once] for first in firsts]

    def evaluate(
        self, images: range, wanted: Tensor
    ) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        pairs = [(int(p), int(j)) for p, j in wanted.nonzero()]
        self.evaluations += len(pairs) * len(images)
        some = self.statistics[:, :, images.start : images.stop]
        yield pairs, torch.stack([some[p, :, :, j] for p, j in pairs], dim=1)


def tables(folder: Path, images: int) -> list[HQSCurve]:
    """Load the curves of faces64's prompts, or compute those that are not there."""
    domain = sdd.load_domain("faces64")
    paths = {prompt: folder / f"{prompt.replace(' ', '-')}.json" for prompt in domain.prompts}
    lacking = [prompt for prompt, path in paths.items() if not path.exists()]
    if lacking:
        held_out = domain.held_out[:images]
        for curve in sdd.hqs(domain.prior, held_out, lacking, generator=domain.generator):
            curve.save(paths[curve.prompt])
    return [HQSCurve.load(path) for path in paths.values()]


def compare(curve: HQSCurve, images: int, bootstraps: int) -> dict[str, float]:
    """Search bootstraps of so many images both ways; shares and means over bootstraps."""
    statistics = torch.stack([curve.entropy, curve.l1, curve.deficit])
    rng = draws.generator(1)
    rows = []
    for _ in range(bootstraps):
        picked = torch.randint(curve.num_images, (images,), generator=rng)
        table = Table(statistics[None, :, picked], curve.timesteps)
        whole = scores(curve.deficit[picked], curve.l1[picked], curve.normalize).mean(0)
        kept = PartialCurves(None, (images, len(curve.timesteps)), [None])
        (found,) = search.adaptive(table, kept, curve.normalize)  # type: ignore[arg-type]
        there = found.wanted.any(1)
        asked = found.wanted[there]
        _, l1, deficit = kept.statistics[0][:, there].masked_fill(~asked, torch.nan)
        complete = asked.all(0)
        means = scores(deficit, l1, curve.normalize).mean(0).masked_fill(~complete, -torch.inf)
        best, chosen = int(whole.argmax()), int(means.argmax())
        rows.append(
            (
                chosen == best,
                float(whole[best] - whole[chosen]),
                table.evaluations / asked.new_ones(images, len(curve.timesteps)).sum().item(),
                found.confidence,
            )
        )
    names = ("same", "hqs_lost", "evaluations", "confidence")
    return {
        name: fmean(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = {}
    for curve in tables(options.tables, options.images):
        result[curve.prompt] = {
            images: compare(curve, images, options.bootstraps) for images in (16, options.images)
        }
        for images, found in result[curve.prompt].items():
            shown = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
            print(f"{curve.prompt:28} {images:3} images: {shown}", flush=True)
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
