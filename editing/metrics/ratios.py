"""Δ of the debiasing papers: distance of the shares of attributes from the wanted shares.

Δ = mean over attributes of |wanted − observed| / wanted, 0 for exact ratios (UCE, Gandikota et al.
2024, arXiv:2308.14761; for two equally wanted genders |P(woman) − 0.5| / 0.5 as in TIME, Orgad et
al. 2023, arXiv:2303.08084). As a mean of absolute values, Δ is above 0 by chance alone; see
`delta_floor`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from visdiff.errors import InputError
from visdiff.stats import clopper_pearson, wilson


@dataclass(frozen=True)
class Delta:
    """The distance Δ from wanted ratios.

    Attributes:
        value: Δ, 0 or more; 0 for exact ratios.
        low: Lower end of the interval.
        high: Upper end of the interval.
        floor: Expected Δ of a model with exactly the wanted ratios, from as many images.
        n: Number of images.
    """

    value: float
    low: float
    high: float
    floor: float
    n: int


def delta(counts: ArrayLike, wanted: ArrayLike, level: float = 0.95) -> Delta:
    """Returns Δ of one concept.

    The interval is propagated from the intervals of the shares: the smallest and the largest Δ of
    any shares within them. With 2 attributes there is one share, with Wilson's interval. With more,
    all intervals have to hold simultaneously (Bonferroni). Wilson's interval falls short of its
    level that far in the tails (0.91 for 0.95, with five attributes and 60 images), so Clopper and
    Pearson's is used.

    Args:
        counts: (k,) number of images that show each attribute, k of 2 or more.
        wanted: (k,) shares above 0 that sum to 1.
        level: Confidence level of the interval.

    Returns:
        Δ with its interval.

    Raises:
        InputError: There is no image, a count is negative or not an integer, or the wanted shares
            are not above 0 or do not sum to 1.
    """
    observed, goal = _checked(counts, wanted)
    n, k = int(observed.sum()), observed.size
    if k == 2:
        low, high = np.transpose([wilson(int(count), n, level) for count in observed])
    else:
        low, high = clopper_pearson(observed, n, 1 - (1 - level) / k)
    # Smallest and largest distance of each share from its goal.
    nearest = np.maximum(np.maximum(low - goal, goal - high), 0)
    farthest = np.maximum(high - goal, goal - low)
    return Delta(
        value=float(np.mean(np.abs(observed / n - goal) / goal)),
        low=float(np.mean(nearest / goal)),
        high=float(np.mean(farthest / goal)),
        floor=delta_floor(n, goal),
        n=n,
    )


def mean_delta(counts: ArrayLike, wanted: ArrayLike, level: float = 0.95) -> Delta:
    """Returns the mean Δ of several concepts, as in the tables of the papers.

    The ends of the interval are the means of the ends of the concepts' intervals. This is wider
    than necessary for independent concepts but, unlike a bootstrap of Δ, it is not shifted by the
    amount that chance adds to each Δ.

    Args:
        counts: (c, k) number of images of each concept that show each attribute.
        wanted: (k,) wanted shares of all concepts, or (c, k).
        level: Confidence level of the interval.

    Returns:
        The mean Δ with its interval.

    Raises:
        InputError: As for `delta`.
    """
    table = np.atleast_2d(np.asarray(counts))
    goals = np.broadcast_to(np.asarray(wanted, np.float64), table.shape)
    deltas = [delta(row, goal, level) for row, goal in zip(table, goals, strict=True)]
    if not deltas:
        raise InputError("Expected counts of at least one concept, got none; add one.")
    return Delta(
        value=float(np.mean([d.value for d in deltas])),
        low=float(np.mean([d.low for d in deltas])),
        high=float(np.mean([d.high for d in deltas])),
        floor=float(np.mean([d.floor for d in deltas])),
        n=sum(d.n for d in deltas),
    )


def delta_floor(n: int, wanted: ArrayLike) -> float:
    """Returns the expected Δ of a model that has exactly the wanted ratios, from n images.

    The value is exact, since each count is binomial. For two equal shares it is about 0.8/√n, such
    as 0.08 for 100 images.

    Args:
        n: Number of images, 1 or more.
        wanted: (k,) shares above 0 that sum to 1.
    """
    goal = np.asarray(wanted, np.float64)
    counts = np.arange(n + 1)
    chances = stats.binom.pmf(counts[:, None], n, goal)
    return float(np.mean((chances * np.abs(counts[:, None] / n - goal)).sum(axis=0) / goal))


def _checked(counts: ArrayLike, wanted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    observed, goal = np.asarray(counts, np.float64), np.asarray(wanted, np.float64)
    if observed.ndim != 1 or observed.size < 2 or observed.shape != goal.shape:
        raise InputError(
            f"Expected a count and a wanted share for each of 2 or more attributes, got shapes "
            f"{observed.shape} and {goal.shape}; give arrays of equal length."
        )
    if (observed < 0).any() or (observed != np.round(observed)).any() or not observed.sum():
        raise InputError(
            f"Expected integer counts and at least one image, got {observed.tolist()}; pass "
            "counts of images."
        )
    if (goal <= 0).any() or abs(goal.sum() - 1) > 1e-6:
        raise InputError(
            f"Expected wanted shares above 0 that sum to 1, got {goal.tolist()}; divide them by "
            "their sum."
        )
    return observed, goal
