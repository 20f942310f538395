"""Faults of a personalised model, tested together and ranked by their size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from editing.metrics.proportions import proportion
from visdiff import stats

NOTABLE = 0.25
"""Smallest size of a fault that is confirmed: a quarter of what is possible. Every personalisation
moves the model a little, and with enough images any change is significant."""


@dataclass(frozen=True)
class Candidate:
    """A possible fault of a personalised model.

    Attributes:
        kind: One of `editing.audits.personalized.attributes.KINDS`, "language drift", "copies",
            "prompt not followed" or "attention leak".
        sentence: The fault in words, with its numbers.
        size: Its size relative to what is possible, at most 1.
        p_value: One-sided p-value of the paired test, in (0, 1].
        word: The word that a caption would have to name; "" for kinds without one.
    """

    kind: str
    sentence: str
    size: float
    p_value: float
    word: str = ""


@dataclass(frozen=True)
class Finding:
    """A candidate with its result.

    Attributes:
        kind: See `Candidate`; "side effect" for a difference of another prompt group.
        sentence: See `Candidate`.
        size: See `Candidate`.
        q_value: p-value corrected over the candidates that were tested together.
        confirmed: Whether the q-value is at most the false discovery rate and the size is notable.
        word: See `Candidate`.
    """

    kind: str
    sentence: str
    size: float
    q_value: float
    confirmed: bool
    word: str = ""


def conclude(candidates: Sequence[Sequence[Candidate]], fdr: float) -> list[tuple[Finding, ...]]:
    """Returns the findings of each subject, confirmed ones first, then by size.

    Args:
        candidates: The candidates of each subject of an audit.
        fdr: False discovery rate over all of them, of Benjamini and Hochberg.
    """
    p_values = [c.p_value for own in candidates for c in own]
    q_values = iter(stats.benjamini_hochberg(np.array(p_values)).tolist() if p_values else [])
    return [tuple(sorted((_finding(c, next(q_values), fdr) for c in own), key=_rank))
            for own in candidates]  # fmt: skip


def share_text(flags: ArrayLike) -> str:
    """Returns a share with its 95 % Wilson interval, "9 of 10 (60–98 %)".

    Args:
        flags: (n,) booleans, one or more.
    """
    share = proportion(flags)
    return f"{share.count} of {share.n} ({100 * share.low:.0f}–{100 * share.high:.0f} %)"


def paired_p(after: ArrayLike, before: ArrayLike, rng: np.random.Generator) -> float:
    """Returns the p-value of "after is no larger than before", by `visdiff.stats.sign_flip`.

    Args:
        after: (n,) values or flags of images of the taught model.
        before: (n,) those of the untaught model for the same noise.
        rng: Generator for the signs.
    """
    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return float(stats.sign_flip(differences[None], rng)[0])


def _finding(candidate: Candidate, q: float, fdr: float) -> Finding:
    confirmed = q <= fdr and candidate.size >= NOTABLE
    return Finding(candidate.kind, candidate.sentence, candidate.size, q, confirmed, candidate.word)


def _rank(finding: Finding) -> tuple[bool, float]:
    return not finding.confirmed, -finding.size
