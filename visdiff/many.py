"""Many comparisons with one correction: every pair of n sets, or each set against the rest.

Each pair is an ordinary `visdiff.compare.compare`. What many comparisons need on top is one false
discovery rate over all of their candidates: twenty comparisons at q ≤ 0.05 each are not one
analysis at q ≤ 0.05. The p-values of all comparisons are pooled and corrected once (Benjamini and
Hochberg 1995), and every report is sorted out again from its own scores with the q-values that came
of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from visdiff import manifest, stats
from visdiff.backends import Backends
from visdiff.cache import Cache
from visdiff.compare import compare, explain, verdict
from visdiff.config import Config, StatisticsConfig
from visdiff.errors import CacheMissError, InputError, MissingBackendError, VisdiffError
from visdiff.findings import Tests, sort_out, test
from visdiff.halves import Halves
from visdiff.imageset import ImageSet
from visdiff.many_report import ManyReport, Pair
from visdiff.results import DifferenceReport, Hypothesis
from visdiff.thumbnails import thumbnails


@dataclass(frozen=True)
class Scored:
    """A report and what it was computed from.

    Attributes:
        report: As `compare` returned it.
        hypotheses: All h candidates, in the order of the rows of ``scores``.
        a: The n_a images of A that were scored; when paired, image i belongs to image i of ``b``.
        b: The n_b images of B.
        scores: (h, n_a + n_b) float32, A's images first, NaN where unscored.
    """

    report: DifferenceReport
    hypotheses: Sequence[Hypothesis]
    a: ImageSet
    b: ImageSet
    scores: np.ndarray

    @property
    def is_a(self) -> np.ndarray:
        """(n_a + n_b,) bool, True for the images of A."""
        return np.arange(len(self.a) + len(self.b)) < len(self.a)


def compare_many(
    sets: Any,
    *,
    by: str | None = None,
    preset: str = "laptop",
    config: Config | None = None,
    cache: Cache | None = None,
    backends: Backends | None = None,
    progress: bool = True,
    **settings: Any,
) -> ManyReport:
    """Compares every pair of n sets, with one false discovery rate over all candidates.

    Args:
        sets: n ≥ 2 sources as `ImageSet.open` takes them, as a list or as a mapping from names;
            with ``by`` one source.
        by: A column whose values part one source into the sets, such as "group_name".
        preset: Name of a preset or path of a ``.toml`` file; ignored when ``config`` is given.
        config: A whole configuration, the same for every pair.
        cache: Where captions and embeddings are kept; the user's cache by default.
        backends: Models made from this very configuration; made once for all pairs by default.
        progress: Show progress bars on stderr.
        **settings: Changes to the configuration, see `visdiff.config.Config.changed`.

    Returns:
        n (n - 1) / 2 reports. A pair that could not be compared is named in ``failed``.

    Raises:
        InputError: Fewer than two sets, a source, column or setting that does not exist, or no pair
            that could be compared.
        MissingBackendError: A library or a model's weights are not available.
    """
    opened = open_sets(sets, by)
    pairs = [(a, b) for i, a in enumerate(opened) for b in opened[i + 1 :]]
    return compare_pairs(
        pairs,
        title=f"{len(opened)} sets, every pair",
        config=(config or Config.of(preset)).changed(**settings),
        cache=cache,
        backends=backends,
        progress=progress,
    )


def compare_rest(
    sets: Any,
    *,
    by: str | None = None,
    preset: str = "laptop",
    config: Config | None = None,
    cache: Cache | None = None,
    backends: Backends | None = None,
    progress: bool = True,
    **settings: Any,
) -> ManyReport:
    """Compares each of n sets against all the others joined; else as `compare_many`.

    Returns:
        n reports, one a set.

    Raises:
        InputError: As for `compare_many`, or fewer than three sets, or sets that are to be paired:
            an image has a partner in each of the other sets.
        MissingBackendError: A library or a model's weights are not available.
    """
    settled = (config or Config.of(preset)).changed(**settings)
    if settled.paired_by:
        raise InputError(
            f"Expected unpaired sets for one against the rest, got paired_by "
            f"({', '.join(settled.paired_by)}); compare every pair instead (compare_many)."
        )
    opened = open_sets(sets, by)
    if len(opened) < 3:
        raise InputError(
            "Expected at least 3 sets for each against the rest, got 2; compare the two (compare)."
        )
    pairs = []
    for images in opened:
        others = reduce(ImageSet.joined, [other for other in opened if other is not images])
        pairs.append((images, ImageSet.open(others, name=_fresh("the rest", opened))))
    return compare_pairs(
        pairs,
        title=f"{len(opened)} sets, each against the rest",
        config=settled,
        cache=cache,
        backends=backends,
        progress=progress,
    )


def compare_pairs(
    pairs: Sequence[tuple[ImageSet, ImageSet]],
    *,
    title: str,
    config: Config,
    cache: Cache | None = None,
    backends: Backends | None = None,
    progress: bool = True,
) -> ManyReport:
    """Compares given pairs of sets, with one false discovery rate over all candidates.

    Args:
        pairs: Sets whose names, as a pair, occur once.
        title: What these comparisons are, in a few words.
        config: The configuration, the same for every pair.
        cache: As for `compare_many`.
        backends: Likewise.
        progress: Likewise.

    Returns:
        The reports in the order of the pairs. A pair that could not be compared (too few images,
        nothing to pair) is in ``failed`` with the reason.

    Raises:
        InputError: No pair, two pairs of the same names, or no pair that could be compared.
        MissingBackendError: A library or a model's weights are not available.
    """
    names = [(a.name, b.name) for a, b in pairs]
    if not pairs:
        raise InputError("Expected pairs of sets to compare, got none.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Expected pairs of different names, got {twice} twice; rename the sets.")
    scored: dict[Pair, Scored] = {}
    failed: dict[Pair, str] = {}
    with Cache() if cache is None else nullcontext(cache) as store:
        models = backends or Backends.of(config, store)
        for (a, b), key in zip(pairs, names, strict=True):
            try:
                scored[key] = _scored(a, b, config, store, models, progress)
            except (MissingBackendError, CacheMissError):
                raise
            except VisdiffError as error:
                failed[key] = str(error)
    if not scored:
        (a, b), reason = next(iter(failed.items()))
        raise InputError(f"No pair of sets could be compared. {a} and {b}: {reason}")
    reports = corrected(list(scored.values()), config)
    return ManyReport(
        title=title,
        names=tuple(dict.fromkeys(name for pair in names for name in pair)),
        reports=dict(zip(scored, reports, strict=True)),
        failed=failed,
        n_candidates=sum(len(s.hypotheses) for s in _pool(scored.values())),
    )


def corrected(scored: Sequence[Scored], config: Config) -> list[DifferenceReport]:
    """Sorts every report out again, with one Benjamini–Hochberg over all candidates of all.

    A report whose images both proposed and tested stays as it is and outside the pool: its p-values
    are too small, confirm nothing, and would lower the q-values of the others. P-values of paired
    sets are drawn anew, from the run's seed. The shuffled runs keep the correction of their own
    comparison.

    Args:
        scored: The reports, with what they were computed from.
        config: The configuration that all of them share.

    Returns:
        New reports, in order. With one report, and with a proposer that draws nothing, it is equal
        to the one given.
    """
    settings = config.statistics
    pool = _pool(scored)
    tests = [
        test(
            s.hypotheses,
            s.scores,
            s.is_a,
            settings,
            np.random.default_rng(config.seed),
            groups=_groups(s, config.paired_by),
        )
        for s in pool
    ]
    sizes = [len(s.hypotheses) for s in pool]
    q_values = stats.benjamini_hochberg(np.concatenate([t.p_value for t in tests] or [[]]))
    reports = {id(s): s.report for s in scored}
    parts = np.split(q_values, np.cumsum(sizes)[:-1]) if pool else []
    for s, own, q_value in zip(pool, tests, parts, strict=True):
        with np.errstate(invalid="ignore"):
            confirmed = (q_value <= settings.alpha) & (own.auroc >= settings.min_auroc)
        together = replace(own, q_value=q_value, confirmed=confirmed)
        reports[id(s)] = _sorted_out(s, together, settings, sum(sizes), len(pool), config)
    return [reports[id(s)] for s in scored]


def open_sets(sets: Any, by: str | None = None) -> list[ImageSet]:
    """Opens n sets under different names.

    Args:
        sets: A list or a mapping of sources; with ``by`` one source.
        by: A column whose values part the source; rows without a value are in no set.

    Raises:
        InputError: Fewer than two sets, or a source or column that does not exist.
    """
    if by is not None:
        whole = ImageSet.open(sets)
        manifest.check_columns(whole.frame, [by], whole.source)
        values = whole.frame[by].map(manifest.text).to_numpy(dtype=str)
        found = [v for v in dict.fromkeys(values.tolist()) if v]
        opened = [ImageSet.open(whole.subset(values == v), name=v) for v in found]
    elif isinstance(sets, Mapping):
        opened = [ImageSet.open(source, name=str(name)) for name, source in sets.items()]
    elif isinstance(sets, (str, bytes)) or not isinstance(sets, Iterable):
        raise InputError(
            f"Expected a list or a mapping of sets, got {sets!r}; give by=COLUMN to part one "
            "source into sets."
        )
    else:
        opened = [ImageSet.open(source) for source in sets]
    if len(opened) < 2:
        raise InputError(f"Expected at least 2 sets, got {len(opened)}; name more of them.")
    taken: set[str] = set()
    named = []
    for images in opened:
        fresh, number = images.name, 1
        while fresh in taken:
            number += 1
            fresh = f"{images.name} ({number})"
        taken.add(fresh)
        named.append(ImageSet.open(images, name=fresh))
    return named


@dataclass(frozen=True)
class _Watched(Backends):
    """Backends that keep what they scored: the reports hold scores, but not each candidate."""

    kept: list[tuple[Sequence[Hypothesis], ImageSet, ImageSet, np.ndarray]] = field(
        default_factory=list
    )

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        a: ImageSet,
        b: ImageSet,
        captions: Sequence[str | None] | None,
        cache: Cache,
        progress: bool,
    ) -> np.ndarray:
        scores = super().score(hypotheses, a, b, captions, cache, progress)
        self.kept.append((hypotheses, a, b, scores))
        return scores


def _scored(
    a: ImageSet, b: ImageSet, config: Config, cache: Cache, models: Backends, progress: bool
) -> Scored:
    watched = _Watched(models.captioner, models.proposer, models.ranker, models.ledger)
    report = compare(a, b, config=config, cache=cache, backends=watched, progress=progress)
    table = report.scores
    assert table is not None  # compare's reports have their scores
    sides = [tuple(table["id"][table["set"] == side]) for side in ("A", "B")]
    # The first of these sides: rounds score the discovery half before, shuffled runs others after.
    hypotheses, scored_a, scored_b, scores = next(
        kept for kept in watched.kept if [kept[1].ids, kept[2].ids] == sides
    )
    return Scored(report, tuple(hypotheses), scored_a, scored_b, scores)


def _pool(scored: Iterable[Scored]) -> list[Scored]:
    return [s for s in scored if not s.report.double_dipped]


def _groups(scored: Scored, paired_by: Sequence[str]) -> np.ndarray | None:
    """The prompt of each pair, as `visdiff.halves.cut` reads it."""
    if not paired_by:
        return None
    return scored.a.frame[paired_by[0]].map(manifest.text).to_numpy(dtype=str)


def _sorted_out(
    scored: Scored,
    tests: Tests,
    settings: StatisticsConfig,
    n_candidates: int,
    n_comparisons: int,
    config: Config,
) -> DifferenceReport:
    """The report that comes of tests corrected over all comparisons."""
    report, is_a = scored.report, scored.is_a
    ids = [*scored.a.ids, *scored.b.ids]
    differences, rejected = sort_out(scored.hypotheses, scored.scores, is_a, ids, tests, settings)
    sentences = explain(
        scored.hypotheses, scored.scores, None, differences, is_a, config.seed
    ).sentences
    warnings = report.warnings
    if n_comparisons > 1:
        warnings += (
            f"The q-values are corrected over {n_candidates} candidates of {n_comparisons} "
            "comparisons"
            + ("; those of the shuffled runs over each run's own." if report.null else "."),
        )
    halves = Halves(scored.a, scored.b, scored.a, scored.b, report.double_dipped)
    return replace(
        report,
        verdict=verdict(differences, report.set_a.name, report.set_b.name, report.double_dipped),
        differences=differences,
        rejected=rejected,
        separability=replace(report.separability, sentences=sentences),
        minimum_detectable_auroc=stats.minimum_detectable_auroc(
            len(scored.a), len(scored.b), settings.alpha / max(1, n_candidates)
        ),
        warnings=warnings,
        thumbnails=thumbnails(differences, halves),
    )


def _fresh(name: str, opened: Sequence[ImageSet]) -> str:
    return f"{name} (joined)" if name in {images.name for images in opened} else name
