"""The null distribution: the same comparison with shuffled sets, where every finding is false."""

from collections.abc import Sequence

import numpy as np

from visdiff.comparison.backends import Backends
from visdiff.comparison.findings import test_hypotheses
from visdiff.comparison.rounds import propose, select_captions
from visdiff.comparison.split import Halves
from visdiff.config import Config
from visdiff.imageset import ImageSet
from visdiff.results import NullRun


def null_run(
    backends: Backends,
    halves: Halves,
    discovery_captions: Sequence[str | None] | None,
    scoring_captions: Sequence[str | None] | None,
    config: Config,
) -> tuple[NullRun, list[str]]:
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
        The numbers of confirmed differences, and the distinct warnings.
    """
    counts, warnings = [], dict[str, None]()
    for k in range(config.null_repeats):
        rng = np.random.default_rng([config.seed, 1 + k])
        mixed, discovery, scoring = shuffle_halves(halves, rng, paired=bool(config.paired_by))
        a, b = mixed.discovery_a, mixed.discovery_b
        captions = select_captions(discovery_captions, discovery)
        with backends.runtime.quiet():
            proposed = propose(backends, a, b, captions, config, rng)
            warnings |= dict.fromkeys(proposed.warnings())
            a, b = mixed.scoring_a, mixed.scoring_b
            captions = select_captions(scoring_captions, scoring)
            scores = backends.score(proposed.hypotheses, a, b, captions)
        tests = test_hypotheses(
            proposed.hypotheses,
            scores,
            mixed.scoring_is_a,
            config.statistics,
            rng,
            groups=mixed.groups,
            may_confirm=not mixed.double_dipped,
        )
        counts.append(int(tests.confirmed.sum()))
    return NullRun(len(counts), sum(c > 0 for c in counts), tuple(counts)), list(warnings)


def shuffle_halves(
    halves: Halves, rng: np.random.Generator, *, paired: bool
) -> tuple[Halves, np.ndarray, np.ndarray]:
    """Shuffles set membership in each half separately.

    Returns:
        The halves with as many images per set as before and partners at equal positions; and for
        the discovery half and the scoring half the previous position of each image, A's first.
    """
    sides: list[ImageSet] = []
    orders: list[np.ndarray] = []
    for a, b in (
        (halves.discovery_a, halves.discovery_b),
        (halves.scoring_a, halves.scoring_b),
    ):
        if orders and halves.double_dipped:  # both halves hold the same images
            sides, orders = sides * 2, orders * 2
            break
        _, order = shuffle_labels(np.arange(len(a) + len(b)) < len(a), rng, paired=paired)
        both = a.joined(b)
        sides += [both.subset(order[: len(a)]), both.subset(order[len(a) :])]
        orders.append(order)
    discovery_a, discovery_b, scoring_a, scoring_b = sides
    mixed = Halves(
        discovery_a, discovery_b, scoring_a, scoring_b, halves.double_dipped, halves.groups
    )
    return mixed, orders[0], orders[1]


def shuffle_labels(
    is_a: np.ndarray, rng: np.random.Generator, *, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles set membership; if paired, swaps the members of random pairs.

    Returns:
        The new membership (n,) bool with the same number of True, and the positions (n,) of its A
        images followed by its B images, partners at equal positions.
    """
    n = len(is_a)
    if not paired:
        new = rng.permutation(is_a)
        return new, np.concatenate([np.flatnonzero(new), np.flatnonzero(~new)])
    half = n // 2
    swap = rng.random(half) < 0.5
    first = np.where(swap, np.arange(half, n), np.arange(half))
    second = np.where(swap, np.arange(half), np.arange(half, n))
    new = np.zeros(n, bool)
    new[first] = True
    return new, np.concatenate([first, second])
