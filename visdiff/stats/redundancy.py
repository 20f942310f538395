"""Groups of redundant hypotheses: the same words, or highly correlated scores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from visdiff.words import ARTICLES, base_forms, words


def redundant(
    scores: ArrayLike, texts: Sequence[str], order: Sequence[int], threshold: float = 0.9
) -> list[list[int]]:
    """Groups redundant hypotheses greedily, best first.

    The first hypothesis in `order` that is not in a group yet starts a new group and represents it.
    The group receives the remaining hypotheses whose scores have a rank correlation (Spearman 1904,
    "The proof and measurement of association between two things") of at least `threshold` with the
    representative's, and then the remaining ones with the same words as a member. Words are
    compared in order, ignoring case, punctuation, articles and inflection ("the brick wall" and
    "brick walls").

    Args:
        scores: (h, n) real numbers, NaN where unscored.
        texts: The h hypotheses.
        order: Indices of the hypotheses to group, best first, each at most once.
        threshold: Minimum rank correlation, between -1 and 1.

    Returns:
        The groups in the order of their representatives. Each is a list of indices in the order of
        `order`, the representative first.

    Raises:
        ValueError: `scores` is not a matrix with one row per text, or `order` has duplicates or
            indices out of range.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or len(scores) != len(texts):
        raise ValueError(
            f"Expected scores of shape (h, n) and h texts, got {scores.shape} and {len(texts)}."
        )
    indices = [int(i) for i in order]
    if len(set(indices)) < len(indices) or not set(indices) <= set(range(len(texts))):
        raise ValueError(
            f"Expected order to name rows 0 to {len(texts) - 1}, each at most once, got {indices}."
        )
    # Tolerance: a correlation equal to the threshold may be a rounding error below it.
    together = spearman(scores[indices]) >= threshold - 1e-9
    wording = _wordings([texts[i] for i in indices])
    left = np.ones(len(indices), dtype=bool)
    groups = []
    for first in range(len(indices)):
        if not left[first]:
            continue
        members = left & together[first]
        members[first] = True
        members |= left & np.isin(wording, wording[members])
        left &= ~members
        groups.append([indices[i] for i in np.flatnonzero(members)])
    return groups


def spearman(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the rank correlation of every two rows of `scores` (h, n) as an (h, h) matrix.

    Midranks are computed once per row and correlated over the columns that both rows have. When two
    rows lack the same columns (the usual case, unreadable images), this is exactly Spearman's
    coefficient; otherwise it is a close approximation. The entry is NaN when a row is constant on
    the common columns, or when there are fewer than three common columns or fewer than half of the
    shorter row's.
    """
    known = ~np.isnan(scores)
    ranks = np.zeros(scores.shape)
    if scores.size:
        ranks = stats.rankdata(scores, axis=1, nan_policy="omit")
        # Centred near zero and below one, so that the sums of squares below lose no digits.
        ranks = (ranks - (known.sum(axis=1, keepdims=True) + 1) / 2) / scores.shape[1]
        ranks = np.where(known, ranks, 0.0)
    mask = known.astype(np.float64)
    common = mask @ mask.T
    sums = ranks @ mask.T
    with np.errstate(all="ignore"):
        covariance = ranks @ ranks.T - sums * sums.T / common
        spread = (ranks**2) @ mask.T - sums**2 / common
        # The spread of a constant row can be a rounding error above zero.
        spread = np.where(spread > 1e-12, spread, np.nan)
        correlation = covariance / np.sqrt(spread * spread.T)
    lengths = mask.sum(axis=1)
    enough = common >= np.maximum(3, np.minimum.outer(lengths, lengths) / 2)
    return np.where(enough, np.clip(correlation, -1, 1), np.nan)


def _wordings(texts: Sequence[str]) -> NDArray[np.int64]:
    """Returns a number per text; texts with the same words share the first one's number."""
    firsts: list[tuple[int, list[frozenset[str]]]] = []
    numbers = np.empty(len(texts), dtype=np.int64)
    for number, text in enumerate(texts):
        folded = _folded(text)
        for earlier, forms in firsts:
            if len(forms) == len(folded) and all(map(frozenset.intersection, forms, folded)):
                numbers[number] = earlier
                break
        else:
            firsts.append((number, folded))
            numbers[number] = number
    return numbers


def _folded(text: str) -> list[frozenset[str]]:
    kept = [word for word in words(text.replace("-", " ")) if word not in ARTICLES]
    # A text without any other word (an emoji, "the") is compared as it is.
    return [base_forms(word) for word in kept] or [frozenset({text.strip().lower()})]
