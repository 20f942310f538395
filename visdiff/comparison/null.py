"""The null distribution: the same comparison with shuffled sets, where every finding is false."""

from collections.abc import Sequence

import numpy as np

from visdiff.comparison.backends import Backends
from visdiff.comparison.folds import (
    propose_from_halves,
    score_on_halves,
    test_on_halves,
    tested_images,
)
from visdiff.comparison.rounds import select_captions
from visdiff.comparison.split import Halves
from visdiff.comparison.stages import proposals_stage, scores_stage
from visdiff.config import Config
from visdiff.errors import IncompleteError
from visdiff.imageset import ImageSet
from visdiff.results import NullRun


def null_run(
    backends: Backends,
    halves: Halves,
    discovery_captions: Sequence[str | None] | None,
    scoring_captions: Sequence[str | None] | None,
    config: Config,
) -> tuple[NullRun | None, list[str]]:
    """Repeats proposing and testing with shuffled set membership (within pairs if paired).

    Every confirmed difference of such a run is a false positive. Their number estimates how far
    the findings of the real run can be trusted.

    Args:
        backends: The models.
        halves: The images.
        discovery_captions: Captions of the discovery images, A's first; None if no backend uses
            them.
        scoring_captions: The same for the scored images.
        config: The configuration; ``null_repeats`` is the number of runs.

    Returns:
        The numbers of confirmed differences; None if no run is counted. And the distinct warnings.
        A run without an answer of the proposer, or without most of its scores, is not counted.
    """
    counts, warnings, missing, asked = [], dict[str, None](), 0, 0
    unanswered: list[str] = []
    for k in range(config.null_repeats):
        rng = np.random.default_rng([config.seed, 1 + k])
        mixed, discovery, scoring = shuffle_halves(halves, rng, paired=bool(config.paired_by))
        captions = select_captions(discovery_captions, discovery)
        with backends.runtime.quiet():
            try:
                proposals, proposed = propose_from_halves(backends, mixed, captions, config, rng)
            except IncompleteError as error:
                unanswered.append(str(error))
                continue
            warnings |= dict.fromkeys(proposals.warnings())
            if (stage := proposals_stage(proposals)).failed:
                unanswered.append(f"{stage.sentence}.")
                continue
            captions = select_captions(scoring_captions, scoring)
            scores = score_on_halves(backends, proposals.hypotheses, mixed, proposed, captions)
        tested = tested_images(mixed, proposed, len(proposals.hypotheses))
        missing, asked = missing + int((np.isnan(scores) & tested).sum()), asked + int(tested.sum())
        if (stage := scores_stage(scores, tested, "")).failed:
            unanswered.append(f"{stage.sentence}.")
            continue
        tests = test_on_halves(
            proposals.hypotheses, scores, mixed, proposed, config.statistics, rng
        )
        counts.append(int(tests.confirmed.sum()))
    if missing:
        warnings[f"{missing} of {asked} scores are missing and are ignored."] = None
    if unanswered:
        count = f"{len(unanswered)} of {config.null_repeats} runs are not counted"
        warnings[f"{count} (first: {unanswered[0]})"] = None
    if not counts:
        return None, list(warnings)
    return NullRun(len(counts), sum(c > 0 for c in counts), tuple(counts)), list(warnings)


