"""The statistics of a comparison: from a matrix of scores to differences and rejected candidates.

All functions are pure. The steps are a one-sided test and a confidence interval for every
candidate, control of the false discovery rate over all of them, thresholds, and the grouping of
synonyms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from visdiff import stats
from visdiff.comparison.clusters import join_labels
from visdiff.comparison.subjects import one_subject
from visdiff.config import StatisticsConfig
from visdiff.results import Difference, Hypothesis, Rejected, Separability, Stage

#: The verdict if nothing is confirmed.
NO_DIFFERENCE = "no difference found"

#: The beginning of the verdict if nothing is confirmed and too much is missing.
INCOMPLETE = "no conclusion, the run is incomplete"

#: Unconfirmed candidates below this uncorrected p-value are reported, marked as unconfirmed.
_MAX_REPORTED_P = 0.05
_EVIDENCE = 6


@dataclass(frozen=True)
class Tests:
    """Test results, one row per candidate, oriented toward the set that it is claimed of.

    Attributes:
        auroc: (h,) P(claimed set scores higher), ties half.
        interval: (h, 2) confidence interval of the AUROC.
        p_value: (h,) one-sided p-values.
        q_value: (h,) p-values after Benjamini–Hochberg over all rows.
        confirmed: (h,) bool.
    """

    auroc: np.ndarray
    interval: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    confirmed: np.ndarray


def test_hypotheses(
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    is_a: np.ndarray,
    settings: StatisticsConfig,
    rng: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    may_confirm: bool = True,
) -> Tests:
    """Tests every candidate in its claimed direction.

    Args:
        hypotheses: h candidates, including those that are discarded later: the correction covers
            all of them.
        scores: (h, n) scores, NaN where unscored.
        is_a: (n,) bool, True for the images of set A.
        settings: Thresholds.
        rng: Generator for permutations and bootstrap.
        groups: (n / 2,) prompt of each pair if image i of A (in order) is paired with image i of
            B; None if unpaired.
        clusters: (n,) cluster of each image; images of a cluster count as one observation. If
            paired, partners are in one cluster. None if all images (or pairs) are independent.
        may_confirm: False if proposing and testing used the same images.
    """
    scores = np.asarray(scores, dtype=np.float64)
    sign = np.array([1.0 if h.direction == "A" else -1.0 for h in hypotheses])
    oriented = scores * sign[:, None]
    if groups is not None:
        auroc, interval, p_value = _test_pairs(oriented, is_a, groups, clusters, settings, rng)
    elif clusters is not None:
        auroc = stats.clustered_auroc(oriented, is_a, clusters)
        interval = stats.clustered_interval(oriented, is_a, clusters, settings.level)
        p_value = stats.clustered_rank_test(oriented, is_a, clusters)
    else:
        auroc = stats.auroc(oriented, is_a)
        interval = stats.delong_interval(oriented, is_a, settings.level)
        p_value = stats.mann_whitney(oriented, is_a)
    none = np.zeros(len(auroc), bool)
    tests = with_p_values(Tests(auroc, interval, p_value, p_value, none), settings)
    return replace(tests, confirmed=tests.confirmed & may_confirm)


def with_p_values(tests: Tests, settings: StatisticsConfig) -> Tests:
    """Returns the tests with the q-values of their p-values, and what they confirm."""
    return with_q_values(tests, stats.benjamini_hochberg(tests.p_value), settings)


def with_q_values(tests: Tests, q_value: np.ndarray, settings: StatisticsConfig) -> Tests:
    """Returns the tests with the q-values of a correction over more candidates."""
    confirmed = _confirmed(q_value, tests.auroc, settings)
    return replace(tests, q_value=q_value, confirmed=confirmed)


def select(
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    is_a: np.ndarray,
    ids: Sequence[str],
    tests: Tests,
    settings: StatisticsConfig,
    tested: np.ndarray | None = None,
) -> tuple[tuple[Difference, ...], tuple[Rejected, ...]]:
    """Groups synonyms and separates reported differences from rejected candidates.

    Args:
        hypotheses: h candidates.
        scores: (h, n) scores, as for :func:`test_hypotheses`.
        is_a: (n,) bool, True for the images of set A.
        ids: n image ids.
        tests: The result of :func:`test_hypotheses`.
        settings: Thresholds.
        tested: (h, n) bool, the images that each candidate was tested on; all if None.

    Returns:
        Differences, confirmed ones first, then by AUROC; and rejected candidates, best first.
    """
    reported = tests.confirmed | ((tests.p_value < _MAX_REPORTED_P) & (tests.auroc > 0.5))
    order = _best_first(tests)
    differences, rejected = [], []
    tested = np.ones(scores.shape, bool) if tested is None else tested
    for direction in ("A", "B"):
        same = [i for i in order if hypotheses[i].direction == direction and reported[i]]
        texts = [h.text for h in hypotheses]
        groups = stats.redundant(scores, texts, same, settings.redundant)
        for members in one_subject(groups, texts, scores):
            differences.append(
                _difference(members, hypotheses, scores, is_a, np.asarray(ids), tests, tested)
            )
    differences.sort(key=lambda d: (not d.confirmed, -d.auroc, d.text))
    for i in order:
        if not reported[i]:
            h = hypotheses[i]
            reason = _reason(tests, i, settings)
            values = (tests.auroc[i], tests.p_value[i], tests.q_value[i])
            rejected.append(Rejected(h.text, h.direction, reason, *map(_number, values)))
    return tuple(differences), tuple(rejected)


def explained_separability(
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    features: np.ndarray | None,
    differences: Sequence[Difference],
    is_a: np.ndarray,
    seed: int,
    clusters: np.ndarray | None = None,
) -> Separability:
    """Returns the separability of the sets by image features and by the confirmed sentences.

    Args:
        hypotheses: h candidates.
        scores: (h, n) scores, NaN where unscored.
        features: (n, d) image features, or None if the ranker has none.
        differences: The differences of :func:`select`.
        is_a: (n,) bool, True for the images of set A.
        seed: Seed of the folds.
        clusters: (n,) cluster of each image; a cluster is in one fold. None without clusters.
    """
    confirmed = {(d.text, d.direction) for d in differences if d.confirmed}
    rows = [i for i, h in enumerate(hypotheses) if (h.text, h.direction) in confirmed]
    measured: list[float | None] = []
    for values in (features, scores[rows].T if rows else None):
        if values is None:
            measured.append(None)
            continue
        rng = np.random.default_rng(seed)
        measured.append(_number(stats.separability(values, is_a, rng, clusters=clusters)))
    return Separability(images=measured[0], sentences=measured[1])


def verdict(
    differences: Sequence[Difference],
    name_a: str,
    name_b: str,
    double_dipped: bool,
    stages: Sequence[Stage] = (),
) -> str:
    """Returns the result in one sentence.

    Args:
        differences: The differences of :func:`select`.
        name_a: Name of set A.
        name_b: Name of set B.
        double_dipped: Whether proposing and testing used the same images.
        stages: What the stages of the run obtained; with less than half of it, nothing found does
            not mean no difference.
    """
    confirmed = [d for d in differences if d.confirmed]
    if not confirmed:
        if failed := [stage for stage in stages if stage.failed]:
            return f"{INCOMPLETE}: {failed[0].sentence}"
        if double_dipped:
            return "too few images to confirm anything"
        return NO_DIFFERENCE
    parts = []
    for direction, name in (("A", name_a), ("B", name_b)):
        texts = [f"“{d.text}”" for d in confirmed if d.direction == direction][:3]
        if texts:
            parts.append(f"{name} shows more {', '.join(texts)}")
    count = "1 difference" if len(confirmed) == 1 else f"{len(confirmed)} differences"
    return f"{count} confirmed: {'; '.join(parts)}"


def _test_pairs(
    oriented: np.ndarray,
    is_a: np.ndarray,
    groups: np.ndarray,
    clusters: np.ndarray | None,
    settings: StatisticsConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the AUROC, the interval and the p-value of every candidate on paired images.

    The signs of all pairs of a cluster are flipped together, and the bootstrap resamples prompts
    together with those that share a cluster with them.
    """
    of_a, of_b = oriented[:, is_a], oriented[:, ~is_a]
    differences = of_a - of_b
    if clusters is not None:
        labels = clusters[is_a]
        differences = _cluster_means(differences, labels)
        groups = join_labels([np.unique(groups, return_inverse=True)[1], labels])
    p_value = stats.sign_flip(differences, rng, settings.permutations)
    interval = stats.paired_interval(of_a, of_b, groups, rng, settings.level, settings.resamples)
    return stats.auroc(oriented, is_a), interval, p_value


