"""One case of evidence: a domain, how much is measured of it, and where what was measured lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..baselines.trained import TrainedFolder
from ..distillation.config import DistillConfig
from ..domains import Domain
from ..fingerprint import fingerprint
from ..gradients.config import GuidanceConfig
from ..metrics.bootstrap import LEVELS, hierarchical_interval
from ..metrics.interval import Interval
from ..selection.choose import Selection
from .judge import Judges
from .plan import Plan
from .store import Outcome, Store, Unit
from .subject import Subject, prompts_of, subject_of


@dataclass(frozen=True)
class Case:
    """What every part is measured in."""

    domain: Domain
    plan: Plan
    store: Store
    trained: Mapping[str, TrainedFolder] = field(default_factory=dict)
    """Of `baselines.TRAINED`, those that are compared with, too."""
    judges: Judges = field(default_factory=Judges)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Those of tables 1 and 2 and of the figures."""
        return prompts_of(self.domain, self.plan.prompts)

    @cached_property
    def ablation_prompts(self) -> tuple[str, ...]:
        """Those of Table 3 and of the study of HQS."""
        return prompts_of(self.domain, self.plan.ablation_prompts)

    @cached_property
    def ablation_subjects(self) -> list[Subject]:
        count = self.plan.ablation_images
        return [subject_of(self.domain, prompt, count) for prompt in self.ablation_prompts]

    @cached_property
    def everywhere(self) -> dict[str, Any]:
        """What every outcome depends on, JSON values only."""
        domain, prior = self.domain, self.domain.prior
        judges = (domain.classifier, domain.clip, domain.identity)
        texts = (prior.text_encoder, prior.text_encoder_2)
        return {
            "domain": domain.name,
            "networks": fingerprint(
                domain.generator, domain.encoder, prior.unet, prior.vae, *texts
            ),
            "latents": fingerprint(domain.w_plus, domain.held_out),
            "judges": fingerprint(*judges),
            "source_text": domain.source_text,
            "levels": {prompt: list(its) for prompt, its in domain.levels.items()},
            "guidance_rms": dict(domain.guidance_rms),
            "defaults": [repr(made()) for made in (Selection, DistillConfig, GuidanceConfig)],
            "dtype": str(prior.dtype).removeprefix("torch."),
            "device": str(domain.device),
            "threads": torch.get_num_threads(),
        }

    def interval(
        self, groups: Sequence[Sequence[Tensor]], over: Sequence[str] = LEVELS
    ) -> Interval:
        """Estimate a mean of figures [prompt][seed] → [N], see `hierarchical_interval`."""
        return hierarchical_interval(groups, over=over, resamples=self.plan.resamples)

    def unit(self, name: str, depends: Mapping[str, Any], run: Any, **how: int) -> Unit:
        """Make a unit whose outcome depends on this case as well."""
        return Unit(name, {**self.everywhere, **depends}, run, **how)

    def values(self, unit: Unit) -> dict[str, Any]:
        """Return the values of a unit that others stand on; measure it if it was not.

        Units are done in order of their turns; where one is asked for before, it is done here.
        """
        found = self.store.find(unit)
        if found is None:
            outcome: Outcome = unit.run()
            self.store.keep(unit, outcome)
            found = self.store.find(unit)
            assert found is not None
        return found
