"""Units of work, each kept in a file as soon as it is done, and found again by what it depends on.

An interrupted table therefore goes on where it was, a unit that is done is never done again, and a
changed setting makes new units beside the old ones. Tables are made of what is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files import PathLike, read_json, settled, write_json
from ..images import save_png
from ..progress import Listener, Task

_log = logging.getLogger(__name__)

FORMAT = "sdd_fast evidence 1"


@dataclass(frozen=True)
class Outcome:
    """What a unit leaves.

    Args:
        values: JSON values only.
        strips: name → [C, 3, R, R] in [-1, 1], some square images to show.
    """

    values: Mapping[str, Any]
    strips: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """Something to measure, that is done as a whole or not at all.

    Args:
        name: of its files, such as "table3/largest-hqs-seed-0".
        depends: everything that the outcome depends on, JSON values only.
        run: measures it.
        turn: units of an earlier turn come first, so that a small whole table is there early.
        cost: about how many seconds it takes, for the time that is left.
    """

    name: str
    depends: Mapping[str, Any]
    run: Callable[[], Outcome]
    turn: int = 0
    cost: int = 1

    @property
    def digest(self) -> str:
        """Tells units of one name apart by what they depend on."""
        told = json.dumps(self.depends, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(told.encode(), digest_size=5).hexdigest()


class Store:
    """The outcomes in a folder.

    Args:
        origin: kept beside each: on what and by which versions it was measured.
    """

    def __init__(self, folder: PathLike, origin: Mapping[str, str] | None = None) -> None:
        self.folder = settled(folder)
        self.origin = dict(origin or {})

    def find(self, unit: Unit) -> dict[str, Any] | None:
        """Return the values of a unit; None if it was not measured.

        Raises:
            ValueError: its file is damaged.
        """
        content = self._read(unit)
        return None if content is None else dict(content["values"])

    def origins(self, units: Sequence[Unit]) -> list[tuple[dict[str, str], int]]:
        """Return the different origins of those units that were measured, and of how many each is;
        that of most comes first."""
        counts: Counter[tuple[tuple[str, str], ...]] = Counter()
        for unit in {(unit.name, unit.digest): unit for unit in units}.values():
            content = self._read(unit)
            if content is not None:
                counts[tuple(content.get("origin", {}).items())] += 1
        return [(dict(origin), count) for origin, count in counts.most_common()]

    def _read(self, unit: Unit) -> dict[str, Any] | None:
        path = self.folder / f"{unit.name}-{unit.digest}.json"
        if not path.exists():
            return None
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise ValueError(f"it is of the format {content['format']!r}")
            return {**content, "values": dict(content["values"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete it, and it is measured again"
            ) from error

    def keep(self, unit: Unit, outcome: Outcome) -> None:
        """Write an outcome; the values come last, and say that it is there."""
        for name, images in outcome.strips.items():
            # [C, 3, R, R] -> one picture [3, R, C·R]
            save_png(self._strip(unit, name), torch.cat(list(images.cpu()), 2))
        content = {
            "format": FORMAT, "origin": self.origin, "depends": unit.depends,
            "values": outcome.values,
        }  # fmt: skip
        write_json(self.folder / f"{unit.name}-{unit.digest}.json", content)

    def strip(self, unit: Unit, name: str) -> Tensor | None:
        """Return images of a unit, [C, 3, R, R] in [-1, 1]; None if there are none."""
        path = self._strip(unit, name)
        if self.find(unit) is None or not path.exists():
            return None
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))  # [R, C·R, 3]
        whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1
        return torch.stack(whole.split(whole.shape[1], 2))

    def _strip(self, unit: Unit, name: str) -> Any:
        return self.folder / f"{unit.name}-{unit.digest}.{name}.png"


def complete(
    units: Sequence[Unit],
    store: Store,
    progress: bool | Listener = True,
    failures: dict[str, str] | None = None,
) -> dict[str, str]:
    """Do the units that were not done, and keep each as soon as it is.

    Args:
        failures: what is returned, filled as it comes, so that an interruption leaves it; None: {}.

    Returns:
        Why units could not be done, by their names: the domain lacks something that they need, a
        training became NaN, or an editor failed in another way, which does not stop the others.

    Raises:
        KeyboardInterrupt: what was done is kept.
    """
    ordered = sorted(units, key=lambda unit: unit.turn)
    left = [unit for unit in ordered if store.find(unit) is None]
    total = sum(unit.cost for unit in units)
    failures = {} if failures is None else failures
    done = total - sum(unit.cost for unit in left)
    with Task("evidence", total, progress, unit="seconds of work", done=done) as task:
        for i, unit in enumerate(left):
            task.advance(0, text=unit.name)
            try:
                if store.find(unit) is None:  # one that stands on it may have done it
                    store.keep(unit, unit.run())
            except (ValueError, FloatingPointError, FileNotFoundError, ImportError) as error:
                failures[unit.name] = str(error)
            except (RuntimeError, TypeError, AttributeError, LookupError) as error:
                failures[unit.name] = f"{type(error).__name__}: {error}"
                _log.warning("%s failed", unit.name, exc_info=True)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"stopped with {len(units) - len(left) + i} of {len(units)} measurements done; "
                    f"they are kept in {store.folder}. Give the same command again to go on"
                ) from None
            task.advance(unit.cost)
    return failures
