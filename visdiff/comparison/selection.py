"""The choice of images for a proposer: the most representative of their set, or a diverse sample.

VisDiff draws them at random. D5 (Zhong et al. 2023, "Goal driven discovery of distributional
differences via language descriptions") shows a language model the most representative samples,
according to a cross-validated classifier of one set against the other, and diverse samples. Here
the classifier uses image features, and diversity comes from clusters of them.

All functions are pure. The caller passes the images of the discovery half only.
"""

from typing import Literal, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strategy = Literal["representative", "diverse"]

#: Scores are rounded to this many decimals: the last bits of a feature depend on the batch that it
#: was computed in, and must not affect the choice.
_DECIMALS = 6


def choose(
    strategy: Strategy,
    features: ArrayLike,
    is_a: ArrayLike,
    n: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    paired: bool = False,
) -> NDArray[np.bool_]:
    """Chooses the images of both sets that are shown to a proposer.

    Args:
        strategy: "representative" or "diverse", see :func:`representative` and :func:`diverse`.
        features: (m, d) image features of the discovery half, those of A first; a row of NaN is an
            image without features, which is chosen last.
        is_a: (m,) bool, True for the images of set A, which come first.
        n: Number of images per set; a smaller set is chosen completely.
        rng: The only source of randomness.
        candidates: (m,) bool, the images to choose from; all if None. A pair is a candidate if one
            of its images is. The probe is fitted on all images.
        paired: Whether image i of A is the partner of image i of B; pairs are then chosen together.

    Returns:
        (m,) bool with min(n, number of candidates) True per set.

    Raises:
        ValueError: The shapes do not match, A's images do not come first, or ``n`` is below 1.
    """
    features, is_a = np.asarray(features, np.float64), np.asarray(is_a)
    usable = np.ones(len(is_a), bool) if candidates is None else np.array(candidates, bool)
    if features.ndim != 2 or is_a.dtype != bool or not len(features) == len(is_a) == len(usable):
        raise ValueError(
            f"Expected features (m, d) and booleans (m,), got {features.shape}, {is_a.shape} of "
            f"{is_a.dtype} and {usable.shape}; pass arrays of the same length."
        )
    if n < 1 or not is_a[: is_a.sum()].all():
        raise ValueError(
            f"Expected n of 1 or more and A's images first, got n={n}; sort the images by set."
        )
    half = int(is_a.sum())
    if paired:
        if 2 * half != len(is_a):
            raise ValueError(
                f"Expected as many images of A as of B, got {half} of {len(is_a)}; call `pair_up`."
            )
        usable = np.tile(usable[:half] | usable[half:], 2)
    # Drawn before any branch, so that the generator's state afterwards is always the same.
    probe, clusters = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=2))
    chosen = np.zeros(len(is_a), bool)
    if strategy == "representative":
        typical = representative(features, is_a, probe)
        if paired:
            typical = np.tile(typical[:half] + typical[half:], 2)
        for side in (is_a, ~is_a):
            places = np.flatnonzero(side & usable)
            order = np.argsort(-typical[places], kind="stable")
            chosen[places[order[:n]]] = True
    elif strategy == "diverse":
        if paired:
            places = np.flatnonzero(usable[:half])
            pairs = np.concatenate([features[places], features[half + places]], axis=1)
            picked = places[diverse(pairs, n, clusters)]
            chosen[picked] = chosen[half + picked] = True
        else:
            for side in (is_a, ~is_a):
                places = np.flatnonzero(side & usable)
                chosen[places[diverse(features[places], n, clusters)]] = True
    else:
        assert_never(strategy)
    return chosen


def representative(
    features: ArrayLike, is_a: ArrayLike, rng: np.random.Generator, folds: int = 5
) -> NDArray[np.float64]:
    """Returns how representative each image is of its set: held-out log-odds of a linear probe.

    The probe is an L2 logistic regression on standardised features, as in
    `visdiff.stats.separability`. The score of an image comes from a probe that was fitted without
    it. The prior odds are removed, so that unequal set sizes do not matter.

    Args:
        features: (m, d), a row of NaN for an image without features.
        is_a: (m,) bool, True for the images of set A.
        rng: Generator for the folds.
        folds: Largest number of folds; a set with fewer images reduces it.

    Returns:
        (m,) log-odds, higher is more representative; 0 for every image if a set has fewer than two,
        and -inf for images without features.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, is_a = np.asarray(features, np.float64), np.asarray(is_a, bool)
    seed = int(rng.integers(2**32))
    known = np.isfinite(features).all(axis=1)
    scores = np.where(known, 0.0, -np.inf)
    rows = np.flatnonzero(known)
    x, y = features[rows], is_a[rows]
    folds = min(folds, int(y.sum()), int((~y).sum()))
    if folds < 2 or not x.shape[1]:
        return scores
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / x.shape[1], max_iter=1000))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(x, y):
        probe.fit(x[train], y[train])
        share = y[train].mean()
        odds = probe.decision_function(x[test]) - np.log(share / (1 - share))
        scores[rows[test]] = np.round(np.where(y[test], odds, -odds), _DECIMALS)
    return scores


def diverse(features: ArrayLike, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Returns the positions of n diverse images: one of each of n clusters of the features.

    The clusters come from k-means with k-means++ initialisation (Arthur and Vassilvitskii 2007). Of
    each cluster the image nearest to its centre is chosen, so that a dense region does not dominate
    the sample.

    Args:
        features: (m, d), a row of NaN for an image without features.
        n: Number of images.
        rng: Generator for the initial centres, and for the fill-up if there are fewer than n
            distinct images.

    Returns:
        min(n, m) distinct positions, ascending.
    """
    from sklearn.cluster import KMeans

    features = np.round(np.asarray(features, np.float64), 4)
    seed = int(rng.integers(2**32))
    if len(features) <= n:
        return np.arange(len(features))
    rows = np.flatnonzero(np.isfinite(features).all(axis=1))
    _, first = np.unique(features[rows], axis=0, return_index=True)
    distinct = rows[np.sort(first)]
    picked: list[int] = distinct.tolist()
    if len(distinct) > n:
        x = features[distinct]
        clusters = KMeans(n, init="k-means++", n_init="auto", random_state=seed)
        away = clusters.fit_transform(x)
        label, own = away.argmin(axis=1), away.min(axis=1)
        order = np.lexsort((own, label))
        nearest = order[np.unique(label[order], return_index=True)[1]]
        picked = distinct[nearest].tolist()
    # Copies, then images without features, fill up the sample.
    for others in (rows, np.arange(len(features))):
        spare = np.setdiff1d(others, picked)
        picked += rng.permutation(spare)[: n - len(picked)].tolist()
    return np.sort(np.array(picked, dtype=np.intp))
