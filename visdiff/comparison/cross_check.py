"""The cross-check: a second ranker scores the confirmed differences on the same images.

Rankers that score images in different ways (CLIP similarity, visual question answering, words of a
caption) rarely make the same errors. A difference that the second ranker does not support stays
confirmed, because the test of the first ranker is valid, but the report marks it as disputed.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visdiff.comparison.backends import Backends
from visdiff.comparison.folds import test_on_halves, tested_images
from visdiff.comparison.measurements import Measurements
from visdiff.config import Config
from visdiff.results import Difference, Hypothesis

#: Makes the second ranker's permutations differ from those of the first.
_STREAM = 0x5EC0D


def cross_check(
    differences: Sequence[Difference],
    measured: Measurements,
    config: Config,
    backends: Backends,
) -> tuple[tuple[Difference, ...], list[str]]:
    """Scores the confirmed differences with the second ranker, on the images of the test.

    Args:
        differences: All differences of the report; unconfirmed ones are returned unchanged.
        measured: The measurements of the comparison: the images, and their captions if they have
            been computed.
        config: ``verify`` is the second ranker; the interval's level is that of the first.
        backends: The models, including the second ranker.

    Returns:
        The differences in the same order, and warnings. Confirmed differences have the second
        ranker's AUROC and interval, oriented by the claim. A difference is disputed when that
        interval does not lie above 0.5; ``disputed`` is None when the second ranker scored no
        image.
    """
    confirmed = [d for d in differences if d.confirmed]
    halves, scoring_captions = measured.halves, measured.scoring_captions
    a, b, warnings = halves.scoring_a, halves.scoring_b, list[str]()
    if backends.verifier is None or not confirmed:
        return tuple(differences), []
    if backends.verifier.needs_captions and scoring_captions is None:
        found = backends.captions(a, b)
        scoring_captions = found.values
        if found.failures:
            warnings.append(
                f"{len(found.failures)} images have no caption for the second ranker "
                f"(first: {next(iter(found.failures.values()))})."
            )
    hypotheses = [Hypothesis(d.text, d.direction, d.proposer, d.round) for d in confirmed]
    before = backends.ledger.reasons.copy()
    scores = backends.verify(hypotheses, a, b, scoring_captions)
    proposed = measured.proposed
    if proposed is not None:
        row_of = {(h.text, h.direction): i for i, h in enumerate(measured.hypotheses)}
        proposed = proposed[[row_of[d.text, d.direction] for d in confirmed]]
    rng = np.random.default_rng([config.seed, _STREAM])
    tests = test_on_halves(hypotheses, scores, halves, proposed, config.statistics, rng)
    tested = tested_images(halves, proposed, len(confirmed))
    checked = {}
    for row, difference in enumerate(confirmed):
        low, high = (_number(bound) for bound in tests.interval[row])
        checked[difference.text, difference.direction] = replace(
            difference,
            verify_auroc=_number(tests.auroc[row]),
            verify_ci_low=low,
            verify_ci_high=high,
            verify_n_unscored=int((np.isnan(scores[row]) & tested[row]).sum()),
            disputed=None if low is None else not low > 0.5,
        )
    name = config.verify.backend if config.verify is not None else "second ranker"
    reason = backends.ledger.common_reason(before)
    warnings += _warnings(list(checked.values()), name, reason)
    return tuple(checked.get((d.text, d.direction), d) for d in differences), warnings


def _warnings(checked: Sequence[Difference], ranker: str, reason: str) -> list[str]:
    """Returns the warnings of the cross-check, one sentence each."""
    sentences = []
    disputed = [d for d in checked if d.disputed]
    if disputed:
        texts = ", ".join(f"“{d.text}”" for d in disputed[:3])
        more = f" and {len(disputed) - 3} more" if len(disputed) > 3 else ""
        sentences.append(
            f"The second ranker ({ranker}) does not support {len(disputed)} of {len(checked)} "
            f"confirmed differences: {texts}{more}."
        )
    missing = sum(d.verify_n_unscored for d in checked)
    if missing:
        # A ranker does not know whether it is the second one.
        often = reason.replace("ranker.max_tokens", "verify.max_tokens")
        sentences.append(f"{missing} scores of the second ranker ({ranker}) are missing.")
        if often:
            sentences.append(f"The most frequent reason of these missing scores: {often}.")
    return sentences


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
