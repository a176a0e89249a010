"""How a mapper is trained: the settings of `distill`, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .._deprecated import renamed_fields
from ..checks import check_count, check_memory_budget, check_number, check_seed
from ..gradients.config import GuidanceConfig

GENERATOR_DTYPES = ("auto", "float32", "bfloat16")

GRADIENTS = ("sds", "dds")
"""Kinds of gradient that the teacher gives, each a file of `gradients`."""

LATER: dict[str, Any] = {
    "ema": 0.0, "accumulate": 1, "stop_early": None,
    "generator_dtype": "float32", "compile": False, "gradient": "sds", "source_prompt": None,
}  # fmt: skip
"""Settings that runs of earlier versions do not tell, and what they had."""

ONLY_SHOWN = (
    "log_every", "monitor_every", "checkpoint_every", "samples", "cuda_graph", "memory_budget",
)  # fmt: skip
"""Settings that change nothing about the result but by rounding: a resumed run may have others."""


@dataclass(frozen=True)
class EarlyStop:
    """When a training ends before its last step: at a plateau of a figure on held-out images.

    The plateau is at the first measurement, from step `min_steps` on, at which the last `patience`
    measurements have brought the figure no further than `min_gain` beyond the best of those before.
    From there the learning rate falls to 0 as at the end of a training of the right length:
    `DistillConfig.decay` is the share of the steps in which it does.

    Args:
        figure: of the monitor, the larger the better; "direction" needs a monitor with a CLIP.
        min_gain: in the unit of the figure.
    """

    figure: str = "direction"
    min_steps: int = 100
    patience: int = 2
    min_gain: float = 0.005

    def __post_init__(self) -> None:
        for name in ("min_steps", "patience"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        check_number("min_gain", self.min_gain)

    def plateau(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        """Return the step of the last entry if the plateau is there, else None."""
        measured = [(e["step"], float(e[self.figure])) for e in history if self.figure in e]
        values = [-math.inf if math.isnan(value) else value for _, value in measured]
        if len(values) <= self.patience or measured[-1][0] < self.min_steps:
            return None
        gain = max(values[-self.patience :]) - max(values[: -self.patience])
        return None if gain > self.min_gain else measured[-1][0]


@renamed_fields(pull="guidance_rms")
@dataclass(frozen=True)
class DistillConfig:
    """The settings of `distill`; docs/benchmarks.md says what fewer steps and the authors' reach.

    Args:
        steps: optimizer steps. batch_size: latents per step.
        lr, weight_decay, betas: of AdamW. The learning rate is large because the mapper's layers
            have an lr multiplier of 0.01.
        warmup, decay: share of the steps over which lr rises from 0 at the start, and falls to 0
            at the end, linearly.
        lam: λ in ŵ = w + λ·M(w); part of the saved mapper.
        l2_weight: of mean(((ŵ − w) / scale)²), with the mapper's `scale`, so that the change is
            counted in standard deviations of W+. A mapper without scale counts raw W+ units.
        identity_weight: of mean(1 − cos(R(ŷ), R(y))); counts only if `identity` is given.
        range_weight: of mean(max(|ŷ| − 1, 0)²), against over-saturation.
        keep_weight: of mean(m·|ŷ − y|) with m near 1 where the teacher's gradient is small
            compared to its mean over the image, and 0 where it is twice that mean: holds on to
            what the prompt is not about, such as the background.
        reduction: of the guidance term: "mean" over latent elements and the batch, which makes
            the weights above independent of resolution and batch size; "sum" as in the authors'
            code.
        prior_weight: μ, of the teacher's unguided residual at timesteps drawn evenly from
            `prior_timesteps` (first and last), in the unit of the guidance. Makes images that the
            teacher finds natural. Starts after a fifth of the steps, when there is an edit.
        gradient: "sds", of score distillation; or "dds", the Delta Denoising Score, which takes off
            what the teacher asks of the unedited image (equations: `gradients/dds.py`).
        source_prompt: what the unedited images show, as "a photo of a face"; of "dds" alone.
        guidance: see `GuidanceConfig`; None: the default one, with the guidance scale at which
            every prompt has the same guidance RMS, see `balanced_guidance_scale`.
        guidance_rms: root mean square of the guidance that is balanced to; None: the default of
            `balanced_guidance_scale`.
        ema: decay of a moving average of the mapper's weights, which is then what is measured and
            returned; 0: the weights themselves.
        accumulate: batches per step, whose gradients are averaged: as a larger `batch_size`, in the
            memory of one.
        stop_early: see `EarlyStop`; None: all `steps` are made.
        generator_dtype: of the generator's layers: "float32", "bfloat16", or "auto": bfloat16 on a
            CPU that multiplies it natively, unless the gradient at W+ then points elsewhere.
        compile: True: the teacher's U-Net, which gains most by it, goes through torch.compile; a
            text: with the backend of this name. Compiling takes a minute or more for each shape of
            a batch, and results differ in their last digits.
        cuda_graph: whether a step is recorded as one CUDA graph and launched as a whole, to the
            same bits; None: on a GPU, where it can be, unless the teacher is compiled.
        memory_budget: for everything in the device's memory, weights too, such as "22GiB"; None:
            for a card of 24 GB, by a rule. A step that takes more is made piece by piece, to the
            same result up to rounding; so is one in which memory runs out.
        seed: fixes the initial mapper and, together with the step number, every draw.
        log_every: steps between history entries, which are means over them. The only steps at
            which the host waits for the device.
        monitor_every, checkpoint_every: steps between measurements and between checkpoints, of
            which there is one a minute at least.
        samples: held-out images that are shown before and after at each measurement, as a picture
            in samples/ of the run's folder and to the tracker; None: 6 with a tracker, else 0.
    """

    steps: int = 250
    batch_size: int = 4
    lr: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.05
    decay: float = 0.3
    lam: float = 1.0
    l2_weight: float = 0.06
    identity_weight: float = 0.1
    range_weight: float = 20.0
    keep_weight: float = 2.0
    reduction: str = "mean"
    prior_weight: float = 6.0
    prior_timesteps: tuple[int, int] = (100, 400)
    gradient: str = "sds"
    source_prompt: str | None = None
    guidance: GuidanceConfig | None = None
    guidance_rms: float | None = None
    ema: float = 0.0
    accumulate: int = 1
    stop_early: EarlyStop | None = None
    generator_dtype: str = "auto"
    compile: bool | str = False
    cuda_graph: bool | None = None
    memory_budget: int | float | str | None = None
    seed: int = 0
    log_every: int = 10
    monitor_every: int = 50
    checkpoint_every: int = 50
    samples: int | None = None

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "log_every", "monitor_every")
        for name in (*counts, "checkpoint_every"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        if self.samples is not None:
            object.__setattr__(self, "samples", check_count("samples", self.samples, least=0))
        object.__setattr__(self, "seed", check_seed(self.seed))
        for name in ("lr", "lam"):
            check_number(name, getattr(self, name), positive=True)
        weights = (
            "weight_decay", "l2_weight", "identity_weight", "range_weight", "keep_weight",
            "prior_weight",
        )  # fmt: skip
        for name in weights:
            check_number(name, getattr(self, name))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {self.betas!r}")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is a share of the steps, 0…1, got {getattr(self, name)!r}"
                )
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay from 0 to below 1, got {self.ema!r}")
        if self.memory_budget is not None:
            check_memory_budget(self.memory_budget)
        self._check_gradient()
        if self.stop_early is not None and self.stop_early.min_steps >= self.steps:
            raise ValueError(
                f"stop_early acts from step {self.stop_early.min_steps} on, and there are only "
                f"{self.steps} steps; leave it out, or give more steps or EarlyStop(min_steps=…)"
            )
        if self.guidance_rms is not None:
            check_number("guidance_rms", self.guidance_rms, positive=True)
        first, last = self.prior_timesteps
        if not 0 <= first <= last:
            raise ValueError(
                "prior_timesteps are the first and the last timestep of a range, got "
                f"{self.prior_timesteps!r}"
            )
        if not isinstance(self.compile, bool | str) or self.compile == "":
            raise ValueError(
                "compile must be True, False or the name of a backend of torch.compile, got "
                f"{self.compile!r}"
            )
        if self.compile is True:
            object.__setattr__(self, "compile", "inductor")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", got {self.reduction!r}')
        if self.generator_dtype not in GENERATOR_DTYPES:
            raise ValueError(
                f"generator_dtype must be one of {', '.join(GENERATOR_DTYPES)}, got "
                f"{self.generator_dtype!r}"
            )

    def _check_gradient(self) -> None:
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"gradient must be one of {', '.join(GRADIENTS)}, got {self.gradient!r}"
            )
        if self.gradient == "sds":
            if self.source_prompt is not None:
                raise ValueError(
                    'source_prompt belongs to gradient="dds"; "sds" has no use for '
                    f"{self.source_prompt!r}"
                )
            return
        if not isinstance(self.source_prompt, str) or not self.source_prompt.strip():
            raise ValueError(
                'gradient="dds" needs a source_prompt that says what the unedited images show, '
                f"such as a domain's source_text; got {self.source_prompt!r}"
            )
        if self.guidance is not None and self.guidance.jacobian != "skip":
            raise ValueError(
                'gradient="dds" leaves out the U-Net\'s Jacobian: give a guidance with '
                f'jacobian="skip", not {self.guidance.jacobian!r}'
            )

    @classmethod
    def paper(cls, **changes: Any) -> DistillConfig:
        """Return the authors' settings; `changes` replace some of them.

        They go with a mapper like theirs: `LevelsMapper(num_layers, w_dim, levels,
        zero_init=False)`, which has no scale, so that L2 counts raw W+ units.
        """
        authors = cls(
            steps=4000, batch_size=2, lr=5e-3, weight_decay=2e-3, betas=(0.9, 0.999), warmup=0.0,
            decay=0.0, lam=0.1, l2_weight=10.0, identity_weight=1.0, range_weight=0.0,
            keep_weight=0.0, reduction="sum", prior_weight=0.0,
            guidance=GuidanceConfig(guidance_scale=100.0), generator_dtype="float32",
            seed=1010, log_every=50, monitor_every=500, checkpoint_every=500,
        )  # fmt: skip
        return replace(authors, **changes)

    def lr_at(self, step: int, end: int | None = None) -> float:
        """Return the learning rate of step 0 … steps − 1, in a training that ends after `end`."""
        end = end or self.steps
        up = (step + 1) / max(1.0, self.warmup * self.steps)
        down = (end - step) / max(1.0, self.decay * end)
        return self.lr * min(1.0, up, down)

    def stops(self, history: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, Any]] | None:
        """Say after which step a training with this history ends, and why; None if not early."""
        step = self.stop_early.plateau(history) if self.stop_early else None
        if self.stop_early is None or step is None:
            return None
        end = self.steps if self.decay == 1 else math.ceil(step / (1 - self.decay))
        if end >= self.steps:
            return None
        return end, {"plateau": {"step": step, **asdict(self.stop_early)}}
