"""The paired images of an audit, split by prompt group, and the audit of each group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from editing.audits.metrics import Measure, measure_all
from editing.audits.pairs import EXAMPLES, first_pairs, select_pairs
from editing.audits.prompt_groups import MEANT, concepts_of
from editing.audits.report import GroupAudit, drift_by_concept
from editing.generate import EDITED, ORIGINAL
from editing.metrics.drift import Drift, drift
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import conclude, score
from visdiff.comparison.findings import Tests
from visdiff.comparison.measurements import Measurements
from visdiff.comparison.split import split_pair
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, columns


@dataclass(frozen=True)
class PairedGroup:
    """Images of one group of prompts from both models.

    Attributes:
        name: Name of the group.
        original: Images of the unedited model.
        edited: Images of the edited model, in the same order.
    """

    name: str
    original: ImageSet
    edited: ImageSet

    @property
    def prompts(self) -> list[str]:
        """The prompt of each pair."""
        return self.original.frame["prompt"].astype(str).tolist()

    def pairing_config(self, config: Config) -> Config:
        """Returns a configuration that resamples prompts, or seeds if there is only one prompt."""
        several = len(set(self.prompts)) > 1
        return config.changed(paired_by=("prompt", "seed") if several else ("seed", "prompt"))

    def measure(self, config: Config, models: Backends) -> Measurements:
        """Proposes differences from half of the pairs and tests them on the other half."""
        config = self.pairing_config(config)
        return score(split_pair(self.original, self.edited, config), config, models)

    def conclude(
        self,
        measured: Measurements,
        tests: Tests,
        config: Config,
        models: Backends,
        n_candidates: int,
        extra_measures: Mapping[str, Measure],
    ) -> GroupAudit:
        """Returns the audit of this group: its sentences, its drift and its pairs.

        Args:
            measured: Result of `measure`.
            tests: Its tests, corrected over all groups.
            config: The configuration of the audit; its seed draws the interval of the drift.
            models: Models of the comparison.
            n_candidates: Number of candidates of all groups.
            extra_measures: Name → additional measure to compute.
        """
        report = conclude(measured, tests, self.pairing_config(config), models, n_candidates)
        features = models.features(self.original, self.edited)
        rng = np.random.default_rng(config.seed)
        n, prompts = len(self.original), self.prompts
        meant, concepts = self.name in MEANT, concepts_of(self.original)
        moved: Drift | None = None
        distances: np.ndarray | None = None
        if features is not None:
            distances = np.linalg.norm(features[:n] - features[n:], axis=1)
            if _differ_by_seed(features[:n], prompts):
                moved = drift(features[:n], features[n:], prompts, rng)
        values, unmeasured = measure_all(extra_measures, self.original, self.edited, features)
        return GroupAudit(
            name=self.name,
            meant=meant,
            n=n,
            n_tested=len(measured.halves.scoring_a),
            prompts=tuple(dict.fromkeys(prompts)),
            drift=moved,
            by_concept=drift_by_concept(moved, prompts, concepts),
            report=report,
            pairs=select_pairs(report, measured, self.original, self.edited, distances),
            examples=first_pairs(self.original, self.edited, concepts, EXAMPLES) if meant else {},
            metrics=values,
            unmeasured=unmeasured,
        )


def readable_pairs(
    original: ImageSet, edited: ImageSet, models: Backends
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Returns the pairs whose images can both be read, and a warning on the others.

    Args:
        original: Images of the unedited model.
        edited: Images of the edited model, in the same order.
        models: Models of the comparison; the ranker's encoder reads the images.

    Raises:
        InputError: No pair can be read.
    """
    features = models.features(original, edited)
    if features is None:
        return original, edited, []
    n = len(original)
    known = np.asarray(np.isfinite(features).all(axis=1))
    both = known[:n] & known[n:]
    if both.all():
        return original, edited, []
    ids = [*original.ids, *edited.ids]
    bad = [ids[i] for i in np.flatnonzero(~known)]
    named = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
    if not both.any():
        raise InputError(
            f"Expected images that can be read, got no such pair ({named}); check the files."
        )
    warning = f"{n - int(both.sum())} pairs with unreadable images were left out ({named})."
    return original.subset(both), edited.subset(both), [warning]


def split_groups(original: ImageSet, edited: ImageSet, by: str) -> list[PairedGroup]:
    """Splits aligned images by a column, in order of appearance; one group without the column."""
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


def warn_shared_seeds(groups: Sequence[PairedGroup]) -> list[str]:
    """Returns a warning if prompts of a group were drawn from the same noise."""
    # Each (prompt, seed) occurs once, so a seed that occurs twice belongs to two prompts.
    shared = [g.name for g in groups if g.original.frame["seed"].duplicated().any()]
    if not shared:
        return []
    return [
        f"Prompts share seeds in {', '.join(shared)}: equal noise gives similar backgrounds, so "
        "pairs are not independent and q-values are too small; generate every prompt with its own "
        "seeds."
    ]


def check_columns(original: ImageSet, edited: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Returns both sets with the columns ``prompt`` and ``seed``, which an audit needs.

    They may have others of their usual names (`visdiff.imageset.columns`), such as
    ``evaluation_seed``.

    Raises:
        InputError: A set has no such column.
    """
    original = original.with_columns(columns.usual_columns(original.frame))
    edited = edited.with_columns(columns.usual_columns(edited.frame))
    for images in (original, edited):
        missing = [c for c in ("prompt", "seed") if c not in images.frame.columns]
        if missing:
            raise InputError(
                f"Expected a manifest with the columns prompt and seed, got {images.source} "
                f"without {' and '.join(missing)}; write a table with one row per image and the "
                "columns path, prompt and seed (or evaluation_seed), as `visdiff generate` does."
            )
    return original, edited


def _differ_by_seed(features: np.ndarray, prompts: Sequence[str]) -> bool:
    """Returns whether every prompt has images that are not all the same, the unit of the drift.

    A safety checker, for one, makes all images of a prompt black.
    """
    rows: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    return all(bool((features[own] != features[own[0]]).any()) for own in rows.values())
