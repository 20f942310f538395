"""Proposers: what might be truer of one set than of the other."""

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
    """What a proposer may look at: the discovery half, or what is left unexplained of it.

    Attributes:
        images_a: Images of set A.
        images_b: Images of set B.
        captions_a: One an image of A, None where there is none; None when nothing was captioned.
        captions_b: Likewise for B.
        paired: Image i of A and image i of B belong together: the same prompt and seed.
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
                    f"expected one caption for each of {len(images)} images, got {len(captions)}"
                )
        if self.paired and len(self.images_a) != len(self.images_b):
            raise ValueError(
                f"expected as many images in A as in B of paired sets, got {len(self.images_a)} "
                f"and {len(self.images_b)}"
            )

    def said(self, proposer: str) -> tuple[list[str], list[str]]:
        """Return the captions that there are, of A and of B.

        Args:
            proposer: Who asks, for the error.

        Raises:
            InputError: Nothing was captioned.
        """
        if self.captions_a is None or self.captions_b is None:
            raise InputError(
                f"expected captions for the proposer {proposer!r}, got none; choose a captioner, "
                "or a proposer that looks at images"
            )
        return [c for c in self.captions_a if c], [c for c in self.captions_b if c]


@dataclass(frozen=True)
class Proposals:
    """What a proposer came up with, and what it could not use.

    Attributes:
        hypotheses: Each direction's most promising first, no text twice in a direction; empty when
            there is nothing to propose.
        refused: What a model wrote that is no hypothesis, and why.
        failures: Why a question was not answered: one an unanswered question.
    """

    hypotheses: tuple[Hypothesis, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    failures: tuple[str, ...] = ()

    def __add__(self, other: "Proposals") -> "Proposals":
        """Return what both hold, one after the other."""
        return Proposals(
            self.hypotheses + other.hypotheses,
            self.refused + other.refused,
            self.failures + other.failures,
        )

    def warnings(self) -> list[str]:
        """Say what was refused and what failed, in a sentence each; [] when nothing was."""
        told = []
        if self.refused:
            reasons = Counter(reason for _, reason in self.refused)
            counts = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common())
            told.append(
                f"{len(self.refused)} lines of replies were no hypotheses and were left out: "
                f"{counts}; the first: {_shortened(self.refused[0][0])!r}."
            )
        if self.failures:
            questions = "question" if len(self.failures) == 1 else "questions"
            told.append(
                f"{len(self.failures)} {questions} of the proposer had no answer "
                f"(first: {self.failures[0]})."
            )
        return told


class Proposer(Backend, Protocol):
    """Turns the discovery half into hypotheses, in both directions at once.

    A backend inherits from this class, and its constructor takes exactly the settings of its table
    as keywords. It may also take any of ``device``, ``runtime`` (see `visdiff.engine.Runtime`),
    ``llm``, a function without arguments that returns the configured chat model, ``temperature``,
    that of the chat model, ``captioner``, that of the run, and ``encoder``, that of the ranker
    (None when it has none).

    Attributes:
        needs_captions: Whether `propose` reads captions.
        needs_pairs: Whether both sets have to be paired.
        max_hypotheses: Most hypotheses of one direction in one round.
        calls: Questions to the chat model in one round.
    """

    needs_captions: bool
    needs_pairs: bool = False
    max_hypotheses: int
    calls: int = 0

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Propose differences.

        Args:
            evidence: What there is to see and to read; neither side is empty.
            rng: The only source of randomness.
            round: Number of the round, written into the hypotheses.

        Raises:
            InputError: The evidence lacks what this proposer needs: captions, pairs.
        """
        ...


def _shortened(text: str, most: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
