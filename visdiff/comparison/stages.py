"""How much of what each stage asked for was obtained: captions, answers of the proposer, scores.

A stage that got less than half of it supports no conclusion. In particular, without captions
nothing is proposed and nothing is found, whatever the sets.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from visdiff.engine import Applied
from visdiff.proposers import Proposals
from visdiff.proposers.replies import is_none
from visdiff.results import Stage


def captions_stage(captioned: Sequence[Applied]) -> Stage:
    """Returns the numbers of captions over the halves that were captioned."""
    values = [value for applied in captioned for value in applied.values]
    reasons = Counter(reason for applied in captioned for reason in applied.failures.values())
    got = sum(value is not None for value in values)
    return Stage("captions", len(values), got, _most_common(reasons))


def proposals_stage(proposals: Proposals) -> Stage:
    """Returns the numbers of answers of the proposer; one that asks no model has none."""
    reasons = Counter(proposals.failures)
    if not reasons:
        reasons.update(reason for text, reason in proposals.refused if not is_none(text))
    # A proposer of another distribution may not count its questions.
    asked = max(proposals.asked, proposals.answered + len(proposals.failures))
    if reasons and not proposals.hypotheses:
        asked = max(asked, 1)
    reason = _most_common(reasons) if proposals.answered < asked else ""
    return Stage("answers of the proposer", asked, proposals.answered, reason)


def scores_stage(scores: np.ndarray, tested: np.ndarray, reason: str) -> Stage:
    """Returns the numbers of scores.

    Args:
        scores: (h, n) scores, NaN where unscored.
        tested: (h, n) bool, which scores were asked for.
        reason: The most frequent reason of a missing score, or "".
    """
    asked, missing = int(tested.sum()), int((np.isnan(scores) & tested).sum())
    return Stage("scores", asked, asked - missing, reason if missing else "")


def _most_common(reasons: Counter[str]) -> str:
    return reasons.most_common(1)[0][0] if reasons else ""
