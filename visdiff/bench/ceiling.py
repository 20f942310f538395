"""The ceiling of a comparison on a pair: the power of its test with the true attribute as score.

The attribute that differs in the pair, known for every image, replaces the ranker's score. The rest
is the same as in a comparison: the scored images, the number of tested hypotheses, the statistics
(`visdiff.comparison.findings.test_hypotheses`) and the thresholds. The gap between a result and
this ceiling is due to captioner, proposer and ranker. The gap between the ceiling and 1 is due to
the number of images and the purity; no model could close it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visdiff.bench.purity import mix
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
    """Returns how often the true hypothesis about set A is confirmed when the score is the truth.

    One of the tested hypotheses describes A; if there are two or more, another describes B. The
    others have random scores and only matter for the multiple-testing correction.

    Args:
        own_a: (n_a,) whether an image of A, before mixing, has A's attribute.
        own_b: (n_b,) whether an image of B, before mixing, has A's attribute.
        scored_a: (n_a,) whether an image of A is in the scoring half; mixing does not change this.
        scored_b: (n_b,) the same for the images of B.
        purity: p, from 0.5 to 1, see `visdiff.bench.purity`.
        tested: Number of hypotheses that a comparison of this pair tests; 0 counts as 1.
        settings: Thresholds.
        rng: Generator for the mixtures and the noise.
        draws: Number of random mixtures; at purity 1 they differ in the noise only.

    Returns:
        The fraction of mixtures in which the truth is confirmed, in [0, 1]. 0 when a scoring half
        is smaller than ``settings.min_scored``, because nothing is confirmed then.

    Raises:
        InputError: The purity is out of range.
    """
    hypotheses = _hypotheses(max(1, tested))
    shows = np.concatenate([own_a, own_b])
    scored = np.concatenate([scored_a, scored_b])
    places_a, places_b = np.arange(len(own_a)), len(own_a) + np.arange(len(own_b))
    confirmed = 0
    for _ in range(draws):
        sides = mix(places_a.tolist(), places_b.tolist(), purity, rng)
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
