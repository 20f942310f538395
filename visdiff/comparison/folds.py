"""Proposing from the discovery half and testing on the scoring half, or cross-fitting both.

A small set loses half of its images to each step. With cross-fitting, hypotheses are proposed from
each half and tested on the other (Chernozhukov et al. 2018, "Double/debiased machine learning for
treatment and structural parameters", use halves in this way). Every test is valid, because no image
is used to propose and to test the same hypothesis. A hypothesis that both halves propose has two
tests; its p-value is twice the smaller one (Bonferroni). All distinct hypotheses are corrected
together.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visdiff.comparison.backends import Backends
from visdiff.comparison.findings import Tests, test_hypotheses, with_p_values
from visdiff.comparison.rounds import check_answered, propose, select_captions
from visdiff.comparison.split import Halves
from visdiff.config import Config, StatisticsConfig
from visdiff.proposers import Proposals
from visdiff.results import Hypothesis


def propose_from_halves(
    backends: Backends,
    halves: Halves,
    captions: Sequence[str | None] | None,
    config: Config,
    rng: np.random.Generator,
) -> tuple[Proposals, np.ndarray | None]:
    """Proposes hypotheses from the discovery half, or from each half.

    Args:
        backends: The models.
        halves: The images.
        captions: Captions of the discovery images, A's first; None if no backend uses them.
        config: The configuration.
        rng: Generator for proposers and samples.

    Returns:
        The distinct hypotheses, and with cross-fitting (h, 2) bool, whether each was proposed from
        the first half and from the second; otherwise None.

    Raises:
        IncompleteError: Requests failed and there is no hypothesis of either half.
    """
    a, b = halves.discovery_a, halves.discovery_b
    if halves.first is None:
        found = propose(backends, a, b, captions, config, rng)
        check_answered(found)
        return found, None
    found, proposed = Proposals(), dict[tuple[str, str], list[bool]]()
    for half, part in enumerate((halves.first, ~halves.first)):
        of_a, of_b = a.subset(part[: len(a)]), b.subset(part[len(a) :])
        chosen = select_captions(captions, np.flatnonzero(part))
        more = propose(backends, of_a, of_b, chosen, config, rng)
        new = []
        for h in more.hypotheses:
            key = (h.text.casefold(), h.direction)
            if key not in proposed:
                proposed[key] = [False, False]
                new.append(h)
            proposed[key][half] = True
        found += replace(more, hypotheses=tuple(new))
    # One half without an answer is reported with the hypotheses of the other.
    check_answered(found)
    return found, np.array(list(proposed.values()), dtype=bool).reshape(-1, 2)


def score_on_halves(
    backends: Backends,
    hypotheses: Sequence[Hypothesis],
    halves: Halves,
    proposed: np.ndarray | None,
    captions: Sequence[str | None] | None,
) -> np.ndarray:
    """Scores every hypothesis on the scored images.

    A ranker that sends requests to a chat model only scores the images that a hypothesis is tested
    on. Other rankers score all, so that hypotheses of different halves can be compared.

    Args:
        backends: The models.
        hypotheses: h candidates.
        halves: The images.
        proposed: The result of `propose_from_halves`.
        captions: Captions of the scored images, A's first; None if the ranker reads none.

    Returns:
        (h, n_a + n_b) float32, NaN where unscored.
    """
    a, b = halves.scoring_a, halves.scoring_b
    if halves.first is None or proposed is None or not backends.ranker.asks:
        return backends.score(hypotheses, a, b, captions)
    scores = np.full((len(hypotheses), len(a) + len(b)), np.nan, np.float32)
    for half, part in enumerate((~halves.first, halves.first)):
        rows, columns = np.flatnonzero(proposed[:, half]), np.flatnonzero(part)
        of_a, of_b = a.subset(part[: len(a)]), b.subset(part[len(a) :])
        chosen = [hypotheses[i] for i in rows.tolist()]
        values = backends.score(chosen, of_a, of_b, select_captions(captions, columns))
        scores[np.ix_(rows, columns)] = values
    return scores


def test_on_halves(
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    halves: Halves,
    proposed: np.ndarray | None,
    settings: StatisticsConfig,
    rng: np.random.Generator,
) -> Tests:
    """Tests every hypothesis on the scored images that it does not come from.

    For a hypothesis of both halves, the AUROC and its bounds are the means of the two tests.

    Args:
        hypotheses: h candidates.
        scores: (h, n) scores of the scored images, NaN where unscored.
        halves: The images.
        proposed: The result of `propose_from_halves`.
        settings: Thresholds.
        rng: Generator for permutations and bootstrap.
    """
    everything = np.ones(scores.shape[1], bool)
    if halves.first is None or proposed is None:
        return _test_part(hypotheses, scores, halves, everything, settings, rng)
    n = len(hypotheses)
    auroc, p_values = np.full((2, n), np.nan), np.full((2, n), np.nan)
    intervals = np.full((2, n, 2), np.nan)
    for half, part in enumerate((~halves.first, halves.first)):
        rows = np.flatnonzero(proposed[:, half])
        chosen = [hypotheses[i] for i in rows.tolist()]
        tests = _test_part(chosen, scores[rows], halves, part, settings, rng)
        auroc[half, rows], p_values[half, rows] = tests.auroc, tests.p_value
        intervals[half, rows] = tests.interval
    # A test without scores has no p-value; the other one still counts twice.
    smaller = np.fmin(*p_values) * np.where(proposed.all(axis=1), 2, 1)
    known = np.maximum((~np.isnan(auroc)).sum(axis=0), 1)
    mean = np.where(np.isnan(auroc).all(axis=0), np.nan, np.nansum(auroc, axis=0) / known)
    bounds = np.nansum(intervals, axis=0) / known[:, None]
    bounds[np.isnan(mean)] = np.nan
    empty = np.zeros(n, bool)
    tests = Tests(mean, bounds, np.minimum(smaller, 1), np.full(n, np.nan), empty)
    return with_p_values(tests, settings)


def tested_images(halves: Halves, proposed: np.ndarray | None, n_hypotheses: int) -> np.ndarray:
    """Returns (h, n_scoring) bool, the images that each hypothesis was tested on."""
    n = len(halves.scoring_is_a)
    if halves.first is None or proposed is None:
        return np.ones((n_hypotheses, n), bool)
    return (proposed[:, :1] & ~halves.first) | (proposed[:, 1:] & halves.first)


def _test_part(
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    halves: Halves,
    part: np.ndarray,
    settings: StatisticsConfig,
    rng: np.random.Generator,
) -> Tests:
    n_a = len(halves.scoring_a)
    return test_hypotheses(
        hypotheses,
        scores[:, part],
        halves.scoring_is_a[part],
        settings,
        rng,
        groups=None if halves.groups is None else halves.groups[part[:n_a]],
        clusters=None if halves.clusters is None else halves.clusters[part],
        may_confirm=not halves.double_dipped,
    )
