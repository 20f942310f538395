"""Rounds of proposals from the discovery half, until the hypotheses explain its images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visdiff import stats
from visdiff.comparison.backends import Backends
from visdiff.comparison.selection import choose
from visdiff.config import Config
from visdiff.errors import IncompleteError, InputError
from visdiff.imageset import ImageSet
from visdiff.proposers import Evidence, Proposals

#: Largest number of rounds with ``rounds="auto"``.
MAX_ROUNDS = 3
#: With ``rounds="auto"``, another round starts only if image features separate the discovery images
#: better than the sentences do, by more than this AUROC.
_LARGE_GAP = 0.05


def check_answered(found: Proposals) -> None:
    """Checks that there is a hypothesis if requests failed.

    Raises:
        IncompleteError: Requests failed and there is no hypothesis, which is not the same as no
            difference.
    """
    if found.failures and not found.hypotheses:
        raise IncompleteError(
            f"Expected hypotheses from the proposer, got no answer ({found.failures[0]}); run "
            "again, the results so far are in the cache."
        )


def propose(
    backends: Backends,
    a: ImageSet,
    b: ImageSet,
    captions: Sequence[str | None] | None,
    config: Config,
    rng: np.random.Generator,
) -> Proposals:
    """Proposes hypotheses in one round or several.

    Later rounds use only the images that the hypotheses so far leave unexplained. A sample of them
    is chosen according to ``proposer.sampling``. Both steps use the discovery half only.

    Args:
        backends: The models.
        a: Discovery images of A.
        b: Discovery images of B; if paired, image i is the partner of image i of A.
        captions: Captions of the discovery images, A's first; None if no backend uses them.
        config: The configuration; ``rounds`` is the number of rounds.
        rng: Generator for proposers and samples.

    Returns:
        The distinct hypotheses of all rounds, what was refused, and failed requests.
    """
    is_a = np.arange(len(a) + len(b)) < len(a)
    rounds = MAX_ROUNDS if config.rounds == "auto" else config.rounds
    unexplained = np.ones(len(is_a), bool)
    found = Proposals()
    for number in range(1, rounds + 1):
        selected = _select_images(backends, a, b, unexplained, config, rng)
        evidence = _evidence(a, b, captions, selected, bool(config.paired_by))
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
    return found


def _select_images(
    backends: Backends,
    a: ImageSet,
    b: ImageSet,
    candidates: np.ndarray,
    config: Config,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the images to show to the proposer, (n_a + n_b,) bool.

    With "random" sampling these are all candidates: the proposer draws a sample itself.
    """
    strategy, paired = config.proposer.sampling, bool(config.paired_by)
    if strategy == "random":
        return candidates
    features = backends.features(a, b)
    if features is None:
        raise InputError(
            f"Expected image features for proposer.sampling {strategy!r}, got a ranker that has "
            "none; use the ranker 'clip'."
        )
    is_a = np.arange(len(a) + len(b)) < len(a)
    size = config.proposer.sample_size
    return choose(strategy, features, is_a, size, rng, candidates=candidates, paired=paired)


def _evidence(
    a: ImageSet,
    b: ImageSet,
    captions: Sequence[str | None] | None,
    selected: np.ndarray,
    paired: bool,
) -> Evidence:
    """Returns the selected images and captions, with the partners of selected images."""
    if paired:
        selected = np.tile(selected[: len(a)] | selected[len(a) :], 2)
    in_a, in_b = np.flatnonzero(selected[: len(a)]), np.flatnonzero(selected[len(a) :])
    return Evidence(
        a.subset(in_a),
        b.subset(in_b),
        select_captions(captions, in_a),
        select_captions(captions, len(a) + in_b),
        paired,
    )


def select_captions(
    captions: Sequence[str | None] | None, positions: np.ndarray
) -> list[str | None] | None:
    """Returns the captions at some positions, or None without captions."""
    return None if captions is None else [captions[i] for i in positions.tolist()]
