"""The measurements of a comparison, as one record.

`visdiff.comparison.compare.score` creates it, `visdiff.comparison.conclude.conclude` turns it
into a report, and `visdiff.comparison.many` corrects the tests of several of them in between.
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
from visdiff.results import Hypothesis, NullRun, SetCard, Stage


@dataclass(frozen=True)
class Measurements:
    """All measurements of one comparison.

    Attributes:
        set_a: Set A, including unreadable images.
        set_b: Set B.
        preflight: The result of the preflight.
        halves: The discovery half and the scoring half of both sets.
        discovery_captions: Captions of the discovery images, A's first; None if no backend used
            them.
        scoring_captions: The same for the scored images.
        proposals: The h hypotheses, refused ones and failed requests.
        scores: (h, n_a + n_b) float32, one row per hypothesis, A's scored images first; NaN where
            unscored.
        features: (n_a + n_b, d) image features of the scored images; None if the ranker has none.
        tests: Tests of the hypotheses, corrected over this comparison.
        null: The runs with shuffled sets; None if there are none.
        warnings: Warnings for the report, one sentence each.
        stopwatch: Times of the stages; `visdiff.comparison.conclude.conclude` adds its own.
        proposed: (h, 2) bool, with cross-fitting, which halves each hypothesis was proposed from;
            otherwise None.
        stages: How much of the captions, answers and scores was obtained.
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
    proposed: np.ndarray | None = None
    stages: tuple[Stage, ...] = ()

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All h candidates, in the order of the rows of ``scores``."""
        return self.proposals.hypotheses

    @property
    def card_a(self) -> SetCard:
        """The description of set A for the report."""
        n_unreadable = len(self.preflight.unreadable_a)
        halves, n_effective = self.halves, self.halves.n_effective[0]
        return _card(self.set_a, halves.discovery_a, halves.scoring_a, n_unreadable, n_effective)

    @property
    def card_b(self) -> SetCard:
        """The description of set B for the report."""
        n_unreadable = len(self.preflight.unreadable_b)
        halves, n_effective = self.halves, self.halves.n_effective[1]
        return _card(self.set_b, halves.discovery_b, halves.scoring_b, n_unreadable, n_effective)

    @property
    def captions_by_key(self) -> dict[str, str]:
        """The captions of the discovery images by "A/<id>" and "B/<id>"; {} if there are none."""
        if self.discovery_captions is None:
            return {}
        keys = [f"A/{i}" for i in self.halves.discovery_a.ids]
        keys += [f"B/{i}" for i in self.halves.discovery_b.ids]
        return {k: c for k, c in zip(keys, self.discovery_captions, strict=True) if c is not None}


def _card(
    images: ImageSet, discovery: ImageSet, scoring: ImageSet, unreadable: int, n_effective: int
) -> SetCard:
    return SetCard(
        name=images.name,
        source=images.source,
        n=len(images),
        n_discovery=len(discovery),
        n_scored=len(scoring),
        n_unreadable=unreadable,
        where=dict(images.where),
        left_out=dict(images.left_out),
        n_effective=n_effective,
    )
