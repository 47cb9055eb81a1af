"""What the figures are called, how they are summed up over pictures, and their 95 % intervals.

Intervals: of a mean by the normal distribution (1.96 standard errors), of a share by E. B. Wilson's score interval
(1927), of a median by the percentile bootstrap (1,000 resamples, seeded). They tell how much the choice of pictures
matters, nothing about another training run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959964
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        title: heading of its column.
        how: what sums it up over pictures; "set" is one number of all pictures together, without an interval.
        better: in which direction; "one" means that 1 is best.
        digits: decimals shown.
    """

    title: str
    how: Literal["mean", "share", "median", "set"] = "mean"
    better: Literal["higher", "lower", "one"] = "higher"
    digits: int = 3


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over pictures: its value, the ends of its 95 % interval (None: unknown), and of how many pictures."""

    value: float
    low: float | None
    high: float | None
    count: int

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals meet; True where one is unknown, since nothing can be claimed then."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high

    def distance_from(self, wanted: float) -> Estimate:
        """How far it is from a wanted value, either way, with the interval that this has."""
        value = abs(self.value - wanted)
        if self.low is None or self.high is None:
            return Estimate(value, None, None, self.count)
        near, far = sorted((abs(self.low - wanted), abs(self.high - wanted)))
        return Estimate(value, 0.0 if self.low <= wanted <= self.high else near, far, self.count)


FIGURES: dict[str, Figure] = {
    "hole_psnr": Figure("hole PSNR, dB", digits=2),
    "whole_psnr": Figure("whole PSNR, dB", digits=2),
    "ssim": Figure("SSIM"),
    "hole_ssim": Figure("hole SSIM"),
    "l1": Figure("L1, of 255", better="lower", digits=2),
    "hole_l1": Figure("hole L1, of 255", better="lower", digits=2),
    "sharpness": Figure("sharpness (median)", "median", "one", 2),
    "seam": Figure("seam energy", better="lower", digits=2),
    "feature": Figure("feature distance", better="lower"),
    "hole_feature": Figure("hole feature distance", better="lower"),
    "fd": Figure("FD", better="lower"),
    "hole_fd": Figure("hole FD", better="lower"),
    "identity": Figure("identity distance", better="lower"),
    "identity_same": Figure("under 0.6", "share", digits=3),
    "frechet": Figure("Frechet face distance", "set", "lower", 4),
    "treated": Figure("treated", "share"),
    "mask_left": Figure("mask left", better="lower"),
    "far_change": Figure("far change, of 255", better="lower", digits=2),
    "map_iou": Figure("map IoU"),
    "map_precision": Figure("map precision"),
    "map_recall": Figure("map recall"),
    "gate_masked": Figure("masked: says mask", "share"),
    "gate_bare": Figure("bare: says none", "share"),
    "gate": Figure("gate right", "share"),
    "cover": Figure("covered by the mask"),
    "roomy_psnr": Figure("whole PSNR where the mask covers 12 to 18 %, dB", digits=2),
    "roomy_ssim": Figure("SSIM where the mask covers 12 to 18 %"),
    "untouched": Figure("bare: untouched", "share"),
}
"""Every figure by its key in the JSON, in the order of the tables."""


def estimate(values: Sequence[float] | NDArray[np.floating], how: str) -> Estimate | None:
    """Sums up one figure's values, leaving out nan; None where nothing is left.

    Args:
        values: float[N].
        how: as in `Figure`, but for "set".
    """
    v = np.asarray(values, np.float64)
    v = v[~np.isnan(v)]
    n = len(v)
    if n == 0:
        return None
    if how == "median":
        value = float(np.median(v))
        picks = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
        low, high = np.percentile(np.median(v[picks], axis=1), (2.5, 97.5))
        return Estimate(value, float(low), float(high), n) if n > 1 else Estimate(value, None, None, n)
    value = float(v.mean())
    if how == "share":
        return Estimate(value, *wilson(value, n), n)
    if n < 2:
        return Estimate(value, None, None, n)
    half = Z95 * float(v.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, value - half, value + half, n)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of ``count`` pictures."""
    z2 = Z95**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, Estimate]:
    """Every figure that the rows (one a picture) hold, in the order of `FIGURES`.

    Raises:
        KeyError: a row holds a figure that `FIGURES` does not know.
    """
    present = {key for row in rows for key in row}
    if unknown := present - FIGURES.keys():
        raise KeyError(f"no such figure: {', '.join(sorted(unknown))}")
    result = {}
    for key, figure in FIGURES.items():
        if key in present:
            found = estimate([row.get(key, math.nan) for row in rows], figure.how)
            if found is not None:
                result[key] = found
    return result


def better(a: Estimate, b: Estimate, figure: Figure) -> bool:
    """Whether ``a`` beats ``b`` so that it may be claimed: a better value, and 95 % intervals (of the distance
    from 1, where 1 is best) that do not overlap."""
    if figure.better == "one":
        a, b = a.distance_from(1), b.distance_from(1)
    if a.overlaps(b):
        return False
    return a.value > b.value if figure.better == "higher" else a.value < b.value