def shuffle_halves(
    halves: Halves, rng: np.random.Generator, *, paired: bool
) -> tuple[Halves, np.ndarray, np.ndarray]:
    """Shuffles set membership in each half separately.

    A cluster stays in one set, so the number of images per set varies with the sizes of the
    clusters; the number of clusters per set does not.

    Returns:
        The halves with partners at equal positions; and for the discovery half and the scoring half
        the previous position of each image, A's first.
    """
    a, b = halves.scoring_a, halves.scoring_b
    n_new, order = _shuffled(halves.scoring_is_a, halves.clusters, halves.first, rng, paired=paired)
    scoring = _reordered(a, b, n_new, order)
    if halves.same_images:
        discovery, first_order = scoring, order
    else:
        a, b = halves.discovery_a, halves.discovery_b
        is_a = np.arange(len(a) + len(b)) < len(a)
        n_first, first_order = _shuffled(is_a, halves.discovery_clusters, None, rng, paired=paired)
        discovery = _reordered(a, b, n_first, first_order)
    groups = halves.groups
    mixed = Halves(
        *discovery,
        *scoring,
        halves.double_dipped,
        # Each fold is shuffled by itself, so the pairs are in another order.
        None if groups is None else groups[order[:n_new] % len(groups)],
        None if halves.clusters is None else halves.clusters[order],
        None if halves.discovery_clusters is None else halves.discovery_clusters[first_order],
        None if halves.first is None else halves.first[order],
    )
    return mixed, first_order, order


def shuffle_labels(
    is_a: np.ndarray,
    rng: np.random.Generator,
    *,
    paired: bool,
    clusters: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles set membership; if paired, swaps the members of random pairs.

    Clusters within one set are shuffled as a whole. A cluster with images in both sets, such as a
    pair or several pairs, has its two parts swapped with probability 1/2.

    Args:
        is_a: (n,) bool; if paired, the first half is True and partners are n / 2 apart.
        rng: Generator.
        paired: Whether the images are paired.
        clusters: (n,) cluster of each image; None if all images (or pairs) are independent.

    Returns:
        The new membership (n,) bool with the same number of clusters in each set, and the positions
        (n,) of its A images followed by its B images, partners at equal positions.
    """
    n = len(is_a)
    if not paired and clusters is None:
        new = rng.permutation(is_a)
        return new, np.concatenate([np.flatnonzero(new), np.flatnonzero(~new)])
    labels = np.tile(np.arange(n // 2), 2) if clusters is None else clusters
    _, place = np.unique(labels, return_inverse=True)
    in_a, in_b = np.bincount(place[is_a]) > 0, np.bincount(place[~is_a]) > 0
    count = int(place.max(initial=-1)) + 1
    in_a, in_b = (np.resize(np.append(x, [False] * count), count) for x in (in_a, in_b))
    goes_to_a = in_a.copy()
    pure = in_a ^ in_b
    goes_to_a[pure] = rng.permutation(in_a[pure])
    swapped = (rng.random(count) < 0.5) & ~pure
    new = np.where(pure[place], goes_to_a[place], is_a ^ swapped[place])
    if paired:
        first = np.flatnonzero(is_a)
        second = np.flatnonzero(~is_a)
        turned = swapped[place[first]]
        parts = np.where(turned, second, first), np.where(turned, first, second)
        return new, np.concatenate(parts)
    return new, np.concatenate([np.flatnonzero(new), np.flatnonzero(~new)])


def _shuffled(
    is_a: np.ndarray,
    clusters: np.ndarray | None,
    first: np.ndarray | None,
    rng: np.random.Generator,
    *,
    paired: bool,
) -> tuple[int, np.ndarray]:
    """Returns the new number of A's images and the order, A's first; each fold by itself."""
    of_a, of_b = [], []
    for part in [np.ones(len(is_a), bool)] if first is None else [first, ~first]:
        rows = np.flatnonzero(part)
        labels = None if clusters is None else clusters[rows]
        new, order = shuffle_labels(is_a[rows], rng, paired=paired, clusters=labels)
        of_a.append(rows[order[: new.sum()]])
        of_b.append(rows[order[new.sum() :]])
    order = np.concatenate([*of_a, *of_b])
    return sum(map(len, of_a)), order


def _reordered(
    a: ImageSet, b: ImageSet, n_new: int, order: np.ndarray
) -> tuple[ImageSet, ImageSet]:
    both = a.joined(b)
    return both.subset(order[:n_new]), both.subset(order[n_new:])
