"""What follows from the samples of a measurement, and which of it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .equations import Plan, UnitSeconds, break_even, diffusion_total, of_steps
from .record import Record
from .stages import Stage
from .units import SDEDIT_STEPS, SHORTER, SOLVER_STEPS, Unit


def results_of(
    record: Record, units: Sequence[Unit], stages: Sequence[Stage], plan: Plan
) -> dict[str, Any]:
    """Return measured units and stages, and the totals computed of them, JSON values only.

    Keys: "plan"; "units", "stages" and "ceilings", measured; "ours" and "others", computed, in
    seconds: of "ours" "selection", "training", "beforehand" and "edit", "total" for the plan; of
    each of the others "edit", "total" and "break_even", None where SDD is never cheaper.
    """
    found = UnitSeconds(
        **{name: record.spread(name).median for name in ("evaluation", "setup", "step", "edit")}
    )
    ours = {
        "selection": found.selection(plan),
        "training": found.training(plan),
        "beforehand": found.beforehand(plan),
        "edit": found.edit,
        "total": found.total(plan),
    }
    others = {}
    for name, edit, how in _others(record):
        even = break_even(ours["beforehand"], found.edit, edit)
        total = diffusion_total(edit, plan)
        others[name] = {"edit": edit, "edit_is": how, "total": total, "break_even": even}
    limits = _ceilings(record, stages)
    return {
        "plan": asdict(plan),
        "units": {
            unit.name: {
                "what": unit.what, **asdict(record.spread(unit.name)),
                "samples": len(record.samples[unit.name]),
            }
            for unit in units
        },
        "stages": [_stage(record, one, limits) for one in stages if one.unit != "ceiling"],
        "ceilings": limits,
        "ours": ours,
        "others": others,
    }  # fmt: skip


def _others(record: Record) -> list[tuple[str, float, str]]:
    """Name, seconds of an edit, and whether these are measured, of every other editor."""
    whole = f"sdedit-{SDEDIT_STEPS}"
    if whole in record.samples:
        by_ddim, how = record.spread(whole).median, "measured"
    else:
        few, more = ((n, record.spread(f"sdedit-{n}").median) for n in SHORTER)
        by_ddim = of_steps(few, more, SDEDIT_STEPS)
        how = f"computed from {SHORTER[0]} and {SHORTER[1]} steps"
    solver = record.spread(f"solver-{SOLVER_STEPS}").median
    return [
        (f"SDEdit, {SDEDIT_STEPS} DDIM steps", by_ddim, how),
        (f"SDEdit, {SOLVER_STEPS} DPM-Solver++ steps", solver, "measured"),
    ]


def _ceilings(record: Record, stages: Sequence[Stage]) -> dict[str, float]:
    """FLOP/s of the product and bytes/s of the copy."""
    rates: dict[str, float] = {}
    for one in stages:
        if one.unit == "ceiling":
            work, median = record.work[one.key], record.spread(one.key).median
            rates["flop_per_s"] = max(rates.get("flop_per_s", 0.0), work.flop / median)
            if not work.flop:
                rates["bytes_per_s"] = work.moved / median
    return rates


def _stage(record: Record, one: Stage, limits: dict[str, float]) -> dict[str, Any]:
    work, spread = record.work[one.key], record.spread(one.key)
    floor = max(work.flop / limits["flop_per_s"], work.moved / limits["bytes_per_s"])
    return {
        "unit": one.unit,
        "stage": one.name,
        "seconds": spread.median * one.per_unit,
        "flop_per_s": work.flop / spread.median,
        "bytes_per_s": work.moved / spread.median,
        "floor": floor * one.per_unit,
        "limit": "products" if floor == work.flop / limits["flop_per_s"] else "memory",
    }
