"""Fig. 4: the HQS curve, the gradient at each timestep, and what training there alone achieves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from torch import Tensor

from ... import draws
from ...fonts import families
from ...gradients.config import GuidanceConfig
from ...gradients.image_gradient import image_gradient
from ...selection.plot import CHOSEN, INK, SCORE
from .. import hqs_study
from ..case import Case
from ..store import Outcome, Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Where in the diffusion process the prompt's meaning is (Fig. 4)"
CAPTION = (
    "HQS over timesteps with its 10–90 % range over images, and the share of images that show the "
    "target after training at one timestep alone. The prompt is the one whose share, in the first "
    "seed, differs most between timesteps (the first one where no share is measured); the tables "
    "have the others. Below, for one image: the gradient's magnitude (mean of eight noises, each "
    "map scaled to its largest value) and the edit by the mapper that was trained at that timestep."
)
_NOISES = 8


def units(case: Case) -> list[Unit]:
    """Return the maps of all prompts: which is shown is known once all is measured."""
    return [maps(case, p) for p in range(len(case.ablation_prompts))]


def maps(case: Case, p: int) -> Unit:
    """Return the unit of gradient maps of the prompt p: strip "maps", one for each timestep.

    They are of the first image that is edited by it.
    """
    prompt, steps = case.ablation_prompts[p], hqs_study.timesteps_of(case)

    def run() -> Outcome:
        subject, prior = case.ablation_subjects[p], case.domain.prior
        image = subject.before[:1].to(prior.device)
        embeds = prior.encode_prompt(prompt)
        shape = prior.latent_shape_for(*image.shape[-2:])
        noise = torch.randn(_NOISES, *shape, generator=draws.generator(0)).to(prior.device)
        many = image.expand(_NOISES, -1, -1, -1).contiguous()
        config = GuidanceConfig()
        found = []
        for t in steps:
            d = image_gradient(prior, many, embeds, t, noise, config)
            found.append(d.abs().mean((0, 1)).cpu())
        return Outcome({"timesteps": steps}, {"maps": torch.stack([heat(one) for one in found])})

    depends = {"prompt": prompt, "timesteps": steps, "images": case.plan.ablation_images}
    return case.unit("figures/gradient-maps", depends, run, turn=20, cost=5)


def heat(values: Tensor) -> Tensor:
    """Color a map [R, R] ≥ 0 by its largest value: [3, R, R] in [-1, 1]."""
    scaled = values / values.max().clamp(min=1e-30)
    colors = matplotlib.colormaps["magma"](scaled.numpy())[..., :3]
    return torch.from_numpy(colors).permute(2, 0, 1).float() * 2 - 1


def shown_prompt(case: Case) -> int:
    """Return which prompt's success after training at t alone differs most between timesteps.

    Success is that of the first seed that is measured; of equal prompts the first is taken, as it
    is where no success is measured.
    """
    there = hqs_study.measured(case, "as they are", "success")
    if there is None:
        return 0
    spreads = [max(its) - min(its) for its in there.values[0]]
    return spreads.index(max(spreads))


def draw(case: Case) -> Figure | None:
    from matplotlib.figure import Figure

    steps = hqs_study.timesteps_of(case)
    found = case.store.find(hqs_study.curves(case, hqs_study.variants(case)[0]))
    if found is None:
        return None
    p = shown_prompt(case)
    rows = _pictures(case, p, steps)
    figure = Figure(
        figsize=(max(6.0, 1.1 * len(steps)), 3.2 + 1.2 * len(rows)), dpi=150, layout="constrained"
    )
    heights = [2.6, *[1.0] * len(rows)]
    cells = figure.add_gridspec(1 + len(rows), len(steps), height_ratios=heights)
    _curve(figure.add_subplot(cells[0, :]), case, p, steps, found)
    for r, (label, pictures) in enumerate(rows):
        for c, picture in enumerate(pictures):
            axes = figure.add_subplot(cells[1 + r, c])
            axes.imshow(((picture.permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy())
            axes.set_xticks([])
            axes.set_yticks([])
            if c == 0:
                axes.set_ylabel(label, fontsize=8, color=INK)
            if r == len(rows) - 1:
                axes.set_xlabel(f"t = {steps[c]}", fontsize=8, color=INK)
    return figure


def _pictures(case: Case, p: int, steps: list[int]) -> list[tuple[str, Tensor]]:
    """Return labeled rows of pictures, one for each timestep."""
    rows = []
    gradient = case.store.strip(maps(case, p), "maps")
    if gradient is not None:
        rows.append(("gradient", gradient))
    edits = [
        case.store.strip(hqs_study.training(case, t, "as they are", 0), f"prompt-{p}")
        for t in steps
    ]
    there = [strip[0] for strip in edits if strip is not None]
    if len(there) == len(steps):
        rows.append(("edit", torch.stack(there)))
    return rows


def _curve(axes: Any, case: Case, p: int, steps: list[int], found: dict[str, Any]) -> None:
    spread = torch.tensor(found["spread"][p], dtype=torch.float64)
    mean = found["curves"][p]["entropy and L1"]
    low, high = torch.quantile(spread, torch.tensor([0.1, 0.9]).double(), dim=0).tolist()
    axes.fill_between(steps, low, high, color=SCORE, alpha=0.15, linewidth=0)
    axes.plot(steps, mean, "-o", color=SCORE, markersize=4, label="HQS")
    axes.set_xlabel("timestep t")
    axes.set_xticks(steps)
    axes.set_ylabel("HQS", color=SCORE)
    axes.set_ylim(-1.08, 1.08)
    axes.spines[["top"]].set_visible(False)
    there = hqs_study.measured(case, "as they are", "success")
    if there is not None:
        success = torch.tensor([seed[p] for seed in there.values]).mean(0).tolist()
        other = axes.twinx()
        other.plot(steps, success, "-s", color=CHOSEN, markersize=4, label="success")
        other.set_ylabel("success of training at t alone", color=CHOSEN)
        other.set_ylim(-0.04, 1.04)
        other.spines[["top"]].set_visible(False)
    half = (steps[-1] - steps[0]) / max(1, len(steps) - 1) / 2 if len(steps) > 1 else 1
    axes.set_xlim(steps[0] - half, steps[-1] + half)
    axes.set_title(
        f"“{case.ablation_prompts[p]}”", loc="left", color=INK, parse_math=False, family=families()
    )
