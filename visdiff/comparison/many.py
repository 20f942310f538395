"""Several comparisons with one correction: every pair of n sets, or each set against the rest.

Each pair goes through the two parts of `visdiff.compare`. In between, the false discovery rate is
controlled over all candidates of all comparisons: twenty comparisons at q ≤ 0.05 each are not one
analysis at q ≤ 0.05. The p-values of all comparisons are pooled and corrected once (Benjamini and
Hochberg 1995), and every report uses the resulting q-values.
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
        sets: n ≥ 2 sources for `ImageSet.open`, as a list or as a mapping from names; with ``by``
            one source.
        by: A column whose values split one source into the sets, such as "group_name".
        **how: Arguments of `compare_pairs`: a preset or configuration, settings, models, cache.

    Returns:
        n (n - 1) / 2 reports. A pair that could not be compared is listed in ``failed``.

    Raises:
        InputError: There are fewer than two sets, a source, column or setting does not exist, or
            no pair could be compared.
        MissingBackendError: A library or a model's weights are not available.
    """
    opened = open_sets(sets, by)
    return compare_pairs(every_pair(opened), title=f"{len(opened)} sets, every pair", **how)


def compare_rest(sets: Any, *, by: str | None = None, **how: Any) -> ManyReport:
    """Compares each of n sets with all the others joined; otherwise like `compare_many`.

    Returns:
        n reports, one per set.

    Raises:
        InputError: As for `compare_many`; or there are fewer than three sets; or the sets are
            paired, so that an image would have a partner in each of the other sets.
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
    """Compares pairs of sets, with one false discovery rate over all candidates.

    Args:
        pairs: Pairs of sets; each pair of names occurs once.
        title: Short title of these comparisons.
        preset: Name of a preset or path of a ``.toml`` file; ignored when ``config`` is given.
        config: A complete configuration, the same for every pair.
        cache: Cache of captions and embeddings; the user's cache by default.
        backends: Models created from this configuration, with their own cache and progress bars;
            created once for all pairs by default.
        progress: Show progress bars on stderr.
        **settings: Changes to the configuration, see `visdiff.config.Config.changed`.

    Returns:
        The reports in the order of the pairs. A pair that could not be compared (too few images,
        no pairs of images) is listed in ``failed`` with the reason.

    Raises:
        InputError: There is no pair, two pairs have the same names, or no pair could be compared.
        MissingBackendError: A library or a model's weights are not available.
    """
    settled = (config or Config.of(preset)).changed(**settings)
    names = [(a.name, b.name) for a, b in pairs]
    if not pairs:
        raise InputError("Expected pairs of sets to compare, got none; pass at least one.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Expected pairs of different names, got {twice} twice; rename the sets.")
    scored: dict[Pair, Measurements] = {}
    reports: dict[Pair, DifferenceReport] = {}
    failed: dict[Pair, str] = {}
    opened = nullcontext(backends) if backends else Backends.using(settled, cache, progress)
    with opened as models:
        for (a, b), key in zip(pairs, names, strict=True):
            with _record_failure(failed, key):
                scored[key] = score(split_pair(a, b, settled), settled, models)
        pool = _pool(scored.values())
        n = sum(len(s.hypotheses) for s in pool)
        all_tests = corrected(list(scored.values()), settled)
        for (key, one), tests in zip(scored.items(), all_tests, strict=True):
            pooled = any(one is s for s in pool)
            with _record_failure(failed, key):
                report = conclude(one, tests, settled, models, n if pooled else None)
                reports[key] = _with_note(report, n, len(pool)) if pooled else report
    if not reports:
        (a, b), reason = next(iter(failed.items()))
        raise InputError(
            f"Expected a pair of sets that can be compared, got none. {a} and {b}: {reason}"
        )
    return ManyReport(
        title=title,
        names=tuple(dict.fromkeys(name for pair in names for name in pair)),
        reports=reports,
        failed=failed,
        n_candidates=n,
    )


def corrected(scored: Sequence[Measurements], config: Config) -> list[Tests]:
    """Corrects the tests of several comparisons together, with one Benjamini–Hochberg procedure.

    Double-dipped comparisons (proposing and testing used the same images) are excluded from the
    pool and stay unchanged: their p-values are too small, confirm nothing, and would lower the
    q-values of the others.

    Args:
        scored: Measurements of each comparison.
        config: The configuration that all of them share.

    Returns:
        The tests of each comparison, in order.
    """
    settings, pool = config.statistics, _pool(scored)
    q_values = stats.benjamini_hochberg(np.concatenate([s.tests.p_value for s in pool] or [[]]))
    ends = np.cumsum([len(s.hypotheses) for s in pool], dtype=int)
    parts = iter(np.split(q_values, ends[:-1]))
    tests = []
    for one in scored:
        own = one.tests
        if not one.halves.double_dipped:
            own = findings.with_q_values(own, next(parts), settings)
        tests.append(own)
    return tests


def every_pair(sets: Sequence[ImageSet]) -> list[tuple[ImageSet, ImageSet]]:
    """Returns the n (n - 1) / 2 pairs of n sets, each pair once."""
    return [(a, b) for i, a in enumerate(sets) for b in sets[i + 1 :]]


def each_and_rest(sets: Sequence[ImageSet]) -> list[tuple[ImageSet, ImageSet]]:
    """Returns each of n sets, paired with all the others joined.

    Raises:
        InputError: There are fewer than three sets.
    """
    if len(sets) < 3:
        raise InputError(
            f"Expected at least 3 sets for each against the rest, got {len(sets)}; compare two "
            "sets with `compare`."
        )
    pairs = []
    for images in sets:
        others = reduce(ImageSet.joined, [other for other in sets if other is not images])
        pairs.append((images, others.renamed(_fresh("the rest", sets))))
    return pairs


def open_sets(sets: Any, by: str | None = None) -> list[ImageSet]:
    """Opens n sets and gives them distinct names.

    Args:
        sets: A list or a mapping of sources; with ``by`` one source.
        by: A column whose values split the source; rows without a value are in no set.

    Raises:
        InputError: There are fewer than two sets, or a source or column does not exist.
    """
    if by is not None:
        images = ImageSet.open(sets)
        manifest.check_columns(images.frame, [by], images.source)
        values = images.frame[by].map(manifest.text).to_numpy(dtype=str)
        found = [v for v in dict.fromkeys(values.tolist()) if v]
        opened = [images.subset(values == v).renamed(v) for v in found]
    elif isinstance(sets, Mapping):
        opened = [ImageSet.open(source, name=str(name)) for name, source in sets.items()]
    elif isinstance(sets, (str, bytes)) or not isinstance(sets, Iterable):
        raise InputError(
            f"Expected a list or a mapping of sets, got {sets!r}; pass by=COLUMN to split one "
            "source into sets."
        )
    else:
        opened = [ImageSet.open(source) for source in sets]
    if len(opened) < 2:
        raise InputError(f"Expected at least 2 sets, got {len(opened)}; pass more of them.")
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
def _record_failure(failed: dict[Pair, str], key: Pair) -> Iterator[None]:
    """Records why a pair could not be compared; raises errors that concern every pair."""
    try:
        yield
    except (MissingBackendError, CacheMissError):
        raise
    except VisdiffError as error:
        failed[key] = str(error)


def _pool(scored: Iterable[Measurements]) -> list[Measurements]:
    """Returns the comparisons that are corrected together."""
    return [s for s in scored if not s.halves.double_dipped]


def _with_note(report: DifferenceReport, n_candidates: int, n_comparisons: int) -> DifferenceReport:
    """Returns the report with a note on what its q-values are corrected over."""
    if n_comparisons < 2:
        return report
    sentence = (
        f"The q-values are corrected over {n_candidates} candidates of {n_comparisons} "
        f"comparisons{'; those of the shuffled runs over each run’s own' if report.null else ''}."
    )
    return replace(report, warnings=(*report.warnings, sentence))


def _fresh(name: str, opened: Sequence[ImageSet]) -> str:
    return f"{name} (joined)" if name in {images.name for images in opened} else name
