"""Tables 1 and 2: quality and time of our own editor beside others, on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..baselines import TRAINED
from ..metrics.interval import Interval
from ..metrics.paired import FLIPS, holm, sign_flip_test
from ..timing.equations import break_even
from . import editing, seeds
from .case import Case
from .editing import AT_ONCE, OURS, class_of, editors, measured
from .judge import figures_of
from .sets import about_sets, distances, distances_unedited
from .store import Unit
from .table import Column, Table
from .together import together

if TYPE_CHECKING:
    from ..domains import Domain

SETS: tuple[Column, ...] = (
    Column("fid", "FID", ".2f"),
    Column("kid", "KID", ".4f"),
)
"""Distances of all edited images as a set to those before, as in the paper: none is best, since no
edit is nearest."""

QUALITY: tuple[Column, ...] = (
    Column("clip_absolute", "CLIP similarity", best="high"),
    Column("clip_direction", "CLIP direction", best="high"),
    Column("success", "success", best="high"),
    Column("kept", "others kept", best="high"),
    Column("identity", "identity", best="high"),
)
"""Figures of every image, of which tables state the mean."""

LPIPS = Column("lpips", "LPIPS to before", best="low")
"""One more of these, where its weights were given."""

RIGHT_SET = Column("fid_right", "FID to right answers", ".2f", best="low")
RIGHT = (
    Column("counterfactual_error", "counterfactual error", best="low"),
    Column("counterfactual_distance", "counterfactual distance", best="low"),
    Column("counterfactual_psnr", "counterfactual PSNR, dB", ".1f", best="high"),
)
"""What can be told in domains that draw the right answer, see `DrawingReader`."""

_LEAST = 0.001  # seconds that a table tells; less is noise
_ALIKE = 0.1  # of the time of an edit: which of two that differ by less is faster is chance

AS_ONE = "prompts as one"
"""In the table of times: all prompts selected for and trained together."""

COMPARED = ("success", "kept", "counterfactual_error", "clip_direction")
"""What is tested image by image."""


def units(case: Case) -> list[Unit]:
    """Return the units of all editors, of ours with other seeds, and of all prompts as one."""
    return [*editing.units(case), together(case), *seeds.units(case)]


def tables(case: Case) -> list[Table]:
    """Return Table 1: quality, paired tests, time, and ours with other seeds."""
    found = comparison(case, editors(case), "table1", "Table 1")
    return [*found, seeds.table(case)] if case.plan.training_seeds > 1 else found


def comparison(case: Case, keys: Sequence[str], name: str, title: str) -> list[Table]:
    """Return the three tables of some editors, of what is measured so far."""
    found = {key: measured(case, key) for key in keys}
    return [
        quality(case, found, name, f"{title}: quality"),
        paired(case, found, f"{name}-paired", f"{title}: ours against each, on the same images"),
        time(case, found, f"{name}-time", f"{title}: time"),
    ]


Found = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Editor → prompt → values of its unit."""


