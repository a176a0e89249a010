"""The tables of what `turns.py` measures: selection, steps of a training, edits."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sdd_fast.distillation.config import DistillConfig  # noqa: E402
from sdd_fast.timing.equations import break_even, of_steps  # noqa: E402

# Of a prompt: images and timesteps of its selection, images that its training sees in all.
SEARCHED = (16, 19)
SEEN = {
    "default settings": DistillConfig.steps * DistillConfig.batch_size,
    "authors": 4000 * 2,
}

# What the ratios of a table refer to: the first that a case has.
REFERENCES = ("ours", "ours, default settings", "ours, default settings, kernel by kernel",
              "ours, kernel by kernel")  # fmt: skip

SELECTION = """# Selection

What selection consists of, timed by `benchmarks/time_selection.py`, which says what each side is;
[baselines/](../benchmarks/baselines) has *paper*, the authors' recipe written plainly, and *tuned*,
what an expert gets from stock parts. At full size (StyleGAN2-1024, Stable Diffusion 1.x at 512²)
the weights are random, and *paper*, of which nothing is shared, is timed at one timestep and counts
for all. In brackets: 20th and 80th percentile of so many samples, for which the sides took turns.
Of one sample no spread is known, nor did the sides alternate. Compare within a case.

Where nothing else is said, *tuned* and *ours* are in bfloat16 on a CPU. The teacher of faces64 does
not bear that: `sdd bench precision` refuses it, and `auto` takes float32 once it was asked.
"""


def selection_part(results: dict[Path, dict[str, Any]]) -> list[str]:
    parts = [SELECTION]
    for result in results.values():
        parts.append(f"## Selection: {result['device']}\n")
        parts.append(versions(result))
        parts += ["\n".join(selection_table(row)) + "\n" for row in result["cases"]]
    if not any(path.parent.name.startswith("nvidia") for path in results):
        parts.append("On a GPU: not measured.\n")
    return parts


def versions(result: dict[str, Any]) -> str:
    return (
        f"Clock: {result['clock']}; torch {result['torch']}, diffusers {result['diffusers']}, "
        f"Python {result['python']}, sdd_fast {result['sdd_fast']}.\n"
    )


def selection_table(row: dict[str, Any]) -> list[str]:
    """Every side of a case, the slowest first."""
    reference = next((name for name in REFERENCES if name in row["sides"]), "ours")
    lines = [f"| {row['case']} | seconds | samples | vs {reference} |", "|---|---|---|---|"]
    ours = row["sides"].get(reference, {}).get("median_ms")
    for side, times in sorted(row["sides"].items(), key=lambda item: -item[1]["median_ms"]):
        median, low, high = (times[f"{name}_ms"] / 1e3 for name in ("median", "p20", "p80"))
        samples = len(row["samples_s"][side])
        spread = f" [{low:.3g}, {high:.3g}]" if samples > 1 else ""
        ratio = "–" if ours is None or side == reference else f"{times['median_ms'] / ours:.2f}×"
        peak = row["peak_gb"].get(side)
        told = [side, row.get("notes", {}).get(side), None if peak is None else f"{peak:.1f} GB"]
        name = "; ".join(part for part in told if part)
        lines.append(f"| {name} | {median:.3g}{spread} | {samples} | {ratio} |")
    return lines


TIME_COST = f"""# Time cost

