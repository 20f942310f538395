"""Many comparisons with one correction: every pair of n sets, or each set against the rest.

Each pair goes through the two parts of `visdiff.compare`. What many comparisons need in between is
one false discovery rate over all of their candidates: twenty comparisons at q ≤ 0.05 each are not
one analysis at q ≤ 0.05. The p-values of all comparisons are pooled and corrected once (Benjamini
and Hochberg 1995), and every report is concluded with the q-values that came of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison import findings
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import score
from visdiff.comparison.conclude import conclude
from visdiff.comparison.findings import Tests
from visdiff.comparison.measurements import Measurements
from visdiff.comparison.split import split_pair
from visdiff.config import Config
from visdiff.errors import CacheMissError, InputError, MissingBackendError, VisdiffError
from visdiff.imageset import ImageSet, manifest
from visdiff.results import DifferenceReport
from visdiff.results.many import ManyReport, Pair


def compare_many(sets: Any, *, by: str | None = None, **how: Any) -> ManyReport:
    """Compares every pair of n sets, with one false discovery rate over all candidates.

    Args:
        sets: n ≥ 2 sources as `ImageSet.open` takes them, as a list or as a mapping from names;
            with ``by`` one source.
        by: A column whose values part one source into the sets, such as "group_name".
        **how: What `compare_pairs` takes: a preset or configuration, settings, models, cache.

    Returns:
        n (n - 1) / 2 reports. A pair that could not be compared is named in ``failed``.

    Raises:
        InputError: Fewer than two sets, a source, column or setting that does not exist, or no pair
            that could be compared.
        MissingBackendError: A library or a model's weights are not available.
    """
    opened = open_sets(sets, by)
    return compare_pairs(every_pair(opened), title=f"{len(opened)} sets, every pair", **how)


def compare_rest(sets: Any, *, by: str | None = None, **how: Any) -> ManyReport:
    """Compares each of n sets against all the others joined; else as `compare_many`.

    Returns:
        n reports, one a set.

    Raises:
        InputError: As for `compare_many`, or fewer than three sets, or sets that are to be paired:
            an image has a partner in each of the other sets.
        MissingBackendError: A library or a model's weights are not available.
    """
    config = how.get("config") or Config.of(how.get("preset", "laptop"))
    if paired_by := how.get("paired_by") or config.paired_by:
        raise InputError(
            f"Expected unpaired sets for one against the rest, got paired_by "
            f"({', '.join(paired_by)}); compare every pair instead (compare_many)."
        )
    opened = open_sets(sets, by)
    title = f"{len(opened)} sets, each against the rest"
    return compare_pairs(each_and_rest(opened), title=title, **how)


def compare_pairs(
    pairs: Sequence[tuple[ImageSet, ImageSet]],
    *,
    title: str,
    preset: str = "laptop",
    config: Config | None = None,
    cache: Cache | None = None,
    backends: Backends | None = None,
    progress: bool = True,
    **settings: Any,
) -> ManyReport:
    """Compares given pairs of sets, with one false discovery rate over all candidates.

    Args:
        pairs: Sets whose names, as a pair, occur once.
        title: What these comparisons are, in a few words.
        preset: Name of a preset or path of a ``.toml`` file; ignored when ``config`` is given.
        config: A whole configuration, the same for every pair.
        cache: Where captions and embeddings are kept; the user's cache by default.
        backends: Models made from this very configuration, with their own cache and progress;
            made once for all pairs by default.
        progress: Show progress bars on stderr.
        **settings: Changes to the configuration, see `visdiff.config.Config.changed`.

    Returns:
        The reports in the order of the pairs. A pair that could not be compared (too few images,
        nothing to pair) is in ``failed`` with the reason.

    Raises:
        InputError: No pair, two pairs of the same names, or no pair that could be compared.
        MissingBackendError: A library or a model's weights are not available.
    """
    settled = (config or Config.of(preset)).changed(**settings)
    names = [(a.name, b.name) for a, b in pairs]
    if not pairs:
        raise InputError("Expected pairs of sets to compare, got none.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Expected pairs of different names, got {twice} twice; rename the sets.")
    scored: dict[Pair, Measurements] = {}
    reports: dict[Pair, DifferenceReport] = {}
    failed: dict[Pair, str] = {}
    made = nullcontext(backends) if backends else Backends.using(settled, cache, progress)
    with made as models:
        for (a, b), key in zip(pairs, names, strict=True):
            with _noted(failed, key):
                scored[key] = score(split_pair(a, b, settled), settled, models)
        pool = _pool(scored.values())
        n = sum(len(s.hypotheses) for s in pool)
        together = corrected(list(scored.values()), settled)
        for (key, one), tests in zip(scored.items(), together, strict=True):
            pooled = any(one is s for s in pool)
            with _noted(failed, key):
                report = conclude(one, tests, settled, models, n if pooled else None)
                reports[key] = _with_note(report, n, len(pool)) if pooled else report
    if not reports:
        (a, b), reason = next(iter(failed.items()))
        raise InputError(f"No pair of sets could be compared. {a} and {b}: {reason}")
    return ManyReport(
        title=title,
        names=tuple(dict.fromkeys(name for pair in names for name in pair)),
        reports=reports,
        failed=failed,
        n_candidates=n,
    )


def corrected(scored: Sequence[Measurements], config: Config) -> list[Tests]:
    """Corrects the tests of several comparisons together: one Benjamini–Hochberg over all.

    Tests on images that also proposed stay as they are and outside the pool: their p-values are too
    small, confirm nothing, and would lower the q-values of the others.

    Args:
        scored: What was measured in each comparison.
        config: The configuration that all of them share.

    Returns:
        The tests of each comparison, in order. With one comparison, its own.
    """
    settings, pool = config.statistics, _pool(scored)
    q_values = stats.benjamini_hochberg(np.concatenate([s.tests.p_value for s in pool] or [[]]))
    ends = np.cumsum([len(s.hypotheses) for s in pool], dtype=int)
    parts = iter(np.split(q_values, ends[:-1]))
    tests = []
    for one in scored:
        own = one.tests
        if not one.halves.double_dipped:
            own = findings.corrected(own, next(parts), settings)
        tests.append(own)
    return tests


def every_pair(sets: Sequence[ImageSet]) -> list[tuple[ImageSet, ImageSet]]:
    """The n (n - 1) / 2 pairs of n sets, each pair once."""
    return [(a, b) for i, a in enumerate(sets) for b in sets[i + 1 :]]


def each_and_rest(sets: Sequence[ImageSet]) -> list[tuple[ImageSet, ImageSet]]:
    """Each of n sets, and all the others joined.

    Raises:
        InputError: There are fewer than three sets.
    """
    if len(sets) < 3:
        raise InputError(
            "Expected at least 3 sets for each against the rest, got "
            f"{len(sets)}; compare the two (compare)."
        )
    pairs = []
    for images in sets:
        others = reduce(ImageSet.joined, [other for other in sets if other is not images])
        pairs.append((images, others.renamed(_fresh("the rest", sets))))
    return pairs


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
        opened = [whole.subset(values == v).renamed(v) for v in found]
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
        named.append(images.renamed(fresh))
    return named


@contextmanager
def _noted(failed: dict[Pair, str], key: Pair) -> Iterator[None]:
    """Notes why a pair could not be compared; what would fail for every pair is raised."""
    try:
        yield
    except (MissingBackendError, CacheMissError):
        raise
    except VisdiffError as error:
        failed[key] = str(error)


def _pool(scored: Iterable[Measurements]) -> list[Measurements]:
    """The comparisons that are corrected together."""
    return [s for s in scored if not s.halves.double_dipped]


def _with_note(report: DifferenceReport, n_candidates: int, n_comparisons: int) -> DifferenceReport:
    """The report, saying what its q-values are corrected over."""
    if n_comparisons < 2:
        return report
    sentence = (
        f"The q-values are corrected over {n_candidates} candidates of {n_comparisons} "
        f"comparisons{'; those of the shuffled runs over each run’s own' if report.null else ''}."
    )
    return replace(report, warnings=(*report.warnings, sentence))


def _fresh(name: str, opened: Sequence[ImageSet]) -> str:
    return f"{name} (joined)" if name in {images.name for images in opened} else name
