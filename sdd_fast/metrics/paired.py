"""Whether one editor is better than another on the same images: difference, interval and p-value.

The two see the same faces, so that a face which is hard for both does not blur the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .. import draws
from ..checks import check_count
from ..shield import shielded
from .bootstrap import RESAMPLES, bootstrap_interval
from .interval import CONFIDENCE, Interval

ALTERNATIVES = ("two-sided", "greater", "less")
FLIPS = 100_000
"""Random flips of signs where there are too many to try all."""
_EXACT = 16  # differences whose 2¹⁶ signs are all tried
_AT_ONCE = 2**22


@dataclass(frozen=True)
class PairedDifference:
    """How much more one editor has than another, on the same images.

    Args:
        difference: mean of a − b, with its bootstrap interval over images.
        p_value: of the sign-flip test, see `sign_flip_test`.
        alternative: what the test asks: whether a is other ("two-sided"), "greater" or "less".
    """

    difference: Interval
    p_value: float
    alternative: str

    def __str__(self) -> str:
        return f"{self.difference}, p = {self.p_value:.2g} ({self.alternative})"

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PairedDifference:
        """The difference that `to_json` wrote."""
        return cls(**{**content, "difference": Interval.from_json(content["difference"])})


@shielded(grad=False)
def paired_difference(
    a: Tensor | Sequence[float],
    b: Tensor | Sequence[float],
    *,
    alternative: str = "two-sided",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compare the figures of two editors on the same images, image by image.

    Args:
        a, b: [N] of the same images in the same order, true-or-false or numbers. An image of which
            one of them is NaN is left out.

    Raises:
        ValueError: other numbers of images, fewer than 5 of them, or an unknown alternative.
    """
    rows_a, rows_b = (torch.as_tensor(v).detach().cpu().double() for v in (a, b))
    if rows_a.ndim != 1 or rows_a.shape != rows_b.shape:
        raise ValueError(
            "a paired test compares values of the same images, [N] and [N]; got "
            f"{list(rows_a.shape)} and {list(rows_b.shape)}"
        )
    difference = rows_a - rows_b
    difference = difference[~difference.isnan()]
    p_value = sign_flip_test(difference, alternative=alternative, seed=seed)
    interval = bootstrap_interval(difference, confidence=confidence, resamples=resamples, seed=seed)
    return PairedDifference(interval, p_value, alternative)


@shielded(grad=False)
def sign_flip_test(
    differences: Tensor | Sequence[float],
    *,
    alternative: str = "two-sided",
    flips: int = FLIPS,
    seed: int = 0,
) -> float:
    """Return the p-value of a mean difference: how often chance makes one as large (Fisher 1935).

    If the two were alike, each difference could as well have the other sign. Of up to 16 that are
    not 0, all signs are tried, and the p-value is exact; of more, `flips` random ones, and the
    smallest p-value is 1 / (flips + 1). Of true-or-false values it is McNemar's test.

    Args:
        differences: [N] of pairs that are independent of each other: of images under one prompt; or
            of means, one for each prompt and seed.

    Raises:
        ValueError: no differences, NaN or infinity, or an unknown alternative.
    """
    if alternative not in ALTERNATIVES:
        raise ValueError(
            f"alternative must be one of {', '.join(ALTERNATIVES)}, got {alternative!r}"
        )
    check_count("flips", flips)
    d = torch.as_tensor(differences, dtype=torch.float64).detach().cpu()  # of lists, too
    if d.ndim != 1 or len(d) < 1 or not torch.isfinite(d).all():
        raise ValueError(f"expected finite differences [N] with N ≥ 1, got {list(d.shape)}")
    d = d[d != 0]  # no sign changes what is 0
    if len(d) == 0:
        return 1.0
    exact = len(d) <= _EXACT
    count = 2 ** len(d) if exact else flips
    rng = draws.stream(seed, "sign flips")
    # Sums that are equal but for rounding are equal.
    observed, slack = float(d.sum()), 1e-9 * float(d.abs().sum())
    extreme = 0
    for part in torch.arange(count).split(max(1, _AT_ONCE // len(d))):
        if exact:
            bits = (part[:, None] >> torch.arange(len(d))) & 1
        else:
            bits = torch.randint(2, (len(part), len(d)), generator=rng)
        sums = (2.0 * bits.double() - 1.0) @ d.abs()
        extreme += int(_as_extreme(sums, observed, slack, alternative).sum())
    return extreme / count if exact else (extreme + 1) / (count + 1)


def _as_extreme(sums: Tensor, observed: float, slack: float, alternative: str) -> Tensor:
    if alternative == "greater":
        return sums >= observed - slack
    if alternative == "less":
        return sums <= observed + slack
    return sums.abs() >= abs(observed) - slack


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that hold for all comparisons together (Holm 1979).

    Args:
        p_values: comparison → p-value of it alone, 0…1.

    Raises:
        ValueError: one is NaN or outside of 0…1.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:  # also true of NaN
            raise ValueError(
                f"a p-value lies between 0 and 1, got {p!r} of {name!r}; leave out what was not "
                "tested"
            )
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
