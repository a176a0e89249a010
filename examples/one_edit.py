"""One edit from a prompt: select timesteps, distill a mapper, edit held-out pictures.

    python examples/one_edit.py "a face with white hair" --out runs/white-hair

Leaves the curve, the mapper and before-after.png in --out. `sdd distill` does the same and also
measures the edit and writes a report; this script shows the calls.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import sdd_fast as sdd
from sdd_fast.grid import grid
from sdd_fast.images import save_png
from sdd_fast.report.wording import describe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="a face with white hair")
    parser.add_argument("--domain", default="faces64", help="a name, or a folder")
    parser.add_argument("--out", type=Path, default=Path("runs/one-edit"))
    parser.add_argument("--steps", type=int, default=sdd.DistillConfig().steps)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    domain = sdd.load_domain(options.domain, device=options.device)
    rms = domain.guidance_rms.get(options.prompt)
    config = sdd.DistillConfig(steps=options.steps, guidance_rms=rms)

    curve = sdd.hqs(
        domain.prior,
        domain.held_out[:16],
        options.prompt,
        generator=domain.generator,
    )
    curve.save(options.out / "curve.json")
    curve.plot(options.out / "curve.png")
    timesteps = curve.plateau()
    print(f"timestep of largest HQS: {curve.largest()}; as good: {timesteps}")

    result = sdd.distill(
        domain.prior,
        domain.generator,
        domain.w_plus,
        options.prompt,
        timesteps,
        levels=domain.levels.get(options.prompt),  # those that suit the prompt, where known
        w_std=domain.w_std,
        identity=domain.identity,
        config=config,
        run_dir=options.out,
        monitor=domain.monitor(options.prompt),  # measures the edit on held-out latents
        domain=domain.name,
    )
    print(f"distilled in {result.seconds:.0f} s: {describe(result.history[-1])}")

    editor = sdd.Editor.load(options.out, domain=domain)
    w_plus = domain.held_out[:6]
    rows = [editor.edit(w_plus, strength) for strength in (0.0, 0.5, 1.0)]
    picture = grid(
        torch.stack(rows).cpu(), row_labels=["before", "strength 0.5", "1"], title=options.prompt
    )
    save_png(options.out / "before-after.png", picture)
    print(f"written: {options.out / 'before-after.png'}")


if __name__ == "__main__":
    main()
