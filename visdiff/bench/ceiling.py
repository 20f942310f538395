"""The best that a comparison could do on a pair: the power of its test, given the truth.

The attribute that sets a pair apart, known of every image, takes the place of the ranker's score.
Everything else is that of a comparison: the same images are scored, the same number of hypotheses
is tested by the same statistics (`visdiff.comparison.findings.test`), and the same thresholds
confirm. What stays below this ceiling is lost by captioner, proposer and ranker; what the ceiling
itself lacks, no model could give, because so many images at this purity do not tell.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visdiff.bench.purity import mixed
from visdiff.comparison.findings import test_hypotheses
from visdiff.config import StatisticsConfig
from visdiff.results import Hypothesis


def power(
    own_a: NDArray[np.bool_],
    own_b: NDArray[np.bool_],
    scored_a: NDArray[np.bool_],
    scored_b: NDArray[np.bool_],
    *,
    purity: float,
    tested: int,
    settings: StatisticsConfig,
    rng: np.random.Generator,
    draws: int = 100,
) -> float:
    """Return how often the truth about set A is confirmed when its score is the truth itself.

    Of the hypotheses that are tested, one says what A has and, when there are two or more, one says
    what B has (what is not A's). The others are noise: they are there for the correction.

    Args:
        own_a: (n_a,) whether an image of A, before anything is mixed, shows what A is said to show.
        own_b: (n_b,) the same attribute, A's, in the images of B.
        scored_a: (n_a,) whether an image of A is in the half that is scored; it is in the same half
            whichever set it is mixed into.
        scored_b: (n_b,) likewise.
        purity: p, from 0.5 to 1, see `visdiff.bench.purity`.
        tested: Hypotheses that a comparison of this pair tests; one is tested when it is 0, as the
            truth is.
        settings: Thresholds.
        rng: Draws which images are mixed, and the noise.
        draws: How many mixtures are tried; at purity 1 they differ in the noise alone.

    Returns:
        The share of mixtures in which the truth is confirmed, in [0, 1]. 0 when a half that is to
        be scored is smaller than ``settings.min_scored``: nothing is confirmed then.

    Raises:
        InputError: The purity is out of range.
    """
    hypotheses = _hypotheses(max(1, tested))
    shows = np.concatenate([own_a, own_b])
    scored = np.concatenate([scored_a, scored_b])
    places_a, places_b = np.arange(len(own_a)), len(own_a) + np.arange(len(own_b))
    confirmed = 0
    for _ in range(draws):
        sides = mixed(places_a.tolist(), places_b.tolist(), purity, rng)
        a, b = (np.array([i for i in side if scored[i]], dtype=int) for side in sides)
        if min(len(a), len(b)) < settings.min_scored:
            continue
        truth = shows[np.concatenate([a, b])].astype(np.float64)
        noise = rng.standard_normal((max(0, len(hypotheses) - 2), len(truth)))
        scores = np.concatenate([np.stack([truth, 1 - truth])[: len(hypotheses)], noise])
        is_a = np.arange(len(truth)) < len(a)
        confirmed += bool(test_hypotheses(hypotheses, scores, is_a, settings, rng).confirmed[0])
    return confirmed / draws


def _hypotheses(count: int) -> Sequence[Hypothesis]:
    noise = [Hypothesis(f"noise {i}", "A", "noise") for i in range(count - 2)]
    return [Hypothesis("A's", "A", "truth"), Hypothesis("B's", "B", "truth"), *noise][:count]
