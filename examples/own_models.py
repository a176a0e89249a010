"""Any Stable Diffusion 1.x, 2.x or XL as the teacher, and any StyleGAN2 to edit.

    python examples/own_models.py "a photo of a cat with blue eyes" \
        --diffusion stable-diffusion-v1-5/ --generator afhqcat.pkl --device cuda

No encoder is needed: latents are sampled from the generator's mapping network. Without arguments
the script uses the parts of faces64, each loaded on its own as somebody else's would be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import sdd_fast as sdd
from sdd_fast.grid import grid
from sdd_fast.images import save_png


def sample_latents(generator: sdd.StyleGAN2, count: int, seed: int, psi: float) -> torch.Tensor:
    """W+ [count, num_layers, w_dim] of random faces, cats, …; psi < 1 keeps to typical ones."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        w = generator.mapping(z.to(generator.latent_avg.device), truncation_psi=psi)
    return generator.broadcast(w).contiguous()


def main() -> None:
    faces64 = sdd.load_domain("faces64").folder
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="a face with white hair")
    parser.add_argument("--diffusion", default=faces64 / "diffusion", help="folder, file or hub id")
    parser.add_argument("--generator", type=Path, default=faces64 / "generator.safetensors")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the teacher, such as float16")
    parser.add_argument("--out", type=Path, default=Path("runs/own-models"))
    options = parser.parse_args()

    prior = sdd.DiffusionPrior.from_pretrained(
        options.diffusion, dtype=getattr(torch, options.dtype), device=options.device
    )
    generator = sdd.load_generator(options.generator).to(options.device)
    train = sample_latents(generator, 256, seed=1, psi=0.7)
    held_out = sample_latents(generator, 8, seed=2, psi=0.7)

    config = sdd.DistillConfig(steps=options.steps)
    curve = sdd.hqs(prior, held_out, options.prompt, generator=generator, config=config.guidance)
    curve.plot(options.out / "curve.png")
    print(f"timestep of largest HQS: {curve.largest()}")
    result = sdd.distill(
        prior,
        generator,
        train,
        options.prompt,
        [curve.largest()],
        config=config,
        held_out=held_out,
        run_dir=options.out,
    )
    print(f"verdict of the monitor: {result.history[-1]['verdict']}")

    editor = sdd.Editor(generator, [(result.mapper, result.info)])
    rows = [editor.edit(held_out, strength) for strength in (0.0, 1.0)]
    picture = grid([row.cpu() for row in rows], row_labels=["before", options.prompt])
    save_png(options.out / "before-after.png", picture)
    print(f"written: {options.out / 'before-after.png'}")


if __name__ == "__main__":
    main()
