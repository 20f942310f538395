"""Judges, which decide whether a hypothesis states the true difference between two sets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from visdiff.errors import InputError
from visdiff.results import Direction

SCORES = (0.0, 0.5, 1.0)
"""The possible scores: the rubric's 0 (not aligned), 1 (partially) and 2 (fully), halved."""


@dataclass(frozen=True)
class Claim:
    """A hypothesis about a pair of sets, with the ground truth of the pair.

    Attributes:
        text: The hypothesis.
        direction: The set, "A" or "B", that the hypothesis is claimed to be truer of.
        truth_a: Description of set A.
        truth_b: Description of set B.
    """

    text: str
    direction: Direction
    truth_a: str
    truth_b: str

    def __post_init__(self) -> None:
        if self.direction not in ("A", "B"):
            raise InputError(
                f'Expected direction "A" or "B" in a claim, got {self.direction!r}; name the set '
                f"that the sentence is truer of."
            )

    @property
    def own(self) -> str:
        """Description of the set that the hypothesis is claimed to be truer of."""
        return self.truth_a if self.direction == "A" else self.truth_b

    @property
    def other(self) -> str:
        """Description of the other set."""
        return self.truth_b if self.direction == "A" else self.truth_a


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on a claim.

    Attributes:
        score: 1 for correct, 0.5 for broader or narrower, 0 for wrong. None means no verdict and
            never counts as wrong.
        reason: The reason; never empty without a score.
    """

    score: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.score is None:
            if not self.reason:
                raise InputError(
                    "Expected a reason for a verdict without a score, got none; pass a reason."
                )
        elif math.isnan(self.score) or self.score not in SCORES:
            raise InputError(
                f"Expected a score of 0, 0.5 or 1 (or None with a reason), got {self.score!r}; "
                "halve the rubric's score."
            )


class Judge(Protocol):
    """A judge of single claims, blind to the claim's score, rank and system.

    A backend's constructor accepts its settings as keywords and ignores unknown ones.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that affects a verdict: name, prompt, model. JSON values; no API key."""
        ...

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        """Judges every claim.

        Args:
            claims: Claims about any pairs.
            progress: Whether to show progress on stderr.

        Returns:
            One verdict per claim, in order. A failure of one does not affect the others.

        Raises:
            InputError: No such claim can be judged.
        """
        ...
