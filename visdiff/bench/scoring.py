"""Accuracy and agreement from verdicts: pure functions, no files and no models.

Of a pair, the verdicts stand in the order in which the hypotheses were ranked. Acc@k of a pair is
the best of its first k verdicts, as in the paper (not their mean); of a benchmark, the mean over
its pairs. A pair without hypotheses found nothing and has Acc@k 0. A verdict of None is unscored:
the pair's Acc@k is then known only when a verdict among the first k is 1 already, and otherwise the
pair is left out and counted as unscored, never taken for a failure to find the difference.
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
        value: The mean over the pairs that are known, or None without any.
        ci: Ends of the interval, or None without two known pairs.
        n: Known pairs.
        unscored: Pairs that are left out.
    """

    value: float | None
    ci: tuple[float, float] | None
    n: int
    unscored: int


@dataclass(frozen=True)
class Agreement:
    """How far two judges of the same claims agree.

    Attributes:
        n: Claims that both gave a score.
        unscored: Claims that one or both did not.
        observed: Share of equal scores, or None without any claim.
        kappa: Cohen's kappa (1960), or None when it is undefined: no claim, or both judges gave one
            and the same score throughout.
        weighted_kappa: The same with quadratic weights, so that 0 against 1 is worse than 0 against
            0.5; None likewise.
        table: Counts by score of the first judge (rows) and of the second (columns), each 0, 0.5
            and 1.
    """

    n: int
    unscored: int
    observed: float | None
    kappa: float | None
    weighted_kappa: float | None
    table: tuple[tuple[int, ...], ...]


def acc_at(verdicts: Verdicts, k: int | None) -> float | None:
    """Return the best of the first k verdicts, or None where an unscored one leaves it open.

    Args:
        verdicts: In ranked order, each 0, 0.5, 1 or None; may be fewer than k, or none.
        k: How many count, 1 or more; None for all.

    Raises:
        InputError: k is below 1.
    """
    if k is not None and k < 1:
        raise InputError(f"expected k of 1 or more in Acc@k, got {k}.")
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
    """Return Acc@k over pairs, with a percentile bootstrap interval that resamples pairs.

    Args:
        pairs: One list of verdicts a pair; None for a pair that failed.
        k: How many hypotheses count; None for all.
        rng: Draws the resamples.
        resamples: How many there are.
        level: Of the interval, in (0, 1).
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
    """Compare two judges of the same claims.

    Args:
        first: The first judge's scores.
        second: The second's, of the same claims in the same order.

    Raises:
        InputError: They are not equally many.
    """
    if len(first) != len(second):
        raise InputError(
            f"expected two judges' scores of the same claims, got {len(first)} and {len(second)}."
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
        # Undefined where both judges are constant: 0/0, which is None here.
        warnings.simplefilter("ignore")
        kappa = float(
            cohen_kappa_score(*zip(*both, strict=True), labels=[0, 1, 2], weights=weights)
        )
    return kappa if math.isfinite(kappa) else None