A step of a training, and an edit by SDD and by other editors, timed by `benchmarks/time_cost.py`.
Everything is measured but for what is called computed: editors whose steps take seconds are timed
at two small numbers of steps, from which the whole follows, since all their steps take the same;
and numbers of images follow from Eq. 15 of the paper. Samples of several calls add up. At full size
all weights are random, elsewhere those of editors that need a U-Net of their own: what is timed are
architectures, not results. `sdd bench time-cost` measures your own networks, see the
[guide](guide.md#what-edits-cost).

*SDD cheaper from*: images edited for a prompt from which on SDD takes less time, its selection
({SEARCHED[0]} images at {SEARCHED[1]} timesteps) and training included; of a training that sees
{SEEN["default settings"]:,} images, as by default, and one that sees {SEEN["authors"]:,}, as the
authors'. For fewer images the other editor is the one to take. What SDD has then as well: an edit
of one forward pass, which can be stronger, weaker or reversed at no further cost, alone or in
batches.
"""


ON_A_GPU = """Steps are recorded as CUDA graphs by default, which *kernel by kernel* are not; nor
are those of *paper* and *tuned*. Launches are most of a step as small as that of faces64. At full
size, and for ten prompts together, no step was recorded, and kernel by kernel ours wins nothing
over *tuned* at full size. Edits, and steps within 24 GB: not measured, the time on the GPU ran out.
GB: what torch had reserved in the process of all sides.
"""


def time_cost_part(results: dict[Path, dict[str, Any]]) -> list[str]:
    """The tables of steps and edits; `results` of every suite, as selection belongs to a prompt."""
    own = {path: result for path, result in results.items() if path.stem == "time_cost"}
    if not own:
        return []
    parts = [TIME_COST]
    for path, result in own.items():
        parts.append(f"## Time cost: {result['device']}\n")
        parts.append(versions(result))
        rows = {row["case"].split(":")[0]: row for row in result["cases"]}
        searches = results.get(path.with_stem("selection"), {"cases": []})["cases"]
        steps_alone = not any(name.startswith("edit") for name in rows)
        parts += [ON_A_GPU] if path.parent.name.startswith("nvidia") and steps_alone else []
        for name, row in rows.items():
            if name.startswith("edit"):
                networks = name.split(", ")[1]
                steps = rows.get(f"training step, {networks}")
                before = beforehand(steps, networks, searches)
                lines = edit_table(row, before)
                if drawn := picture(path, result, row, before):
                    lines += ["", f"![{drawn.title}](images/{drawn.file})"]
            else:
                lines = selection_table(row) + step_note(row)
            parts.append("\n".join(lines) + "\n")
    if not any(path.parent.name.startswith("nvidia") for path in own):
        parts.append("On a GPU: not measured.\n")
    rows = [row for result in own.values() for row in result["cases"]]
    there = " ".join(name for row in rows for name in row["sides"])
    lacking = {"FLUX.2-klein": "FLUX.2-klein, which needs a GPU", "DiffAE": "DiffAE"}
    if told := [words for editor, words in lacking.items() if editor not in there]:
        parts.append(f"{', and '.join(told)}: not measured.\n")
    return parts


def step_note(row: dict[str, Any]) -> list[str]:
    """Say what a small step does not win; nothing of other cases, or where it wins."""
    sides = row["sides"]
    if not row["case"].startswith("training step, faces64") or not {"ours", "tuned"} <= set(sides):
        return []
    ratio = sides["tuned"]["median_ms"] / sides["ours"]["median_ms"]
    if ratio > 1.1:
        return []
    words = (
        f"Networks this small leave a step little to win: *tuned* takes {ratio:.2f} of the time of "
        "ours. Their convolutions run near the rate of a large matrix product, and the rest is "
        "thousands of small calls, which either side makes. What is saved is in the number of "
        "steps, and in training several prompts together."
    )
    return ["", *textwrap.wrap(words, 100)]


def beforehand(
    step: dict[str, Any] | None, networks: str, searches: list[dict[str, Any]]
) -> list[float] | None:
    """Seconds of selection and training of a prompt, of both trainings; None: not measured."""
    found = [row for row in searches if row["case"].startswith(f"HQS, {networks}: ")]
    sides = ("ours, default settings", "ours")
    if not found or step is None or not all(side in step["sides"] for side in sides):
        return None
    images, timesteps = map(int, re.findall(r"\d+", found[0]["case"].split(":")[1]))
    evaluation = found[0]["sides"]["ours"]["median_ms"] / 1e3 / (images * timesteps)
    of_image = [step["sides"][side]["median_ms"] / 1e3 / step["images"] for side in sides]
    selection = evaluation * SEARCHED[0] * SEARCHED[1]
    return [selection + one * seen for one, seen in zip(of_image, SEEN.values(), strict=True)]


@dataclass(frozen=True)
class Picture:
    """Time of all edits of a prompt against their number, for `sdd_fast.timing.report`.

    Args:
        file: its name. ours: training → seconds beforehand and of an edit. others: of an edit.
    """

    file: str
    title: str
    ours: dict[str, tuple[float, float]]
    others: dict[str, float]

    @property
    def digest(self) -> str:
        """What is drawn, short: the picture of other figures is out of date."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:16]


def picture(
    path: Path, result: dict[str, Any], row: dict[str, Any], before: list[float] | None
) -> Picture | None:
    """The picture of a table of edits; None where a part of it is not measured."""
    times = {name: one[0] / row["images"] for name, one in edit_times(row).items()}
    ours = times.pop("ours", None)
    if before is None or ours is None:
        return None
    networks = row["case"].split(":")[0].split(", ")[1]
    named = f"time-cost-{path.parent.name}-{networks}".replace(" ", "-")
    trainings = zip(("SDD, default settings", "SDD, the authors' settings"), before, strict=True)
    return Picture(
        f"{named}.png",
        f"One prompt, {networks}, on {result['device']}",
        {name: (seconds, ours) for name, seconds in trainings},
        times,
    )


def pictures(results: dict[Path, dict[str, Any]]) -> list[Picture]:
    """Those of `time_cost_part`."""
    found = []
    for path, result in results.items():
        rows = {row["case"].split(":")[0]: row for row in result["cases"]}
        searches = results.get(path.with_stem("selection"), {"cases": []})["cases"]
        for name, row in rows.items() if path.stem == "time_cost" else ():
            if name.startswith("edit"):
                networks = name.split(", ")[1]
                before = beforehand(rows.get(f"training step, {networks}"), networks, searches)
                found.append(picture(path, result, row, before))
    return [one for one in found if one is not None]


def edit_times(row: dict[str, Any]) -> dict[str, tuple[float, int, str]]:
    """Seconds of a turn of every editor, number of samples, and their spread or how computed."""
    sides, editors = row["sides"], row.get("editors", {})
    shorter = {side for one in editors.values() for _, side in (one["few"], one["more"])}
    times = {}
    for name, side in sides.items():
        if name not in shorter:
            samples = len(row["samples_s"][name])
            low, high = (side[f"{p}_ms"] / 1e3 / row["images"] for p in ("p20", "p80"))
            spread = f" [{low:.3g}, {high:.3g}]" if samples > 1 else ""
            times[name] = (side["median_ms"] / 1e3, samples, spread)
    for name, one in editors.items():
        few, more = ((n, side) for n, side in (one["few"], one["more"]))
        if few[1] in sides and more[1] in sides:
            points = [(n, sides[side]["median_ms"] / 1e3) for n, side in (few, more)]
            samples = min(len(row["samples_s"][side]) for _, side in (few, more))
            how = f" (computed from {few[0]} and {more[0]} steps)"
            times[name] = (of_steps(points[0], points[1], one["steps"]), samples, how)
    return times


def edit_table(row: dict[str, Any], before: list[float] | None) -> list[str]:
    """Seconds of an edit of one image, by every editor, the slowest first."""
    times = edit_times(row)
    ours = times.get("ours", (0.0,))[0] / row["images"]
    lines = [
        f"| {row['case']} | seconds an image | samples | vs ours | SDD cheaper from (computed) |",
        "|---|---|---|---|---|",
    ]
    for name, (whole, samples, how) in sorted(times.items(), key=lambda item: -item[1][0]):
        seconds, note = whole / row["images"], row["notes"].get(name)
        ratio, even = "–", "–"
        if ours and name != "ours":
            ratio = f"{seconds / ours:.3g}×"
            even = "not measured"
            if before is not None:
                counts = [break_even(one, ours, seconds) for one in before]
                even = " / ".join("never" if n is None else f"{n:,} images" for n in counts)
        told = f"{name}; {note}" if note else name
        lines.append(f"| {told} | {seconds:.3g}{how} | {samples} | {ratio} | {even} |")
    return lines
