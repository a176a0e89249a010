"""Table 2: our own editor beside StyleCLIP, the same mapper under another loss."""

from __future__ import annotations

from .case import Case
from .editing import OURS, class_of, editors
from .table import Table
from .table1 import comparison


def keys(case: Case) -> list[str]:
    """Return ours and the editors of StyleCLIP."""
    return [key for key in editors(case) if key == OURS or "StyleCLIP" in class_of(key).name]


def tables(case: Case) -> list[Table]:
    """Return the tables, of what is measured so far."""
    return comparison(case, keys(case), "table2", "Table 2, SDD and StyleCLIP")
