"""Proposers turn two image sets into hypotheses about their differences."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from visdiff.engine import Backend
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.results import Hypothesis


@dataclass(frozen=True)
class Evidence:
    """The input of a proposer: the discovery half, or the images in it that are still unexplained.

    Attributes:
        images_a: Images of set A.
        images_b: Images of set B.
        captions_a: One per image of A, None for a missing one; None when the run has no captions.
        captions_b: Likewise for B.
        paired: Whether image i of A and image i of B form a pair, with the same prompt and seed.
    """

    images_a: ImageSet
    images_b: ImageSet
    captions_a: Sequence[str | None] | None = None
    captions_b: Sequence[str | None] | None = None
    paired: bool = False

    def __post_init__(self) -> None:
        for images, captions in (
            (self.images_a, self.captions_a),
            (self.images_b, self.captions_b),
        ):
            if captions is not None and len(captions) != len(images):
                raise ValueError(
                    f"Expected one caption for each of {len(images)} images, got {len(captions)}; "
                    "pass None for a missing one."
                )
        if self.paired and len(self.images_a) != len(self.images_b):
            raise ValueError(
                "Expected paired sets of equal size, got "
                f"{len(self.images_a)} and {len(self.images_b)}; remove images without a partner."
            )

    def captions(self, proposer: str) -> tuple[list[str], list[str]]:
        """Returns the captions of A and of B, without the missing ones.

        Args:
            proposer: Name of the proposer that needs them, for the error.

        Raises:
            InputError: The run has no captions.
        """
        if self.captions_a is None or self.captions_b is None:
            raise InputError(
                f"Expected captions for the proposer {proposer!r}, got none; choose a captioner, "
                "or a proposer that reads images."
            )
        return [c for c in self.captions_a if c], [c for c in self.captions_b if c]


@dataclass(frozen=True)
class Proposals:
    """The output of a proposer: hypotheses, rejected texts and failed questions.

    Attributes:
        hypotheses: The best first in each direction, without repeats in a direction; empty when
            there is nothing to propose.
        refused: Texts of a model that are not hypotheses, each with the reason.
        failures: The reason for each question that was not answered.
        asked: Number of questions to a model; 0 for a proposer that asks none.
        answered: How many of them have a hypothesis, or nothing but the answer that there is none.
    """

    hypotheses: tuple[Hypothesis, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    failures: tuple[str, ...] = ()
    asked: int = 0
    answered: int = 0

    def __add__(self, other: "Proposals") -> "Proposals":
        """Returns the proposals of both, concatenated."""
        return Proposals(
            self.hypotheses + other.hypotheses,
            self.refused + other.refused,
            self.failures + other.failures,
            self.asked + other.asked,
            self.answered + other.answered,
        )

    def warnings(self) -> list[str]:
        """Returns one sentence about refused texts and one about failures, if there are any."""
        messages = []
        if self.refused:
            reasons = Counter(reason for _, reason in self.refused)
            counts = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common())
            messages.append(
                f"{len(self.refused)} lines of replies were not hypotheses and were left out: "
                f"{counts}; the first: {_shorten(self.refused[0][0])!r}."
            )
        if self.failures:
            questions = "question" if len(self.failures) == 1 else "questions"
            messages.append(
                f"{len(self.failures)} {questions} of the proposer had no answer "
                f"(first: {self.failures[0]})."
            )
        return messages


class Proposer(Backend, Protocol):
    """A model that proposes hypotheses from the discovery half, in both directions.

    A backend inherits from this class, and its constructor takes exactly the settings of its
    configuration table as keywords. It may also take any of ``device``, ``runtime`` (see
    `visdiff.engine.Runtime`), ``llm``, a function without arguments that returns the configured
    chat model, ``temperature``, the chat model's temperature, ``captioner``, the run's captioner,
    and ``encoder``, the ranker's encoder (None if it has none).

    Attributes:
        needs_captions: Whether `propose` reads captions.
        needs_pairs: Whether both sets have to be paired.
        max_hypotheses: Maximum number of hypotheses per direction and round.
        calls: Number of questions to the chat model per round.
    """

    needs_captions: bool
    needs_pairs: bool = False
    max_hypotheses: int
    calls: int = 0

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Returns hypotheses about the differences of the two sets.

        Args:
            evidence: Images and captions of both sets; neither set is empty.
            rng: The only source of randomness.
            round: Number of the round, recorded in the hypotheses.

        Raises:
            InputError: The evidence lacks captions or pairs that this proposer needs.
        """
        ...


def _shorten(text: str, max_length: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
