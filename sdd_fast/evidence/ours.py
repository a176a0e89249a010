"""Our own method as the tables see it: an editor like the others, whose seconds are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..baselines import Baseline
from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..editing.editor import Editor
from ..selection.choose import Selection
from ..selection.in_domain import compute_curves
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from ..domains import Domain


class SelectiveDistillation(Baseline):
    """HQS, the timesteps of its plateau, distillation, and one pass per image: as `sdd run` does.

    Args:
        steps: of the training. images: that HQS is computed on.
    """

    name = "SDD (ours)"
    paper = "Wang et al. 2023"
    optimizes = ("identity",)

    def __init__(self, domain: Domain, steps: int = 250, images: int = 16, seed: int = 0) -> None:
        super().__init__(domain)
        self.steps, self.images, self.seed = steps, images, seed
        self.seconds: dict[str, float] = {}
        """Of the last prompt: "selection" and "training"."""
        self.timesteps: list[int] = []
        self._editors: dict[str, Editor] = {}

    def prepare(self, prompt: str) -> None:
        if prompt in self._editors:
            return
        domain, watch = self.domain, Stopwatch(self.domain.device)
        with watch.lap("selection"):
            selection = Selection(images=self.images, seed=self.seed)
            (curve,) = compute_curves(domain, [prompt], selection, progress=False)
            self.timesteps = curve.plateau()
        config = DistillConfig(
            steps=self.steps, guidance_rms=domain.guidance_rms.get(prompt), seed=self.seed
        )
        with watch.lap("training"):
            result = distill(
                domain.prior, domain.generator, domain.w_plus, prompt, self.timesteps,
                levels=domain.levels.get(prompt), w_std=domain.w_std, identity=domain.identity,
                config=config, domain=domain.name, progress=False,
            )  # fmt: skip
        self.seconds = watch.seconds
        editor = Editor(domain.generator, [(result.mapper, result.info)], domain.encoder)
        self._editors[prompt] = editor

    def edit(self, images: Tensor, prompt: str, *, seed: int = 0) -> Tensor:
        self.prepare(prompt)
        edited: Tensor = self._editors[prompt].edit(images)
        return edited