def quality(case: Case, found: Found, name: str, title: str) -> Table:
    """Return the table of mean figures with intervals over prompts and images."""
    rows: list[dict[str, Any]] = []
    figures = (*QUALITY, *([] if case.judges.lpips is None else [LPIPS]))
    of_sets = SETS
    if drawn := _draws(case.domain):
        figures, of_sets = (*figures, *RIGHT), (*SETS, RIGHT_SET)
    for key, prompts in found.items():
        row: dict[str, Any] = {"editor": class_of(key).name, "source": class_of(key).paper}
        row |= {"prompts": len(prompts), **distances(case, prompts)}
        for column in figures:
            cells = figures_of([list(prompts.values())], column.key)
            if cells is not None:
                row[column.key] = case.interval(cells, over=("prompts", "images"))
        rows.append(row)
    rows.append(_nothing(case, found))
    if drawn:
        rows.append(_right_answers(case, found))
    rivals = [i for i, key in enumerate(found) if not class_of(key).supervised and _edits(rows[i])]
    # A domain may hold fewer latents than the plan asks for.
    there = {one["images"] for its in found.values() for one in its.values()}
    count = " to ".join(map(str, sorted(there or {case.plan.images})))
    notes = [
        f"{count} images that lack the target for each prompt, the same for all editors; "
        f"{_different(found)} different ones, since prompts share some; of "
        f"{len(case.prompts)} prompts, as far as they are measured. Intervals of 95 % over prompts "
        "and images; each editor is trained once for a prompt, of other seeds they tell nothing"
        + (" (“ours with other seeds” does). " if case.plan.training_seeds > 1 else ". ")
        + "CLIP figures from "
        f"“{case.domain.source_text}” to the prompt. "
        + (
            "Counterfactual: against the same image drawn with the target alone changed; the "
            "distance is by features of the domain's own network. "
            if drawn
            else "What a right edit looks like is not known in this domain. "
        )
        + "Bold: the best of those that were not trained on what success is measured by, and reach "
        "the target at least every second time: who does nothing keeps everything.",
        *_judges(case.domain, found),
    ]
    sets = about_sets(case, found.values())
    if sets is not None:
        notes.append(sets)
    columns = [Column("editor", "editor"), Column("source", "from"), Column("prompts", "prompts")]
    return Table(name, title, [*columns, *of_sets, *figures], rows, notes, ranked=rivals)


def paired(case: Case, found: Found, name: str, title: str) -> Table:
    """Return differences of ours and each other editor on the same images, and their p-values."""
    ours = found.get(OURS, {})
    drawn = _draws(case.domain)
    titles = {column.key: column.title for column in (*QUALITY, *(RIGHT if drawn else ()))}
    rows: list[dict[str, Any]] = []
    compared = [key for key in COMPARED if key in titles]
    p_values: dict[str, dict[str, float]] = {key: {} for key in compared}
    for key, theirs in found.items():
        if key == OURS:
            continue
        row: dict[str, Any] = {"editor": class_of(key).name}
        shared = [prompt for prompt in theirs if prompt in ours]
        for figure in compared:
            a, b = (figures_of([[its[p] for p in shared]], figure) for its in (ours, theirs))
            if a is None or b is None:
                continue
            differences = [x[0].double() - y[0].double() for x, y in zip(a, b, strict=True)]
            row[figure] = case.interval([[d] for d in differences], over=("prompts", "images"))
            shown = [name for p in shared for name in theirs[p]["photographs"]]
            p_values[figure][key] = sign_flip_test(_sums(torch.cat(differences), shown))
        rows.append(row | {"key": key})
    for figure, its in p_values.items():
        adjusted = holm(its)
        for row in rows:
            row[f"{figure}_p"] = adjusted.get(str(row["key"]))
    columns = [Column("editor", "ours minus")]
    for figure in compared:
        columns += [Column(figure, titles[figure], "+.3f"), Column(f"{figure}_p", "p", ".2g")]
    note = (
        "Differences on the same images with intervals of 95 % over prompts and images; p of a "
        f"two-sided sign-flip test over photographs ({FLIPS:,} random flips: no p is told below "
        f"{1 / (FLIPS + 1):.1g}), adjusted for all rows of a column (Holm). What "
        f"several prompts make of one photograph counts as one; there are {_different(found)} of "
        "them. It speaks of these prompts alone; whether others would come out alike, the "
        "intervals tell. More is better for us"
        + (", but of the counterfactual error less." if drawn else ".")
    )
    return Table(name, title, columns, rows, [note])


def _sums(values: Tensor, photographs: Sequence[str]) -> Tensor:
    """Return the sum of the values of each photograph; NaN is left out."""
    sums: dict[str, float] = {}
    for shown, value in zip(photographs, values.tolist(), strict=True):
        if not math.isnan(value):
            sums[shown] = sums.get(shown, 0.0) + value
    return torch.tensor(list(sums.values()), dtype=torch.float64)


def _different(found: Found) -> int:
    """Return how many different photographs there are."""
    of_all = (one["photographs"] for its in found.values() for one in its.values())
    return len({name for names in of_all for name in names})


