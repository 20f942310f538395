"""The user's own sentences, ranked by how well they tell two sets apart.

The comparison is that of `visdiff.compare`, with the proposer `manual`: the same halves, tests and
correction. What differs is what is shown: every sentence with its numbers, and not only those that
hold up.
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
class Ranked:
    """A sentence and its numbers, oriented toward the set that it is claimed to be truer of.

    Attributes:
        text: The sentence.
        direction: The set, "A" or "B".
        auroc: Chance, in [0, 1], that an image of that set scores higher; None when unscored.
        ci_low: Lower end of its interval, or None.
        ci_high: Upper end, or None.
        p_value: One-sided, or None.
        q_value: After Benjamini–Hochberg over all sentences and directions, or None.
        confirmed: Whether it passed the thresholds.
        n_a: Images of A that were scored.
        n_b: Images of B that were scored.
        n_unscored: Images of both sets that have no score.
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
    """The sentences, best first, and the whole report.

    Attributes:
        sentences: Confirmed ones first, then by AUROC.
        report: As `visdiff.comparison.compare.compare` returns it.
    """

    sentences: tuple[Ranked, ...]
    report: DifferenceReport

    def to_dict(self) -> dict[str, Any]:
        """The sentences and the report as JSON values."""
        return {"sentences": [asdict(s) for s in self.sentences], "report": self.report.to_dict()}


def rank(pair: SplitPair, config: Config, backends: Backends) -> Ranking:
    """Tests the sentences of a configuration's manual proposer.

    Args:
        pair: Both sets.
        config: Its proposer is "manual", see :func:`with_hypotheses`.
        backends: Models made from it.

    Raises:
        InputError: A column or setting does not exist, or a set has fewer than two images.
        MissingBackendError: A library or a model's weights are not available.
    """
    measured = score(pair, config, backends)
    report = conclude(measured, measured.tests, config, backends)
    return Ranking(_ranked(measured), report)


def with_hypotheses(config: Config, given: Sequence[str]) -> Config:
    """The configuration with the manual proposer and the user's sentences.

    Args:
        config: What else the comparison is told.
        given: Sentences, and text files of sentences (one a line, "#" begins a comment). "A: a dog"
            claims that it is truer of set A, "B: a dog" of B; without a letter both are tested.

    Raises:
        InputError: There is no sentence, one is empty, or what looks like a file does not exist.
    """
    sentences: list[str] = []
    for text in given:
        if os.path.isfile(text):
            read = ManualProposer(file=text)
            sentences += read.identity["hypotheses"]
        elif _FILE.fullmatch(text.strip()):
            raise InputError(
                f"Expected a sentence or a text file of sentences, got {text!r}, where there is no "
                "file; check the path."
            )
        else:
            sentences.append(text)
    config = config.changed(
        proposer={"backend": "manual", "hypotheses": tuple(sentences)}, rounds=1
    )
    ManualProposer(hypotheses=sentences)  # says what is wrong with them
    return config


def _ranked(measured: Measurements) -> tuple[Ranked, ...]:
    tests, is_a = measured.tests, measured.halves.scoring_is_a
    rows = []
    for i, h in enumerate(measured.hypotheses):
        known = ~np.isnan(measured.scores[i])
        rows.append(
            Ranked(
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
