"""Geometry of the report's figures: converts numbers to positions in percent.

The page's template draws the figures as SVG. Positions are percentages, so a figure adapts to the
width of the screen while text and dots keep their size. Colours are CSS variables, so one figure
works in dark mode and in print.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MIN_BINS, MAX_BINS = 10, 32


def signed_position(auroc: float | None, direction: str) -> float | None:
    """Returns the position of an oriented AUROC on the two-sided axis, in percent.

    The axis runs from 1.0 (more true of A) at the left edge over 0.5 in the middle to 1.0 (more
    true of B) at the right edge.

    Args:
        auroc: Oriented AUROC in [0, 1], or None.
        direction: "A" or "B".

    Returns:
        A position in [0, 100], or None when the number is missing.
    """
    if auroc is None or not math.isfinite(auroc):
        return None
    value = min(max(auroc, 0.0), 1.0)
    return round(100 * (1 - value if direction == "A" else value), 2)


def forest_row(
    auroc: float | None, low: float | None, high: float | None, direction: str
) -> dict[str, float | None]:
    """Returns a row of the forest plot: dot ``x``, interval ``left`` and ``right``, in percent."""
    ends = [signed_position(end, direction) for end in (low, high)]
    known = sorted(end for end in ends if end is not None)
    both = len(known) == 2
    return {
        "x": signed_position(auroc, direction),
        "left": known[0] if both else None,
        "right": known[1] if both else None,
    }


def histogram(
    scores_a: ArrayLike, scores_b: ArrayLike, bins: int | None = None
) -> dict[str, Any] | None:
    """Returns two histograms on one axis, to be drawn back to back.

    Counts are divided by the size of their set, so that sets of different sizes can be compared,
    and both histograms are scaled by the tallest bar.

    Args:
        scores_a: Scores of A's images, any shape; NaN and infinities are ignored.
        scores_b: Scores of B's images.
        bins: Number of bins over the joint range; by default twice the square root of the smaller
            set's size, clipped to [10, 32].

    Returns:
        None when a set has no score. Otherwise ``low`` and ``high`` (ends of the axis), ``ticks``
        (round values as {x, label}), ``tallest`` (share of a set in the tallest bar), ``a`` and
        ``b`` (lists of {x, width, height}), ``mean_a`` and ``mean_b`` (positions of the means).
        Positions and sizes are in percent.
    """
    a, b = (_finite(s) for s in (scores_a, scores_b))
    if not a.size or not b.size:
        return None
    if bins is None:
        bins = int(np.clip(round(2 * math.sqrt(min(a.size, b.size))), MIN_BINS, MAX_BINS))
    low = float(min(a.min(), b.min()))
    high = float(max(a.max(), b.max()))
    if high - low <= 1e-9 * max(1.0, abs(low)):  # all scores equal: one bar in the middle
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(s, edges)[0] / s.size for s in (a, b)]
    tallest = max(float(s.max()) for s in shares)
    return {
        "low": low,
        "high": high,
        "ticks": [
            {"x": round(100 * (value - low) / (high - low), 2), "label": label}
            for value, label in _round_values(low, high)
        ],
        "tallest": tallest,
        "a": _bars(shares[0] / tallest, bins),
        "b": _bars(shares[1] / tallest, bins),
        "mean_a": round(100 * (float(a.mean()) - low) / (high - low), 2),
        "mean_b": round(100 * (float(b.mean()) - low) / (high - low), 2),
    }


def _round_values(low: float, high: float) -> list[tuple[float, str]]:
    """Returns two to five round numbers in an interval, with their labels."""
    magnitude = 10.0 ** math.floor(math.log10(high - low))
    step = next(
        s
        for s in (magnitude * f for f in (0.2, 0.5, 1.0, 2.0))
        if math.floor(high / s) - math.ceil(low / s) < 5
    )
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [
        (i * step, f"{i * step:.{decimals}f}".replace("-", "−")) for i in range(first, last + 1)
    ]


def _finite(scores: ArrayLike) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64).ravel()
    return values[np.isfinite(values)]


def _bars(shares: Sequence[float] | np.ndarray, bins: int) -> list[dict[str, float]]:
    width = 100 / bins
    return [
        {
            "x": round(i * width, 3),
            "width": round(0.86 * width, 3),
            "height": round(100 * float(s), 2),
        }
        for i, s in enumerate(shares)
        if s > 0
    ]
