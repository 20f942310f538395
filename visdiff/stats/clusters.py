"""The AUROC, its interval and its test when some images are not independent of each other.

A cluster is a group of images that show the same thing: copies, frames of one video, photographs of
one patient. A cluster counts as one observation of a set: the images of a cluster in one set have
equal weights that sum to one, so the results do not change when an image is listed twice. Clusters
are assumed to be independent of each other. A cluster may have images in both sets.

The public functions are exported by `visdiff.stats`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from visdiff.stats.proportions import check_level
from visdiff.stats.roc import (
    MAX_SKEWNESS,
    Floats,
    checked,
    permutation_moments,
    wilson_bounds,
)


def count_clusters(clusters: ArrayLike, is_a: ArrayLike) -> tuple[int, int]:
    """Returns the number of clusters with images in set A, and in set B.

    Args:
        clusters: (n,) label of each image's cluster.
        is_a: (n,) booleans, True for the images of set A.
    """
    labels, members = np.asarray(clusters), np.asarray(is_a)
    return len(np.unique(labels[members])), len(np.unique(labels[~members]))


def clustered_auroc(scores: ArrayLike, is_a: ArrayLike, clusters: ArrayLike) -> Floats:
    """Returns the AUROC of each hypothesis between clusters: P(A > B) + P(A = B) / 2.

    It is the probability for a random image of a random cluster of A and one of B. Without clusters
    of several images it equals `visdiff.stats.auroc`.

    Args:
        scores: (h, n) real numbers; NaN is ignored.
        is_a: (n,) booleans, True for the images of set A.
        clusters: (n,) label of each image's cluster; anything that `numpy.unique` accepts.

    Returns:
        (h,) float64 in [0, 1]; NaN where a set has no score.

    Raises:
        ValueError: The shapes do not match, or `is_a` is not boolean.
    """
    scores, is_a = checked(scores, is_a)
    areas = np.full(len(scores), np.nan)
    for row, case in _cases(scores, is_a, clusters):
        areas[row] = case.area
    return areas


def clustered_rank_test(scores: ArrayLike, is_a: ArrayLike, clusters: ArrayLike) -> Floats:
    """Returns the one-sided p-value of each hypothesis against "set A scores no higher".

    A Wilcoxon rank-sum test of clusters (after Rosner, Glynn and Lee 2003, "Incorporation of
    clustering effects for the Wilcoxon rank sum test: a large-sample approach"): the statistic is
    the sum of the mean ranks of A's clusters. Under the null hypothesis, the sets of clusters are
    exchangeable, and in a cluster with images in both sets the two parts are. The p-value is the
    upper tail of Student's t for the standardised statistic. Its variance is the permutation
    variance, or the one without a common distribution of A's and B's clusters if that is larger, as
    it may be when the clusters of one set have more images than those of the other. A skewed
    statistic has the tail of `mann_whitney`.

    Args:
        scores: (h, n) real numbers; NaN is ignored.
        is_a: (n,) booleans, True for the images of set A.
        clusters: (n,) label of each image's cluster.

    Returns:
        (h,) float64 in [0, 1]; 1 for constant scores, NaN where a set has no score.

    Raises:
        ValueError: The shapes do not match, or `is_a` is not boolean.
    """
    scores, is_a = checked(scores, is_a)
    n = len(scores)
    shifts, freedom, skewness = np.full(n, np.nan), np.ones(n), np.zeros(n)
    for row, case in _cases(scores, is_a, clusters):
        shifts[row], freedom[row] = case.standardised()
        skewness[row] = case.skewness()
    p_values = stats.t.sf(shifts, freedom)
    skewed = np.abs(skewness) > MAX_SKEWNESS
    tails = stats.pearson3.sf(np.where(skewed, shifts, 0.0), skewness)
    return np.where(skewed, np.fmax(p_values, tails), p_values)


def clustered_interval(
    scores: ArrayLike, is_a: ArrayLike, clusters: ArrayLike, level: float = 0.95
) -> Floats:
    """Returns a confidence interval for the AUROC of each hypothesis, for clustered images.

    The interval of `visdiff.stats.delong_interval` with the variance of Obuchowski 1997
    ("Nonparametric analysis of clustered ROC curve data"), which adds the placements of a cluster's
    images before squaring them.

    Args:
        scores: (h, n) real numbers; NaN is ignored.
        is_a: (n,) booleans, True for the images of set A.
        clusters: (n,) label of each image's cluster.
        level: Confidence level, between 0 and 1.

    Returns:
        (h, 2) float64, lower and upper bound of the AUROC of `clustered_auroc`. NaN where a set has
        no score.

    Raises:
        ValueError: The shapes do not match, `is_a` is not boolean, or `level` is out of range.
    """
    scores, is_a = checked(scores, is_a)
    check_level(level)
    n = len(scores)
    areas, covariances = np.full(n, np.nan), np.zeros(n)
    variances, counts = np.full((2, n), np.nan), np.zeros((2, n), np.int64)
    for row, case in _cases(scores, is_a, clusters):
        areas[row], counts[:, row] = case.area, (len(case.a), len(case.b))
        variances[:, row], covariances[row] = case.variances()
    return wilson_bounds(areas, variances, counts, level, covariances)


@dataclass(frozen=True)
class _Case:
    """Means over clusters for one hypothesis.

    Attributes:
        area: The AUROC.
        ranks_a: (k_a,) weighted mean rank of A's part of each cluster, as a share of both sets.
        ranks_b: (k_b,) the same for B.
        places_a: (k_a,) mean share of B's clusters below A's part of each cluster, ties half.
        places_b: (k_b,) mean share of A's clusters above B's part of each cluster.
        a: (k_a,) cluster numbers of A, ascending.
        b: (k_b,) cluster numbers of B.
    """

    area: float
    ranks_a: Floats
    ranks_b: Floats
    places_a: Floats
    places_b: Floats
    a: NDArray[np.intp]
    b: NDArray[np.intp]

    def both(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns which clusters of A, and of B, have images in both sets."""
        return np.isin(self.a, self.b), np.isin(self.b, self.a)

    def variances(self) -> tuple[Floats, float]:
        """Returns the variances of the area from A's and B's clusters, and their covariance.

        The variances are those of one cluster; NaN for a set of one cluster.
        """
        k_a, k_b = len(self.a), len(self.b)
        with np.errstate(all="ignore"):
            variances = np.array([self.places_a.var() * k_a, self.places_b.var() * k_b])
            variances = variances / (np.array([k_a, k_b]) - 1)
        in_a, in_b = self.both()
        product = ((self.places_a - self.area)[in_a] * (self.places_b - self.area)[in_b]).sum()
        k = len(np.union1d(self.a, self.b))
        return variances, 2 * k / max(1, k - 1) * float(product) / (k_a * k_b)

    def standardised(self) -> tuple[float, int]:
        """Returns the standardised sum of A's mean ranks, and its degrees of freedom.

        The sum is minus infinity for constant scores, and for fewer than three clusters.
        """
        in_a, in_b = self.both()
        pure_a, pure_b = self.ranks_a[~in_a], self.ranks_b[~in_b]
        pairs = self.ranks_a[in_a] - self.ranks_b[in_b]
        n_a, n_b, variance, unpooled = len(pure_a), len(pure_b), 0.0, 0.0
        shift, freedom = float(pairs.sum()) / 2, max(0, len(pairs) - 1)
        if n_a and n_b:
            pooled = np.concatenate([pure_a, pure_b])
            shift += float(pure_a.sum() - n_a * pooled.mean())
            variance = n_a * n_b / (n_a + n_b) * float(pooled.var(ddof=1))
            freedom += n_a + n_b - 2
            if min(n_a, n_b) > 1:
                spread = pure_a.var(ddof=1) / n_a + pure_b.var(ddof=1) / n_b
                unpooled = (n_a * n_b / (n_a + n_b)) ** 2 * float(spread)
        total = max(variance, unpooled) + float((pairs**2).sum()) / 4
        if total <= 1e-20 or not freedom:
            return -np.inf, 1
        return shift / float(np.sqrt(total)), freedom

    def skewness(self) -> float:
        """Returns the permutation skewness of the sum of ranks of clusters in one set."""
        in_a, in_b = self.both()
        pure_a, pure_b = self.ranks_a[~in_a], self.ranks_b[~in_b]
        if len(pure_a) < 2 or len(pure_b) < 2:
            return 0.0
        # Ranks of clusters, not shares of them: below a rounding error they are constant.
        ranks = np.concatenate([pure_a, pure_b]) * (len(self.a) + len(self.b))
        return float(permutation_moments(ranks, len(pure_a))[1])


def _cases(
    scores: Floats, is_a: NDArray[np.bool_], clusters: ArrayLike
) -> Iterator[tuple[int, _Case]]:
    """Yields the rows that have scores in both sets, with their means over clusters."""
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    if labels.shape != is_a.shape:
        raise ValueError(
            f"Expected one cluster per image, {is_a.shape}, got labels of shape {labels.shape}."
        )
    for row, values in enumerate(scores):
        known = ~np.isnan(values)
        x, members, cluster = values[known], is_a[known], labels[known]
        if not members.any() or members.all():
            continue
        a, in_a, weights_a = _weights(cluster[members])
        b, in_b, weights_b = _weights(cluster[~members])
        weights = np.empty(len(x))
        weights[members], weights[~members] = weights_a, weights_b
        ranks = _weighted_ranks(x, weights)
        above_a = (ranks[members] - _weighted_ranks(x[members], weights_a)) / len(b)
        below_b = 1 - (ranks[~members] - _weighted_ranks(x[~members], weights_b)) / len(a)
        shares = ranks / (len(a) + len(b))
        places_a = _sums(in_a, weights_a * above_a)
        yield row, _Case(
            area=float(np.clip(places_a.mean(), 0, 1)),
            ranks_a=_sums(in_a, weights_a * shares[members]),
            ranks_b=_sums(in_b, weights_b * shares[~members]),
            places_a=places_a,
            places_b=_sums(in_b, weights_b * below_b),
            a=a,
            b=b,
        )  # fmt: skip


def _weights(cluster: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Returns the distinct clusters, the place of each image's cluster, and the weights."""
    distinct, place, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    return distinct, place, 1 / sizes[place]


def _sums(place: NDArray[np.intp], values: Floats) -> Floats:
    return np.bincount(place, values).astype(np.float64)


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Returns the weight below each value, plus half the weight of the values equal to it."""
    _, place = np.unique(values, return_inverse=True)
    mass = np.bincount(place, weights)
    return (np.cumsum(mass) - mass / 2)[place]
