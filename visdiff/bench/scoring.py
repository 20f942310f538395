"""Accuracy and agreement of verdicts, as pure functions.

The verdicts of a pair are in the order of its ranked hypotheses. Acc@k of a pair is the best of its
first k verdicts, as in the paper (not their mean). Acc@k of a benchmark is the mean over its pairs.
A pair without hypotheses has Acc@k 0. A verdict of None is unscored. A pair with an unscored
verdict among the first k has a known Acc@k only if another of these verdicts is 1. Otherwise the
pair is excluded and counted as unscored, not as wrong.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visdiff.errors import InputError
from visdiff.judges import SCORES

Verdicts = Sequence[float | None]


@dataclass(frozen=True)
class Accuracy:
    """Acc@k over pairs.

    Attributes:
        value: The mean over the scored pairs, or None without any.
        ci: Bounds of the confidence interval, or None with fewer than two scored pairs.
        n: Number of scored pairs.
        unscored: Number of excluded pairs.
    """

    value: float | None
    ci: tuple[float, float] | None
    n: int
    unscored: int


@dataclass(frozen=True)
class Agreement:
    """The agreement of two judges on the same claims.

    Attributes:
        n: Number of claims that both judges scored.
        unscored: Number of claims that at least one judge did not score.
        observed: Fraction of equal scores, or None without scored claims.
        kappa: Cohen's kappa (1960), or None when it is undefined: no claims, or the same score by
            both judges for all claims.
        weighted_kappa: Cohen's kappa with quadratic weights, so that 0 against 1 is worse than 0
            against 0.5, or None when it is undefined.
        table: Counts by the scores of the first judge (rows) and the second (columns), in the order
            0, 0.5, 1.
    """

    n: int
    unscored: int
    observed: float | None
    kappa: float | None
    weighted_kappa: float | None
    table: tuple[tuple[int, ...], ...]


def acc_at(verdicts: Verdicts, k: int | None) -> float | None:
    """Returns the best of the first k verdicts, or None if an unscored one could change it.

    Args:
        verdicts: Verdicts in ranked order, each 0, 0.5, 1 or None; may be fewer than k, or none.
        k: Number of hypotheses to consider, 1 or more; None for all.

    Raises:
        InputError: k is below 1.
    """
    if k is not None and k < 1:
        raise InputError(f"Expected k of 1 or more in Acc@k, got {k}.")
    first = list(verdicts)[:k]
    best = max((v for v in first if v is not None), default=0.0)
    return None if None in first and best < 1 else float(best)


def accuracy(
    pairs: Sequence[Verdicts | None],
    k: int | None,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> Accuracy:
    """Returns Acc@k over pairs, with a percentile bootstrap interval that resamples pairs.

    Args:
        pairs: A list of verdicts per pair; None for a failed pair.
        k: Number of hypotheses to consider; None for all.
        rng: Generator for the resamples.
        resamples: Number of resamples.
        level: Confidence level of the interval, in (0, 1).
    """
    values = [None if verdicts is None else acc_at(verdicts, k) for verdicts in pairs]
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    unscored = len(values) - len(known)
    if not len(known):
        return Accuracy(None, None, 0, unscored)
    ci = None
    if len(known) > 1:
        draws = rng.integers(0, len(known), (resamples, len(known)))
        tail = (1 - level) / 2
        low, high = np.quantile(known[draws].mean(axis=1), [tail, 1 - tail])
        ci = (float(low), float(high))
    return Accuracy(float(known.mean()), ci, len(known), unscored)


def agreement(first: Verdicts, second: Verdicts) -> Agreement:
    """Compares two judges of the same claims.

    Args:
        first: The first judge's scores.
        second: The second judge's scores of the same claims, in the same order.

    Raises:
        InputError: The numbers of scores differ.
    """
    if len(first) != len(second):
        raise InputError(
            f"Expected two judges' scores of the same claims, got {len(first)} and {len(second)}."
        )
    both = [
        (SCORES.index(x), SCORES.index(y))
        for x, y in zip(first, second, strict=True)
        if x is not None and y is not None
    ]
    table = np.zeros((3, 3), dtype=int)
    for x, y in both:
        table[x, y] += 1
    return Agreement(
        n=len(both),
        unscored=len(first) - len(both),
        observed=float(np.trace(table) / len(both)) if both else None,
        kappa=_kappa(both, None),
        weighted_kappa=_kappa(both, "quadratic"),
        table=tuple(tuple(row) for row in table.tolist()),
    )


def _kappa(both: Sequence[tuple[int, int]], weights: str | None) -> float | None:
    if not both:
        return None
    from sklearn.metrics import cohen_kappa_score

    with warnings.catch_warnings():
        # Undefined (0/0) when both judges are constant; returned as None.
        warnings.simplefilter("ignore")
        kappa = float(
            cohen_kappa_score(*zip(*both, strict=True), labels=[0, 1, 2], weights=weights)
        )
    return kappa if math.isfinite(kappa) else None
