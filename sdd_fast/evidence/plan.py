"""How much is measured: prompts, seeds, images and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..checks import check_count, check_number
from .settings import EditorSettings

PARTS = ("table1", "table2", "table3", "hqs", "figures")
"""What can be asked for alone."""


QUICK_SETTINGS: dict[str, dict[str, Any]] = {
    "sdedit": {"steps": 10, "level": 0.9, "guidance_scale": 15.0},
    "ddib": {"steps": 15, "guidance_scale": 10.0},
    "edit-friendly": {"steps": 15, "guidance_scale": 2.0},
    "ledits": {"steps": 15, "skip": 0.15, "guidance_scale": 10.0},
    "styleclip-mapper": {"steps": 60},
    "styleclip-optimization": {"steps": 20},
    "styleclip-direction": {"images": 2},
    "stylemc": {"steps": 60},
    "delta-denoising": {"steps": 150},
}
"""Of the quick plan: other editors take as little time as ours. In fewer steps of DDIM an image
changes less, so that other levels and scales are best."""

AMOUNTS = ("steps", "images")
"""Settings that take time."""


@dataclass(frozen=True)
class Budget:
    """A limited training, in which the choice of timesteps shows: with enough steps any works.

    The loss is the paper's: guidance, L2 in W+ and identity. The guidance scale is one for all
    timesteps and prompts, since a balanced one would make up for weak timesteps.
    """

    steps: int = 60
    batch_size: int = 2
    guidance_scale: float = 30.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        check_number("guidance_scale", self.guidance_scale, positive=True)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        images: m, that every method edits for each prompt, and n, `asked_prompts`, of Eq. 13–15.
        reference_images: without the target of each prompt, that edited images are compared with
            as a set (FID, KID); at least `images`, and no more where the domain has not as many.
        prompts: of the domain's, in tables 1 and 2 and the figures.
        methods: of `baselines.BASELINES`, to compare with; None: all.
        settings: of some of these, in place of their defaults: name → argument → value.
        settings_note: whence they are, as the rest of a sentence.
        steps: of our own trainings in tables 1 and 2. training_seeds: of them, the first of which
            the tables show; of all, `seeds.table` tells.
        selection_images: that HQS is computed on; 16 as by default.
        budget, ablation_prompts, ablation_seeds, ablation_images: of the trainings of Table 3 and
            of the study of HQS, and images that each is measured on.
        study_timesteps: at each of which alone a mapper is trained. study_seeds: of each.
        shown: images in each picture.
        resamples: of the bootstraps behind intervals.
    """

    name: str = "full"
    images: int = 100
    asked_prompts: int = 10
    reference_images: int = 256
    prompts: int = 8
    methods: tuple[str, ...] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings_note: str = ""
    steps: int = 250
    training_seeds: int = 3
    selection_images: int = 16
    budget: Budget = field(default_factory=Budget)
    ablation_prompts: int = 8
    ablation_seeds: int = 3
    ablation_images: int = 48
    study_timesteps: int = 10
    study_seeds: int = 2
    shown: int = 6
    resamples: int = 10_000

    def __post_init__(self) -> None:
        for one in fields(self):
            if one.name not in ("name", "methods", "settings", "settings_note", "budget"):
                least = 2 if one.name == "study_timesteps" else 1
                check_count(one.name, getattr(self, one.name), least)

    @classmethod
    def quick(cls, **changes: Any) -> Plan:
        """Return a plan of minutes on a CPU: everything is run, hardly anything is sure."""
        small = cls(
            name="quick", images=8, reference_images=8, prompts=2, settings=QUICK_SETTINGS,
            steps=150, training_seeds=1, selection_images=4, budget=Budget(steps=40),
            ablation_prompts=2, ablation_seeds=1, ablation_images=16, study_timesteps=5,
            study_seeds=1, shown=4, resamples=1000,
        )  # fmt: skip
        return replace(small, **changes)

    def with_settings(self, given: EditorSettings) -> Plan:
        """Return this plan with settings from a file; what it sets itself of `AMOUNTS` stays."""
        both = {}
        for name in {**given.settings, **self.settings}:
            own, its = self.settings.get(name, {}), given.settings.get(name, {})
            amounts = {key: value for key, value in own.items() if key in AMOUNTS}
            both[name] = {**own, **its, **amounts}
        return replace(self, settings=both, settings_note=given.note)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