def _cluster_means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the means (h, k) over each of k clusters, without NaN; NaN if all are."""
    _, place = np.unique(labels, return_inverse=True)
    members = (place[:, None] == np.arange(place.max(initial=-1) + 1)).astype(np.float64)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (np.where(known, values, 0.0) @ members) / (known.astype(np.float64) @ members)


def _confirmed(q_value: np.ndarray, auroc: np.ndarray, settings: StatisticsConfig) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (q_value <= settings.alpha) & (auroc >= settings.min_auroc)


def _best_first(tests: Tests) -> list[int]:
    auroc = np.nan_to_num(tests.auroc, nan=-1.0)
    keys = zip(~tests.confirmed, -auroc, range(len(auroc)), strict=True)
    return [i for *_, i in sorted(keys)]


def _difference(
    members: Sequence[int],
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    is_a: np.ndarray,
    ids: np.ndarray,
    tests: Tests,
    tested: np.ndarray,
) -> Difference:
    best = members[0]
    row = np.asarray(scores[best], dtype=np.float64)
    known = ~np.isnan(row) & tested[best]
    h = hypotheses[best]
    # The clearest images: the highest scores in the claimed set, the lowest in the other.
    evidence = {}
    for side, members_of_side in (("A", is_a), ("B", ~is_a)):
        chosen = np.flatnonzero(members_of_side & known)
        ranked = chosen[np.argsort(row[chosen], kind="stable")]
        ranked = ranked[::-1] if side == h.direction else ranked
        evidence[side] = tuple(ids[ranked[:_EVIDENCE]].tolist())
    return Difference(
        text=h.text,
        direction=h.direction,
        auroc=float(tests.auroc[best]),
        ci_low=float(tests.interval[best, 0]),
        ci_high=float(tests.interval[best, 1]),
        p_value=float(tests.p_value[best]),
        q_value=float(tests.q_value[best]),
        confirmed=bool(tests.confirmed[best]),
        mean_a=float(row[is_a & known].mean()),
        mean_b=float(row[~is_a & known].mean()),
        n_a=int((is_a & known).sum()),
        n_b=int((~is_a & known).sum()),
        n_unscored=int((np.isnan(row) & tested[best]).sum()),
        synonyms=tuple(hypotheses[i].text for i in members[1:]),
        evidence_a=evidence["A"],
        evidence_b=evidence["B"],
        proposer=h.proposer,
        round=h.round,
    )


def _reason(tests: Tests, i: int, settings: StatisticsConfig) -> str:
    if np.isnan(tests.auroc[i]):
        return "no image could be scored"
    if tests.auroc[i] <= 0.5:
        return "the scores point in the other direction"
    if tests.auroc[i] < settings.min_auroc:
        return f"AUROC {tests.auroc[i]:.2f} is below {settings.min_auroc:g}"
    return f"not significant: q = {tests.q_value[i]:.2g} is above {settings.alpha:g}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
