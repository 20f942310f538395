"""Judges: whether a hypothesis says what the true difference between two sets is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from visdiff.errors import InputError
from visdiff.results import Direction

SCORES = (0.0, 0.5, 1.0)
"""What a verdict can be: the rubric's 0 (not aligned), 1 (somewhat) and 2 (fully), halved."""


@dataclass(frozen=True)
class Claim:
    """A hypothesis about a pair of sets, beside what is known of the pair.

    Attributes:
        text: The hypothesis.
        direction: The set, "A" or "B", that it is claimed to be truer of.
        truth_a: What set A shows, in words.
        truth_b: What set B shows.
    """

    text: str
    direction: Direction
    truth_a: str
    truth_b: str

    def __post_init__(self) -> None:
        if self.direction not in ("A", "B"):
            raise InputError(
                f'expected direction "A" or "B" in a claim, got {self.direction!r}: name the set '
                f"that the sentence is truer of."
            )

    @property
    def own(self) -> str:
        """What the set shows that the hypothesis is claimed to be truer of."""
        return self.truth_a if self.direction == "A" else self.truth_b

    @property
    def other(self) -> str:
        """What the other set shows."""
        return self.truth_b if self.direction == "A" else self.truth_a


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a claim.

    Attributes:
        score: 1 right, 0.5 broader or narrower than right, 0 wrong; None when there is no verdict,
            which is never counted as wrong.
        reason: Why, in words; never empty when there is no score.
    """

    score: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.score is None:
            if not self.reason:
                raise InputError("expected a reason with a verdict that has no score, got none.")
        elif math.isnan(self.score) or self.score not in SCORES:
            raise InputError(
                f"expected a verdict of 0, 0.5 or 1 (or None with a reason), got {self.score!r}."
            )


class Judge(Protocol):
    """Judges claims one by one; it never sees a score, a rank or which system made a claim.

    A backend's constructor takes its settings as keywords and ignores those that mean nothing to
    it.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """What changes a verdict: name, prompt, model. JSON values; never a key."""
        ...

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        """Judge every claim.

        Args:
            claims: Any number, of any pairs.
            progress: Show progress on stderr.

        Returns:
            One verdict a claim, in order; whatever happens to one, the others are kept.

        Raises:
            InputError: No claim of this kind can be judged at all.
        """
        ...