@dataclass(frozen=True)
class Cost:
    """Seconds of an editor, means over prompts.

    Args:
        selection, training: of a prompt. edit: of an image. once: for all prompts.
    """

    selection: float
    training: float
    edit: float
    once: float = 0.0

    @classmethod
    def of(cls, prompts: Mapping[str, Mapping[str, Any]]) -> Cost:
        its = list(prompts.values())
        seconds = [one["seconds"] for one in its]
        return cls(
            fmean(s.get("selection", 0.0) for s in seconds),
            fmean(s.get("training", 0.0) for s in seconds),
            fmean(s["edits"] / one["images"] for s, one in zip(seconds, its, strict=True)),
            # Nearly 0 in the units of a process that had it already.
            max(s.get("once", 0.0) for s in seconds),
        )

    @property
    def beforehand(self) -> float:
        return self.selection + self.training

    def total(self, m: int, n: int) -> float:
        """Return the seconds of m edits for each of n prompts (Eq. 13 and 14), and of what is done
        once."""
        return self.once + n * (self.beforehand + m * self.edit)

    def cheaper_from(self, theirs: Cost) -> int | None:
        """Return from how many images a prompt this is cheaper (Eq. 15); None: at no number."""
        more = self.beforehand - theirs.beforehand
        if more < 0 and self.edit <= theirs.edit:
            return 1
        return break_even(max(0.0, more), self.edit, theirs.edit)

    def cheaper_to(self, theirs: Cost) -> int | None:
        """Return up to how many images a prompt this is cheaper, if its edits take longer but less
        was done beforehand; None: where that is not so, or not even for one."""
        less, more = theirs.beforehand - self.beforehand, self.edit - theirs.edit
        if less <= 0 or more <= 0:
            return None
        return math.ceil(less / more) - 1 or None


def time(case: Case, found: Found, name: str, title: str) -> Table:
    """Return seconds, measured apart and summed, and from how many images ours is cheaper."""
    m, n = case.plan.images, case.plan.asked_prompts
    costs = {key: Cost.of(prompts) for key, prompts in found.items() if prompts}
    as_one = _as_one(case, costs.get(OURS))
    rows: list[dict[str, Any]] = []
    for key in found:
        row: dict[str, Any] = {"editor": class_of(key).name}
        cost = costs.get(key)
        if cost is not None:
            row |= {"selection": cost.selection, "training": cost.training, "edit": cost.edit}
            row |= {"total": cost.total(m, n)}
            row |= {"once": cost.once}
            if key != OURS and OURS in costs:
                row["break_even"] = _break_even(costs[OURS], cost)
            if key != OURS and as_one is not None:
                row["break_even_as_one"] = _break_even(as_one, cost)
        rows.append(row)
        if key == OURS:
            row |= {"break_even": "–", "break_even_as_one": "–"}
            rows.append(_row_as_one(case, as_one, n))
    threads = torch.get_num_threads()
    on = f"{case.domain.device} with {threads} thread{'s' if threads > 1 else ''}"
    clocks = sorted({one["clock"] for its in found.values() for one in its.values()})
    columns = [
        Column("editor", "editor"),
        Column("once", "once for all prompts, s", ".3g", least=_LEAST),
        Column("selection", "selection, s", ".3g", least=_LEAST),
        Column("training", "training, s", ".3g", least=_LEAST),
        Column("edit", "an edit, s", ".3g", best="low", least=_LEAST),
        Column("total", f"total, s: {m} images, {n} prompts", ".4g", best="low"),
        Column("break_even", "ours cheaper from, images a prompt"),
        Column("break_even_as_one", "prompts as one: from"),
    ]
    note = (
        f"Seconds of {' and '.join(clocks) or 'wall time'}, one prompt after the other, on {on}; "
        f"edits {AT_ONCE} at once. Total: Eq. 13–15, selection counts as training. Prompts as one: "
        f"all {len(case.prompts)} selected for and trained together, of which one has its share; "
        "these mappers edit alike, and nothing else is measured of them. What an editor makes once "
        "for all prompts (StyleCLIP direction: what every style channel does) is in the total, but "
        "not in the numbers of images. Trainings by `sdd bench train`, which serve all prompts, "
        "are in neither, and the totals of what they train are not compared. “Edits "
        f"alike”: they differ by less than {_ALIKE:.0%}, so that no number of images makes up for "
        "what is done beforehand."
    )
    trained = {class_of(key).name for key in found if key in TRAINED}
    ranked = [i for i, row in enumerate(rows) if row["editor"] not in trained]
    return Table(name, title, columns, rows, [note], ranked=ranked)


