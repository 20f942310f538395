"""Ranking of the user's own sentences by how well they separate two sets.

This is the comparison of `visdiff.compare` with the proposer `manual`: the same halves, tests and
correction. In contrast to a report, the result lists every sentence with its statistics.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import score
from visdiff.comparison.conclude import conclude
from visdiff.comparison.measurements import Measurements
from visdiff.comparison.split import SplitPair
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.proposers.manual import ManualProposer
from visdiff.results import DifferenceReport, Direction

_FILE = re.compile(r"\S+\.(txt|csv|tsv|md|lst)|\S*/\S*\.\w+")


@dataclass(frozen=True)
class RankedSentence:
    """A sentence and its statistics, oriented toward the set that it is claimed of.

    Attributes:
        text: The sentence.
        direction: The set that it is claimed to be more true of, "A" or "B".
        auroc: Probability, in [0, 1], that an image of that set scores higher; None if unscored.
        ci_low: Lower bound of the AUROC's confidence interval, or None.
        ci_high: Upper bound, or None.
        p_value: One-sided p-value, or None.
        q_value: The p-value after Benjamini–Hochberg over all sentences and directions, or None.
        confirmed: Whether it passed the thresholds.
        n_a: Number of scored images of A.
        n_b: Number of scored images of B.
        n_unscored: Number of images of both sets without a score.
    """

    text: str
    direction: Direction
    auroc: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    q_value: float | None
    confirmed: bool
    n_a: int
    n_b: int
    n_unscored: int


@dataclass(frozen=True)
class Ranking:
    """The ranked sentences, best first, and the report.

    Attributes:
        sentences: The sentences, confirmed ones first, then by AUROC.
        report: The report, as from `visdiff.comparison.compare.compare`.
    """

    sentences: tuple[RankedSentence, ...]
    report: DifferenceReport

    def to_dict(self) -> dict[str, Any]:
        """Returns the sentences and the report as JSON values."""
        return {"sentences": [asdict(s) for s in self.sentences], "report": self.report.to_dict()}


def rank(pair: SplitPair, config: Config, backends: Backends) -> Ranking:
    """Tests the sentences of a configuration's manual proposer.

    Args:
        pair: Both sets.
        config: A configuration with the proposer "manual", see :func:`with_hypotheses`.
        backends: Models created from it.

    Raises:
        InputError: A column or setting does not exist, or a set has fewer than two images.
        MissingBackendError: A library or a model's weights are not available.
    """
    measured = score(pair, config, backends)
    report = conclude(measured, measured.tests, config, backends)
    return Ranking(_rank(measured), report)


def with_hypotheses(config: Config, hypotheses: Sequence[str]) -> Config:
    """Returns the configuration with the manual proposer and the user's sentences.

    Args:
        config: The other settings of the comparison.
        hypotheses: Sentences, and text files of sentences (one per line, "#" starts a comment).
            "A: a dog" claims that the sentence is more true of set A, "B: a dog" of set B; without
            a letter both directions are tested.

    Raises:
        InputError: There is no sentence, one is empty, or a text that looks like a path is no file.
    """
    sentences: list[str] = []
    for text in hypotheses:
        if os.path.isfile(text):
            read = ManualProposer(file=text)
            sentences += read.identity["hypotheses"]
        elif _FILE.fullmatch(text.strip()):
            raise InputError(
                f"Expected a sentence or a text file of sentences, got {text!r}, which does not "
                "exist; check the path."
            )
        else:
            sentences.append(text)
    config = config.changed(
        proposer={"backend": "manual", "hypotheses": tuple(sentences)}, rounds=1
    )
    ManualProposer(hypotheses=sentences)  # validates the sentences
    return config


def _rank(measured: Measurements) -> tuple[RankedSentence, ...]:
    tests, is_a = measured.tests, measured.halves.scoring_is_a
    rows = []
    for i, h in enumerate(measured.hypotheses):
        known = ~np.isnan(measured.scores[i])
        rows.append(
            RankedSentence(
                text=h.text,
                direction=h.direction,
                auroc=_number(tests.auroc[i]),
                ci_low=_number(tests.interval[i, 0]),
                ci_high=_number(tests.interval[i, 1]),
                p_value=_number(tests.p_value[i]),
                q_value=_number(tests.q_value[i]),
                confirmed=bool(tests.confirmed[i]),
                n_a=int((known & is_a).sum()),
                n_b=int((known & ~is_a).sum()),
                n_unscored=int((~known).sum()),
            )
        )
    return tuple(sorted(rows, key=lambda r: (not r.confirmed, -(r.auroc or 0.0), r.text)))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
