"""What a comparison has measured, as one plain record between its two parts.

`visdiff.comparison.compare.score` makes it, `visdiff.comparison.conclude.conclude` turns it
into a report, and `visdiff.comparison.many` corrects the tests of many of them in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visdiff.comparison.findings import Tests
from visdiff.comparison.preflight import Preflight
from visdiff.comparison.provenance import Stopwatch
from visdiff.comparison.split import Halves
from visdiff.imageset import ImageSet
from visdiff.proposers import Proposals
from visdiff.results import Hypothesis, NullRun, SetCard


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured, before anything is concluded from it.

    Attributes:
        set_a: Set A as it was opened.
        set_b: Set B.
        preflight: What was found in their files.
        halves: The images that proposed, and those that every number is computed on.
        discovery_captions: Of the discovery images, A's first; None when nobody read them.
        scoring_captions: Of the scored images, likewise.
        proposals: The h hypotheses, and what was refused or not answered.
        scores: (h, n_a + n_b) float32, one row a hypothesis, A's scored images first; NaN where
            unscored.
        features: (n_a + n_b, d) image features of the scored images; None where the ranker has
            none.
        tests: Of each hypothesis, corrected over those of this comparison.
        null: The shuffled runs, when asked for.
        warnings: Sentences the reader must see.
        stopwatch: The stages' times; `visdiff.comparison.conclude.conclude` adds its own.
    """

    set_a: ImageSet
    set_b: ImageSet
    preflight: Preflight
    halves: Halves
    discovery_captions: Sequence[str | None] | None
    scoring_captions: Sequence[str | None] | None
    proposals: Proposals
    scores: np.ndarray
    features: np.ndarray | None
    tests: Tests
    null: NullRun | None
    warnings: tuple[str, ...]
    stopwatch: Stopwatch

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All h candidates, in the order of the rows of ``scores``."""
        return self.proposals.hypotheses

    @property
    def card_a(self) -> SetCard:
        """What set A was."""
        halves, unreadable = self.halves, self.preflight.unreadable_a
        return _card(self.set_a, halves.discovery_a, halves.scoring_a, len(unreadable))

    @property
    def card_b(self) -> SetCard:
        """What set B was."""
        halves, unreadable = self.halves, self.preflight.unreadable_b
        return _card(self.set_b, halves.discovery_b, halves.scoring_b, len(unreadable))

    @property
    def captions_by_key(self) -> dict[str, str]:
        """The captions of the discovery images by "A/<id>" and "B/<id>"; {} when none were read."""
        if self.discovery_captions is None:
            return {}
        keys = [f"A/{i}" for i in self.halves.discovery_a.ids]
        keys += [f"B/{i}" for i in self.halves.discovery_b.ids]
        return {k: c for k, c in zip(keys, self.discovery_captions, strict=True) if c is not None}


def _card(whole: ImageSet, discovery: ImageSet, scoring: ImageSet, unreadable: int) -> SetCard:
    return SetCard(
        name=whole.name,
        source=whole.source,
        n=len(whole),
        n_discovery=len(discovery),
        n_scored=len(scoring),
        n_unreadable=unreadable,
        where=dict(whole.where),
    )
