"""How far shares of attributes are from the shares that are wanted: Δ of the debiasing papers.

Δ = mean over attributes of |wanted − seen| / wanted, 0 for exact ratios (UCE, Gandikota et al.
2024, arXiv:2308.14761; for two equally wanted genders |P(woman) − 0.5| / 0.5 as in TIME, Orgad et
al. 2023, arXiv:2303.08084). As a mean of absolute values it is above 0 by chance alone: see
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
    """A distance from wanted ratios.

    Attributes:
        value: 0 or more; 0 is exact.
        low: Lower end of its interval.
        high: Its upper end.
        floor: What a perfectly balanced model would be expected to show with as many images.
        n: Images.
    """

    value: float
    low: float
    high: float
    floor: float
    n: int


def delta(counts: ArrayLike, wanted: ArrayLike, level: float = 0.95) -> Delta:
    """Measures one concept.

    The interval is propagated from those of the shares: the least and the largest Δ that any shares
    within them have. Of 2 attributes there is one share, with Wilson's interval. Of more, all have
    to hold at once, by Bonferroni, and so far out in the tails Wilson's falls short of its level
    (0.91 for 0.95, for five attributes and 60 images): Clopper and Pearson's is used, which does
    not.

    Args:
        counts: (k,) images that show each attribute, k of 2 or more.
        wanted: (k,) shares above 0 that sum to 1.
        level: Of the interval.

    Raises:
        InputError: There is no image, a count is negative or no whole number, or the wanted shares
            are not above 0 or do not sum to 1.
    """
    seen, goal = _checked(counts, wanted)
    n, k = int(seen.sum()), seen.size
    if k == 2:
        low, high = np.transpose([wilson(int(count), n, level) for count in seen])
    else:
        low, high = clopper_pearson(seen, n, 1 - (1 - level) / k)
    # The nearest and the farthest that each share can be from its goal.
    nearest = np.maximum(np.maximum(low - goal, goal - high), 0)
    farthest = np.maximum(high - goal, goal - low)
    return Delta(
        value=float(np.mean(np.abs(seen / n - goal) / goal)),
        low=float(np.mean(nearest / goal)),
        high=float(np.mean(farthest / goal)),
        floor=delta_floor(n, goal),
        n=n,
    )


def mean_delta(counts: ArrayLike, wanted: ArrayLike, level: float = 0.95) -> Delta:
    """Measures several concepts: the mean of their Δ, as the papers' tables have it.

    The ends of the interval are the means of the concepts' ends. That is wider than the
    concepts' independence would allow, and, unlike a bootstrap of Δ, it is not shifted by what
    chance alone adds to each concept's Δ.

    Args:
        counts: (c, k) images of each concept that show each attribute.
        wanted: (k,) for all concepts or (c, k).
        level: Of the interval.

    Raises:
        InputError: As for `delta`.
    """
    table = np.atleast_2d(np.asarray(counts))
    goals = np.broadcast_to(np.asarray(wanted, np.float64), table.shape)
    found = [delta(row, goal, level) for row, goal in zip(table, goals, strict=True)]
    if not found:
        raise InputError("expected counts of at least one concept, got none.")
    return Delta(
        value=float(np.mean([d.value for d in found])),
        low=float(np.mean([d.low for d in found])),
        high=float(np.mean([d.high for d in found])),
        floor=float(np.mean([d.floor for d in found])),
        n=sum(d.n for d in found),
    )


def delta_floor(n: int, wanted: ArrayLike) -> float:
    """Returns the expected Δ of a model whose ratios are exactly the wanted ones, from n images.

    Exact: each attribute's count is binomial. About 0.8/√n for two genders: 0.08 for 100 images.

    Args:
        n: 1 or more.
        wanted: (k,) shares above 0 that sum to 1.
    """
    goal = np.asarray(wanted, np.float64)
    counts = np.arange(n + 1)
    chances = stats.binom.pmf(counts[:, None], n, goal)
    return float(np.mean((chances * np.abs(counts[:, None] / n - goal)).sum(axis=0) / goal))


def _checked(counts: ArrayLike, wanted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    seen, goal = np.asarray(counts, np.float64), np.asarray(wanted, np.float64)
    if seen.ndim != 1 or seen.size < 2 or seen.shape != goal.shape:
        raise InputError(
            f"expected a count and a wanted share for each of 2 or more attributes, got shapes "
            f"{seen.shape} and {goal.shape}."
        )
    if (seen < 0).any() or (seen != np.round(seen)).any() or not seen.sum():
        raise InputError(f"expected whole counts and at least one image, got {seen.tolist()}.")
    if (goal <= 0).any() or abs(goal.sum() - 1) > 1e-6:
        raise InputError(
            f"expected wanted shares above 0 that sum to 1, got {goal.tolist()}: divide them by "
            "their sum."
        )
    return seen, goal