def _draws(domain: Domain) -> bool:
    return hasattr(domain.reader, "right_answers")


def _edits(row: Mapping[str, Any]) -> bool:
    """Tell whether an editor reaches the target at least every second time, if that is known."""
    success = row.get("success")
    return not isinstance(success, Interval) or success.estimate >= 0.5


def _nothing(case: Case, found: Found) -> dict[str, Any]:
    """Return the row of leaving the images as they are, of what is known of it."""
    prompts = _first(found)
    its = list(prompts.values())
    row: dict[str, Any] = {"editor": "no edit", "source": "–", "prompts": len(its)}
    row |= distances_unedited(case, prompts, "before")
    for key, title in (("clip_before", "clip_absolute"), ("had", "success"),
                       ("nothing_error", "counterfactual_error"),
                       ("nothing_psnr", "counterfactual_psnr")):  # fmt: skip
        cells = figures_of([its], key)
        if cells is not None:
            row[title] = case.interval(cells, over=("prompts", "images"))
    return row


def _right_answers(case: Case, found: Found) -> dict[str, Any]:
    """Return the row of the right answers themselves, of what is known of it."""
    prompts = _first(found)
    row: dict[str, Any] = {"editor": "right answer", "source": "–", "prompts": len(prompts)}
    return row | distances_unedited(case, prompts, "right")


def _first(found: Found) -> Mapping[str, Mapping[str, Any]]:
    """Return what is measured of the first editor of which something is."""
    return next((prompts for prompts in found.values() if prompts), {})


def _judges(domain: Domain, found: Found) -> Iterator[str]:
    """Say which of the networks that judge have a part in making the edits."""
    if domain.classifier is not None:
        error = (
            ", others kept and the counterfactual error" if _draws(domain) else " and others kept"
        )
        told = f"No edit was made by the classifier, off which success{error} are read."
        if domain.reader is not None:
            names = ", ".join(domain.reader.ATTRIBUTES).replace("_", " ")
            told += (
                f" It reads {names}: the one that a prompt is about "
                "tells success, of the others those count as kept that read as before."
            )
        yield told
    for network, key, name in (
        (domain.clip, "clip", "CLIP"), (domain.identity, "identity", "identity network"),
    ):  # fmt: skip
        its = [class_of(editor).name for editor in found if key in class_of(editor).optimizes]
        if network is not None and its:
            yield (
                f"The {name} that judges also had a part in the edits of {', '.join(its)}: its "
                "figures flatter these."
            )


def _as_one(case: Case, ours: Cost | None) -> Cost | None:
    """Return our cost where all prompts are done as one; None: not measured."""
    found = case.store.find(together(case))
    if found is None or ours is None:
        return None
    return Cost(found["seconds"]["selection"], found["seconds"]["training"], ours.edit)


def _row_as_one(case: Case, cost: Cost | None, n: int) -> dict[str, Any]:
    row: dict[str, Any] = {"editor": f"{class_of(OURS).name}, {AS_ONE}"}
    if cost is not None:
        row |= {"selection": cost.selection, "training": cost.training, "edit": cost.edit}
        row |= {"total": cost.total(case.plan.images, n)}
        row |= {"break_even": "–", "break_even_as_one": "–"}
    return row


def _break_even(ours: Cost, theirs: Cost) -> int | str:
    """Return from how many images a prompt on ours is cheaper, "up to" how many, or why never."""
    alike = abs(ours.edit - theirs.edit) <= _ALIKE * max(ours.edit, theirs.edit)
    if alike and ours.beforehand > theirs.beforehand:
        return "edits alike"
    even = ours.cheaper_from(theirs)
    if even is not None:
        return even
    until = ours.cheaper_to(theirs)
    return "never" if until is None else f"up to {until:,}"
