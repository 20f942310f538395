"""Confidence intervals of a proportion."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def check_level(level: float) -> None:
    """Raise ValueError for a confidence level that is none."""
    if not 0 < level < 1:
        raise ValueError(f"expected a confidence level between 0 and 1, got {level}")


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval for the proportion behind k successes in n trials.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", by
    `scipy.stats.binomtest`.

    Args:
        k: Successes, 0 to n.
        n: Trials; with none, nothing is known and the interval is (0, 1).
        level: Confidence level, between 0 and 1.

    Returns:
        Lower and upper bound.

    Raises:
        ValueError: `k` or `level` is out of range.
    """
    check_level(level)
    if not 0 <= k <= n:
        raise ValueError(f"expected 0 <= k <= n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(int(k), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson(
    successes: ArrayLike, trials: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the exact interval of Clopper and Pearson 1934; its coverage is never below the level.

    As `scipy.stats.binomtest` computes it, for arrays, and for successes that are not whole: an
    AUROC counts ties by half.

    Args:
        successes: From 0 to the number of trials, of any shape.
        trials: 1 or more; of a shape that broadcasts with `successes`.
        level: Confidence level, between 0 and 1.

    Returns:
        Lower and upper bounds, of the broadcast shape. NaN where `successes` is.
    """
    check_level(level)
    k, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    tail = (1 - level) / 2
    with np.errstate(all="ignore"):
        low = np.where(k <= 0, 0.0, stats.beta.ppf(tail, k, n - k + 1))
        high = np.where(k >= n, 1.0, stats.beta.isf(tail, k + 1, n - k))
    return low, high
