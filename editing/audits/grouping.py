"""The paired images of an audit, group by group, and how far each group moved."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from editing.audits.metrics import Measure
from editing.audits.pairs import shown_pairs
from editing.audits.prompt_groups import MEANT, concepts_of
from editing.audits.report import GroupAudit, drift_by_concept
from editing.generate import EDITED, ORIGINAL
from editing.metrics.drift import Drift, drift
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport


@dataclass(frozen=True)
class PairedGroup:
    """Images of one group of prompts, by both models.

    Attributes:
        name: The group.
        original: The unedited model's images.
        edited: The edited model's, aligned with them.
    """

    name: str
    original: ImageSet
    edited: ImageSet

    @property
    def prompts(self) -> list[str]:
        """The prompt of each pair."""
        return self.original.frame["prompt"].astype(str).tolist()

    def paired(self, config: Config) -> Config:
        """Returns a configuration that resamples prompts, or seeds where there is one prompt."""
        several = len(set(self.prompts)) > 1
        return config.changed(paired_by=("prompt", "seed") if several else ("seed", "prompt"))

    def audited(
        self,
        report: DifferenceReport,
        n_tested: int,
        features: np.ndarray | None,
        seed: int,
        further: Sequence[Measure] = (),
    ) -> GroupAudit:
        """Returns what changed in the group.

        Args:
            report: Its comparison.
            n_tested: Pairs that the tests saw.
            features: (2n, d) of the originals and then the edited images; None without any.
            seed: Of the intervals of drift.
            further: Measures of the field that were asked for.
        """
        n, prompts = len(self.original), self.prompts
        moved: Drift | None = None
        apart: np.ndarray | None = None
        if features is not None:
            apart = np.linalg.norm(features[:n] - features[n:], axis=1)
            if min(Counter(prompts).values()) > 1:
                moved = drift(features[:n], features[n:], prompts, np.random.default_rng(seed))
        return GroupAudit(
            name=self.name,
            meant=self.name in MEANT,
            n=n,
            n_tested=n_tested,
            prompts=tuple(dict.fromkeys(prompts)),
            drift=moved,
            by_concept=drift_by_concept(moved, prompts, concepts_of(self.original)),
            report=report,
            pairs=shown_pairs(report, self.original, self.edited, apart),
            metrics={
                name: value
                for measure in further
                for name, value in measure(self.original, self.edited, features).items()
            },
        )


def groups_of(original: ImageSet, edited: ImageSet, by: str) -> list[PairedGroup]:
    """Parts aligned images by a column, in order of appearance; without the column in one group."""
    if by not in original.frame.columns:
        return [PairedGroup("all prompts", original.renamed(ORIGINAL), edited.renamed(EDITED))]
    values = original.frame[by].astype(str).to_numpy()
    return [
        PairedGroup(
            name,
            original.subset(values == name).renamed(ORIGINAL),
            edited.subset(values == name).renamed(EDITED),
        )
        for name in dict.fromkeys(values.tolist())
    ]


def shared_seeds(groups: Sequence[PairedGroup]) -> list[str]:
    """Returns a warning where prompts of a group were drawn from equal noise."""
    # Each pair of (prompt, seed) is there once: a seed that occurs twice is of two prompts.
    shared = [g.name for g in groups if g.original.frame["seed"].duplicated().any()]
    if not shared:
        return []
    return [
        f"Prompts share seeds in {', '.join(shared)}: equal noise gives them equal backgrounds, so "
        "that pairs are not independent and q-values come out too small; draw every prompt with "
        "seeds of its own."
    ]


def check_columns(original: ImageSet, edited: ImageSet) -> None:
    """Makes sure that two sets can be audited before anything is computed.

    Raises:
        InputError: One of them has no column for prompts or seeds.
    """
    for images in (original, edited):
        missing = [c for c in ("prompt", "seed") if c not in images.frame.columns]
        if missing:
            raise InputError(
                f"Expected a manifest with the columns prompt and seed, got {images.source} "
                f"without {' and '.join(missing)}; `visdiff generate` writes such a manifest."
            )
