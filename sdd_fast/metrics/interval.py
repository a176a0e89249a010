"""An estimate with its confidence interval, and that of a share, which has a closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

CONFIDENCE = 0.95
"""Of all intervals, unless another is given."""


@dataclass(frozen=True)
class Interval:
    """An estimate, and between which values its true one lies.

    Args:
        estimate: of the values at hand. low, high: the interval's ends.
        confidence: share of such intervals that hold the true value, 0…1.
        method: how the interval was made, such as "BCa bootstrap".
        count: of the values that it was estimated from.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    count: int

    def __str__(self) -> str:
        # As many decimals as show three digits of the width.
        width = self.high - self.low
        decimals = max(0, 2 - math.floor(math.log10(width))) if width > 0 else 3
        return f"{self.estimate:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"

    def apart(self, other: Interval) -> bool:
        """Tell whether the two intervals have no value in common, of which each has a width.

        One without any, as of numbers that all agree, only says that nothing varied in these
        images, and is apart from none. That of a share always has a width, see `share_interval`.
        """
        if not (self.low < self.high and other.low < other.high):
            return False
        return self.high < other.low or other.high < self.low

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Interval:
        """The interval that `to_json` wrote."""
        return cls(**content)


def share_interval(hits: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the Wilson score interval of a share (Wilson 1927).

    Unlike a bootstrap it stays honest where all agree: of 64 successes in 64 images, a resample
    never holds a failure, and a bootstrap would claim certainty.

    Args:
        hits: how many of `count` have it.

    Raises:
        ValueError: no images, more hits than images, or a confidence outside 0…1.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"expected 0 ≤ hits ≤ count and count ≥ 1, got {hits} of {count}")
    z = NormalDist().inv_cdf((1 + check_confidence(confidence)) / 2)
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = share * (1 - share) / count + (z / (2 * count)) ** 2
    half = z / (1 + z * z / count) * math.sqrt(spread)
    # At 0 and 1 the ends are exact; rounding would leave the estimate outside.
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == count else middle + half
    return Interval(share, low, high, confidence, "Wilson", count)


def student_t(confidence: float, freedom: int) -> float:
    """Return how many standard errors to each side hold `confidence` of Student's t.

    Abramowitz and Stegun 1964, 26.7.5: of 95 %, too small by 3 % for 2 degrees of freedom, and by
    0.1 % for 5.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + first + second + third


def check_confidence(confidence: float) -> float:
    """Return the confidence; ValueError unless it lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence!r}")
    return confidence
