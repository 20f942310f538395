"""Rounds of proposals: hypotheses from the discovery half, until the sentences explain it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visdiff import stats
from visdiff.comparison.backends import Backends
from visdiff.comparison.selection import choose
from visdiff.config import Config
from visdiff.errors import InputError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.proposers import Evidence, Proposals

#: With ``rounds="auto"``: at most this many, and another only when the image features tell the
#: discovery halves apart better than the sentences do by more than this AUROC.
MAX_ROUNDS = 3
_LARGE_GAP = 0.05


def propose(
    backends: Backends,
    a: ImageSet,
    b: ImageSet,
    captions: Sequence[str | None] | None,
    config: Config,
    rng: np.random.Generator,
) -> Proposals:
    """Proposes hypotheses from the discovery half, in one round or several.

    Later rounds see only the images that the sentences so far leave unexplained, and of those a
    sample where ``proposer.sampling`` says how to choose it. Both look at the discovery half alone,
    so the scoring half stays untouched.

    Args:
        backends: The models.
        a: Discovery images of A.
        b: Discovery images of B; when paired, image i belongs to image i of A.
        captions: Captions of the discovery images, A's first; None when nobody reads them.
        config: ``rounds`` says how many.
        rng: For proposers that draw.

    Returns:
        All rounds' hypotheses, none twice, and what was refused.

    Raises:
        VisdiffError: Questions failed, and there is no hypothesis: that is no finding of none.
    """
    is_a = np.arange(len(a) + len(b)) < len(a)
    rounds = MAX_ROUNDS if config.rounds == "auto" else config.rounds
    unexplained = np.ones(len(is_a), bool)
    found = Proposals()
    for number in range(1, rounds + 1):
        shown = _shown(backends, a, b, unexplained, config, rng)
        evidence = _evidence(a, b, captions, shown, bool(config.paired_by))
        if not len(evidence.images_a) or not len(evidence.images_b):
            break
        known = {(h.text.casefold(), h.direction) for h in found.hypotheses}
        more = backends.proposer.propose(evidence, rng=rng, round=number)
        new = [h for h in more.hypotheses if (h.text.casefold(), h.direction) not in known]
        found += replace(more, hypotheses=tuple(new))
        if not new or number == rounds:
            break
        scores = backends.score(found.hypotheses, a, b, captions)
        if config.rounds == "auto":
            features = backends.features(a, b)
            if features is not None:
                sentences = stats.separability(scores.T, is_a, np.random.default_rng(config.seed))
                images = stats.separability(features, is_a, np.random.default_rng(config.seed))
                if not images - sentences > _LARGE_GAP:
                    break
        unexplained = stats.unexplained(scores.T, is_a, np.random.default_rng(config.seed))
    if found.failures and not found.hypotheses:
        raise VisdiffError(
            f"expected hypotheses from the proposer, got no answer ({found.failures[0]}); what was "
            "computed so far is in the cache: run again."
        )
    return found


def _shown(
    backends: Backends,
    a: ImageSet,
    b: ImageSet,
    left: np.ndarray,
    config: Config,
    rng: np.random.Generator,
) -> np.ndarray:
    """Which of the images left the proposer is shown, (n_a + n_b,) bool; all where it draws."""
    strategy, paired = config.proposer.sampling, bool(config.paired_by)
    if strategy == "random":
        return left
    features = backends.features(a, b)
    if features is None:
        raise InputError(
            f"expected image features for proposer.sampling {strategy!r}, got a ranker that has "
            "none; use the ranker 'clip'"
        )
    is_a = np.arange(len(a) + len(b)) < len(a)
    size = config.proposer.sample_size
    return choose(strategy, features, is_a, size, rng, open_=left, paired=paired)


def _evidence(
    a: ImageSet,
    b: ImageSet,
    captions: Sequence[str | None] | None,
    left: np.ndarray,
    paired: bool,
) -> Evidence:
    """What is left of the discovery half; a pair stays whole while one of the two is left."""
    if paired:
        left = np.tile(left[: len(a)] | left[len(a) :], 2)
    in_a, in_b = np.flatnonzero(left[: len(a)]), np.flatnonzero(left[len(a) :])
    return Evidence(
        a.subset(in_a),
        b.subset(in_b),
        captions_at(captions, in_a),
        captions_at(captions, len(a) + in_b),
        paired,
    )


def captions_at(
    captions: Sequence[str | None] | None, places: np.ndarray
) -> list[str | None] | None:
    """Returns the captions at some places, or None when there are none at all."""
    return None if captions is None else [captions[i] for i in places.tolist()]
