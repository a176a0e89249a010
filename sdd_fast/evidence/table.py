"""A table, as Markdown, CSV and JSON: cells are intervals, numbers, texts, or not measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..files import PathLike, settled, write_json, write_text
from ..metrics.interval import Interval

NOT_MEASURED = "not measured"

Cell = Interval | float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        key: in rows, CSV and JSON. title: for people.
        form: of a number, as `format` takes it. least: a smaller number is told as below it.
        best: "high" or "low", which of its figures is set in bold; "" none.
    """

    key: str
    title: str
    form: str = ".3f"
    best: str = ""
    least: float = 0.0

    def shown(self, cell: Cell) -> str:
        """Return a cell of this column as people read it."""
        if isinstance(cell, float) and cell < self.least:
            return f"< {self.least:g}"
        return shown(cell, self.form)


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: of its files. rows: column key → cell; a key that a row lacks is not measured.
        notes: below it.
        ranked: indices of rows among which the best is looked for; None: all.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    notes: Sequence[str] = ()
    ranked: Sequence[int] | None = None

    @property
    def measured(self) -> bool:
        """Whether it has a figure; counts alone are of nothing yet."""
        return any(isinstance(cell, Interval | float) for row in self.rows for cell in row.values())

    def markdown(self) -> str:
        """Return the table and its notes; the best figure of a column is bold."""
        best = {column.key: self._best(column) for column in self.columns}
        lines = [
            "| " + " | ".join(column.title for column in self.columns) + " |",
            "|" + "---|" * len(self.columns),
        ]
        for i, row in enumerate(self.rows):
            cells = []
            for column in self.columns:
                text = column.shown(row.get(column.key))
                cells.append(f"**{text}**" if i in best[column.key] else text)
            lines.append("| " + " | ".join(cells) + " |")
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines)

    def csv(self) -> str:
        """Return all figures with all digits; of an interval its ends as well."""
        titles: list[str] = []
        for column in self.columns:
            estimated = any(isinstance(row.get(column.key), Interval) for row in self.rows)
            ends = ("", "_low", "_high") if estimated else ("",)
            titles += [column.key + end for end in ends]
        out = io.StringIO()
        writer = csv.DictWriter(out, titles, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            flat: dict[str, Any] = {}
            for key, cell in row.items():
                if isinstance(cell, Interval):
                    flat |= {key: cell.estimate, f"{key}_low": cell.low, f"{key}_high": cell.high}
                else:
                    flat[key] = "" if cell is None else cell
            writer.writerow({key: value for key, value in flat.items() if key in titles})
        return out.getvalue()

    def to_json(self) -> dict[str, Any]:
        rows = [
            {k: asdict(v) if isinstance(v, Interval) else v for k, v in row.items()}
            for row in self.rows
        ]
        return {"name": self.name, "title": self.title, "rows": rows, "notes": list(self.notes)}

    def write(self, folder: PathLike) -> None:
        """Write NAME.md, NAME.csv and NAME.json."""
        place = settled(folder)
        write_text(place / f"{self.name}.md", f"# {self.title}\n\n{self.markdown()}\n")
        write_text(place / f"{self.name}.csv", self.csv())
        write_json(place / f"{self.name}.json", self.to_json())

    def _best(self, column: Column) -> set[int]:
        """Return the rows with the best figure of a column."""
        among = range(len(self.rows)) if self.ranked is None else self.ranked
        values = {i: _number(self.rows[i].get(column.key)) for i in among}
        known = {i: value for i, value in values.items() if value is not None}
        if not column.best or len(known) < 2:
            return set()
        wanted = max(known.values()) if column.best == "high" else min(known.values())
        found = {i for i, value in known.items() if value == wanted}
        return found if len(found) < len(known) else set()


def shown(cell: Cell, form: str = ".3f") -> str:
    """Return a cell as people read it: "0.78 [0.70, 0.85]"."""
    if cell is None:
        return NOT_MEASURED
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Interval):
        mean, low, high = (format(value, form) for value in (cell.estimate, cell.low, cell.high))
        return mean if low == high else f"{mean} [{low}, {high}]"
    return f"{cell:,}" if isinstance(cell, int) else format(cell, form)


def _number(cell: Cell) -> float | None:
    if isinstance(cell, Interval):
        return cell.estimate
    return float(cell) if isinstance(cell, int | float) else None
