"""The same comparison with shuffled membership: how often it "finds" what cannot be there."""

from collections.abc import Sequence

import numpy as np

from visdiff.comparison.backends import Backends
from visdiff.comparison.findings import test_hypotheses
from visdiff.comparison.rounds import captions_at, propose
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
    """Repeats proposing and testing with shuffled membership (within pairs when paired).

    Whatever such a run confirms is false: what it finds says how far to trust the real one.

    Args:
        backends: The models.
        halves: The images.
        discovery_captions: Of the discovery images, A's first; None when nobody reads them.
        scoring_captions: Of the scored images, likewise.
        config: ``null_repeats`` says how often.

    Returns:
        What the runs confirmed, and warnings, each once.
    """
    counts, warnings = [], dict[str, None]()
    for k in range(config.null_repeats):
        rng = np.random.default_rng([config.seed, 1 + k])
        mixed, discovery, scoring = mixed_up(halves, rng, paired=bool(config.paired_by))
        a, b = mixed.discovery_a, mixed.discovery_b
        captions = captions_at(discovery_captions, discovery)
        with backends.runtime.quiet():
            proposed = propose(backends, a, b, captions, config, rng)
            warnings |= dict.fromkeys(proposed.warnings())
            a, b = mixed.scoring_a, mixed.scoring_b
            captions = captions_at(scoring_captions, scoring)
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


def mixed_up(
    halves: Halves, rng: np.random.Generator, *, paired: bool
) -> tuple[Halves, np.ndarray, np.ndarray]:
    """Shuffles which set the images are of, in each half on its own.

    Returns:
        The halves with as many images a side as before, partners still at the same place, and where
        each image of the discovery half and of the scoring half was, A's first.
    """
    sides: list[ImageSet] = []
    orders: list[np.ndarray] = []
    for a, b in (
        (halves.discovery_a, halves.discovery_b),
        (halves.scoring_a, halves.scoring_b),
    ):
        if orders and halves.double_dipped:  # the same images: they stay the same
            sides, orders = sides * 2, orders * 2
            break
        _, order = shuffled(np.arange(len(a) + len(b)) < len(a), rng, paired=paired)
        both = a.joined(b)
        sides += [both.subset(order[: len(a)]), both.subset(order[len(a) :])]
        orders.append(order)
    discovery_a, discovery_b, scoring_a, scoring_b = sides
    mixed = Halves(
        discovery_a, discovery_b, scoring_a, scoring_b, halves.double_dipped, halves.groups
    )
    return mixed, orders[0], orders[1]


def shuffled(
    is_a: np.ndarray, rng: np.random.Generator, *, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles membership; a paired one by swapping the members of random pairs.

    Returns:
        The new membership (n,) bool with as many True, and the positions (n,) that list its A
        images first, then its B images, partners at the same place.
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
