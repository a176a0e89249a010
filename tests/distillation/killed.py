"""A training that is at work in its folder until it is killed.

    python killed.py TEACHER FOLDER

Stops in its third step, whose checkpoint would be the fourth's, says so, and waits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import DistillResult, distill
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import LevelsMapper, StyleGAN2
from sdd_fast.progress import Listener, Progress
from sdd_fast.teacher.prior import DiffusionPrior


def train(
    prior: DiffusionPrior, folder: Path | None, progress: bool | Listener = False
) -> DistillResult:
    """Five steps of two batches each, with a moving average, saved after every second one."""
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    mapper = LevelsMapper(8, 8, ["coarse"])
    w_plus = torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(1))
    config = DistillConfig(
        steps=5, batch_size=1, accumulate=2, ema=0.5, log_every=2, checkpoint_every=2,
        guidance=GuidanceConfig(7.5), prior_timesteps=(20, 90),
    )  # fmt: skip
    return distill(
        prior, generator, w_plus, "white hair", [150, 800], mapper=mapper, config=config,
        run_dir=folder, progress=progress,
    )  # fmt: skip


def wait(event: Progress) -> None:
    if event.done == 3:
        print("at work", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    train(DiffusionPrior.from_pretrained(sys.argv[1]), Path(sys.argv[2]), wait)
