"""Which images a proposer is shown: the most typical of their set, or a spread over all kinds.

VisDiff draws them at random. D5 (Zhong et al. 2023, "Goal driven discovery of distributional
differences via language descriptions") shows a language model the most representative samples, by a
cross-validated classifier of one set against the other, and samples that differ from one another.
Here the classifier reads image features, and kinds are clusters of them.

Pure: arrays in, places out. The caller passes the discovery half and nothing else.
"""

from typing import Literal, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strategy = Literal["representative", "diverse"]

#: Scores are compared to so many decimals: the last bits of a feature depend on the batch it was
#: computed in, and must not decide which image is shown.
_DECIMALS = 6


def choose(
    strategy: Strategy,
    features: ArrayLike,
    is_a: ArrayLike,
    n: int,
    rng: np.random.Generator,
    *,
    open_: ArrayLike | None = None,
    paired: bool = False,
) -> NDArray[np.bool_]:
    """Chooses the images of both sets that a proposer is shown.

    Args:
        strategy: "representative" or "diverse", see :func:`representative` and :func:`diverse`.
        features: (m, d) image features of the discovery half, those of A first; a row of NaN is an
            image without, which is chosen last.
        is_a: (m,) bool, True for the images of set A, which come first.
        n: Images a side; a side with fewer is shown whole.
        rng: The only source of randomness.
        open_: (m,) bool, the images that there are to choose from; all when None. A pair is there
            while one of the two is. The probe learns from all.
        paired: Image i of A belongs to image i of B: pairs are chosen as a whole.

    Returns:
        (m,) bool with min(n, images to choose from) True a side.

    Raises:
        ValueError: The shapes do not fit, A's images do not come first, or ``n`` is below 1.
    """
    features, is_a = np.asarray(features, np.float64), np.asarray(is_a)
    left = np.ones(len(is_a), bool) if open_ is None else np.asarray(open_, bool).copy()
    if features.ndim != 2 or is_a.dtype != bool or not len(features) == len(is_a) == len(left):
        raise ValueError(
            f"expected features (m, d) and booleans (m,), got {features.shape}, {is_a.shape} of "
            f"{is_a.dtype} and {left.shape}"
        )
    if n < 1 or not is_a[: is_a.sum()].all():
        raise ValueError(f"expected n of 1 or more and A's images first, got n={n}")
    half = int(is_a.sum())
    if paired:
        if 2 * half != len(is_a):
            raise ValueError(f"expected as many images of A as of B, got {half} of {len(is_a)}")
        left = np.tile(left[:half] | left[half:], 2)
    # Drawn whatever follows, so that what a caller draws next does not depend on the data.
    probe, clusters = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=2))
    chosen = np.zeros(len(is_a), bool)
    if strategy == "representative":
        typical = representative(features, is_a, probe)
        if paired:
            typical = np.tile(typical[:half] + typical[half:], 2)
        for side in (is_a, ~is_a):
            places = np.flatnonzero(side & left)
            order = np.argsort(-typical[places], kind="stable")
            chosen[places[order[:n]]] = True
    elif strategy == "diverse":
        if paired:
            places = np.flatnonzero(left[:half])
            pairs = np.concatenate([features[places], features[half + places]], axis=1)
            picked = places[diverse(pairs, n, clusters)]
            chosen[picked] = chosen[half + picked] = True
        else:
            for side in (is_a, ~is_a):
                places = np.flatnonzero(side & left)
                chosen[places[diverse(features[places], n, clusters)]] = True
    else:
        assert_never(strategy)
    return chosen


def representative(
    features: ArrayLike, is_a: ArrayLike, rng: np.random.Generator, folds: int = 5
) -> NDArray[np.float64]:
    """How typical each image is of its own set: held out, a probe's log-odds of that set.

    An L2 logistic regression on standardised features, as `visdiff.stats.separability` fits it; an
    image's score comes from the probe of a fold that it was not in. The share of the sets is taken
    out: the larger one is not the likelier.

    Args:
        features: (m, d), a row of NaN for an image without features.
        is_a: (m,) bool, True for the images of set A.
        rng: Draws the folds.
        folds: Most folds; fewer where a set has fewer images.

    Returns:
        (m,) log-odds, higher is more typical; 0 for every image where a set has fewer than two, and
        -inf for images without features.
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
    """Places of n images that are spread over the features: one of each of n clusters.

    k-means with k-means++ seeds (Arthur and Vassilvitskii 2007); of each cluster the image nearest
    to its centre. However many images a region has, it gets no more than its clusters.

    Args:
        features: (m, d), a row of NaN for an image without features.
        n: Images wanted.
        rng: Draws the seeds of the clusters, and what is shown where there are fewer distinct
            images than n.

    Returns:
        min(n, m) distinct places, ascending.
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
    # Copies, then images without features, fill up what the distinct ones leave.
    for others in (rows, np.arange(len(features))):
        spare = np.setdiff1d(others, picked)
        picked += rng.permutation(spare)[: n - len(picked)].tolist()
    return np.sort(np.array(picked, dtype=np.intp))
