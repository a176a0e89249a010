"""SDEdit (Meng et al. 2022): noise an image to a level, denoise it with the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from .teacher_baseline import (
    LEVELS,
    SCALES,
    TeacherBaseline,
    check_settings,
    ddim_scheduler,
    last_timesteps,
)

if TYPE_CHECKING:
    from ..domains import Domain
    from ..teacher.prior import DiffusionPrior
    from ..teacher.text import PromptEmbeds
    from .image_noise import ImageNoise

SOLVERS = ("ddim", "dpm-solver++")


class SDEdit(TeacherBaseline):
    """SDEdit, in 50 steps of DDIM.

    The paper's table has it also with a model that was fine-tuned on the domain. Which of the two
    this is depends on the domain: the teacher of faces64, or of any domain of `sdd train-domain`,
    was trained on its images, so it is the fine-tuned one; with a general teacher it is the plain
    one, and with a LoRA (`load_domain(…, lora=…)`) the fine-tuned one.

    `level` is the paper's α; `level · steps`, rounded, are taken, as by diffusers' image-to-image
    pipelines. For other settings see `TeacherBaseline`.

    Args:
        solver: "ddim", deterministic (η = 0), or "dpm-solver++" (Lu et al. 2022, second order).
    """

    name = "SDEdit"
    paper = "Meng et al. 2022"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {"level": LEVELS, "guidance_scale": SCALES}

    def __init__(
        self,
        domain: Domain,
        *,
        solver: str = "ddim",
        steps: int = 50,
        level: float = 0.7,
        guidance_scale: float = 50.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, batch_size=batch_size)
        if solver not in SOLVERS:
            raise ValueError(f"unknown solver {solver!r}; there are: {', '.join(SOLVERS)}")
        self.steps = check_settings(self.prior, steps, level=level, guidance_scale=guidance_scale)
        self.solver, self.level, self.guidance_scale = solver, level, guidance_scale

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        scheduler = _scheduler(self.prior, self.solver, self.steps)
        timesteps = last_timesteps(self.prior, scheduler, self.level)
        z = self._encode(images)
        if not timesteps:
            return z
        drawn = noise.draw(z.shape[1:]).to(z)
        # At the largest timestep √ᾱ_t is small but not 0: an image would shine through.
        z = drawn if self.level == 1 else self.prior.add_noise(z, drawn, timesteps[0])
        for t in timesteps:
            predicted = self.prior.predict_noise(z, t, embeds, self.guidance_scale)
            z = scheduler.step(predicted, t, z).prev_sample
        return z


class SDEditBySolver(SDEdit):
    """SDEdit in few steps of DPM-Solver++: what people run who wait for it."""

    name = "SDEdit, DPM-Solver++"
    paper = "Meng et al. 2022; Lu et al. 2022"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {"steps": (4, 6, 8), **SDEdit.GRID}

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 6,
        level: float = 0.9,
        guidance_scale: float = 20.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(
            domain, solver="dpm-solver++", steps=steps, level=level,
            guidance_scale=guidance_scale, batch_size=batch_size,
        )  # fmt: skip


def _scheduler(prior: DiffusionPrior, solver: str, steps: int) -> Any:
    if solver == "ddim":
        return ddim_scheduler(prior, steps)
    from diffusers import DPMSolverMultistepScheduler

    made = DPMSolverMultistepScheduler.from_config(
        prior.scheduler.config, algorithm_type="dpmsolver++", prediction_type="epsilon"
    )
    made.set_timesteps(steps)
    return made
