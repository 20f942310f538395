"""The result of a comparison: frozen dataclasses, and a report with several output formats.

Everything here is plain data. The dataclasses hold no model, no open file and no array, so a report
can be compared with ``==``, written as JSON and read back years later. Three large fields that the
renderers need are not serialised: ``scores``, ``thumbnails`` and ``captions``.

Set A and set B are the first and the second argument of the comparison. ``direction`` always names
the set that a sentence is *more true of*. AUROC, interval and tests are oriented by it: an AUROC
above 0.5 supports the sentence, whichever set it describes.
"""

from visdiff.results.plain import to_plain
from visdiff.results.records import (
    Difference,
    Direction,
    Hypothesis,
    NullRun,
    Provenance,
    Rejected,
    Separability,
    SetCard,
    Stage,
    score_column,
)
from visdiff.results.report import DifferenceReport

__all__ = [
    "Difference",
    "DifferenceReport",
    "Direction",
    "Hypothesis",
    "NullRun",
    "Provenance",
    "Rejected",
    "Separability",
    "SetCard",
    "Stage",
    "score_column",
    "to_plain",
]
