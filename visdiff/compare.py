"""The whole comparison: images A, images B → captions → hypotheses → scores → report.

Hypotheses come from one half of the images, every number from the other. VisDiff (Dunlap et al.,
CVPR 2024) proposes and ranks; what is added here is the split, the tests, the correction, the
redundancy, the explained separability and the abstaining (design, "statistically honest").
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visdiff import stats
from visdiff.backends import Backends
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.errors import InputError
from visdiff.findings import sort_out, test
from visdiff.halves import Halves, align, cut, open_both
from visdiff.imageset import ImageSet
from visdiff.null import null_run
from visdiff.preflight import preflight
from visdiff.provenance import Stopwatch, provenance
from visdiff.results import Difference, DifferenceReport, Hypothesis, Separability, SetCard
from visdiff.rounds import propose
from visdiff.thumbnails import score_table, thumbnails

logger = logging.getLogger(__name__)

NO_DIFFERENCE = "no difference found"


def compare(
    a: Any,
    b: Any,
    *,
    preset: str = "laptop",
    config: Config | None = None,
    where_a: Mapping[str, Any] | None = None,
    where_b: Mapping[str, Any] | None = None,
    name_a: str | None = None,
    name_b: str | None = None,
    cache: Cache | None = None,
    backends: Backends | None = None,
    progress: bool = True,
    **settings: Any,
) -> DifferenceReport:
    """Says how image set A differs from image set B.

    Args:
        a: Set A: a folder, glob, manifest, list of paths or PIL images, or an ``ImageSet``.
        b: Set B.
        preset: Name of a preset or path of a ``.toml`` file; ignored when ``config`` is given.
        config: A whole configuration.
        where_a: Filter on the manifest's columns for A, e.g. ``{"group_name": "real"}``.
        where_b: The same for B.
        name_a: What to call A; by default its filter's value, folder or file.
        name_b: The same for B.
        cache: Where captions and embeddings are kept; the user's cache by default.
        backends: Models made from this very configuration, for several comparisons with one
            loading; what they spend is then counted, and limited, over all of them.
        progress: Show progress bars on stderr.
        **settings: Changes to the configuration, see :meth:`visdiff.config.Config.changed`:
            ``seed=1``, ``ranker="captions-lexical"``, ``paired_by=("prompt", "seed")``,
            ``null_repeats=20``, ``statistics__alpha=0.01``.

    Returns:
        The report. Captions and embeddings are cached as they are made, so that a run that was
        killed goes on where it stopped and gives the same report.

    Raises:
        InputError: A source, column, setting or backend that does not exist, or an empty set.
        MissingBackendError: A library or a model's weights are not available.
    """
    config = (config or Config.of(preset)).changed(**settings)
    sets = open_both(a, b, where_a, where_b, name_a, name_b)
    if cache is None:
        with Cache() as own:
            return _compare(*sets, config, own, backends or Backends.of(config, own), progress)
    return _compare(*sets, config, cache, backends or Backends.of(config, cache), progress)


def _compare(
    set_a: ImageSet,
    set_b: ImageSet,
    config: Config,
    cache: Cache,
    backends: Backends,
    progress: bool,
) -> DifferenceReport:
    watch = Stopwatch()
    rng = np.random.default_rng(config.seed)
    opened, warnings = (set_a, set_b), list[str]()
    _check_sizes(set_a, set_b)

    with watch("preflight"):
        checks = preflight(set_a, set_b, cache=cache, progress=progress)
        warnings += checks.warnings()
        set_a, set_b = _readable(set_a, checks.unreadable_a), _readable(set_b, checks.unreadable_b)
        _check_sizes(set_a, set_b)
    if config.paired_by:
        set_a, set_b, left_out = align(set_a, set_b, config.paired_by)
        if left_out:
            warnings.append(f"{left_out} images without a partner were left out.")
    halves = cut(
        set_a,
        set_b,
        fraction=config.statistics.discovery_fraction,
        min_scored=config.statistics.min_scored,
        paired_by=config.paired_by,
    )

    # Of the discovery half only when somebody reads it: the proposer, or the ranker between rounds.
    reads = backends.ranker.needs_captions
    captions: list[str | None] | None = None
    if backends.proposer.needs_captions or (reads and config.rounds != 1):
        with watch("captions"):
            found = backends.captions(halves.discovery_a, halves.discovery_b, cache, progress)
            warnings += _failed("could not be captioned", found)
            captions = found.values
    with watch("propose"):
        proposed = propose(
            backends, halves.discovery_a, halves.discovery_b, captions, config, rng, cache, progress
        )
        warnings += proposed.warnings()
        hypotheses = proposed.hypotheses

    with watch("rank"):
        said: list[str | None] | None = None
        if reads and halves.double_dipped and captions is not None:
            said = captions
        elif reads:
            found = backends.captions(halves.scoring_a, halves.scoring_b, cache, progress)
            warnings += [w for w in _failed("could not be captioned", found) if w not in warnings]
            said = found.values
        scores = backends.score(
            hypotheses, halves.scoring_a, halves.scoring_b, said, cache, progress
        )
        if missing := int(np.isnan(scores).sum()):
            warnings.append(f"{missing} of {scores.size} scores are missing; they count nowhere.")
        features = backends.features(halves.scoring_a, halves.scoring_b, cache, progress)
    with watch("statistics"):
        is_a = halves.scoring_is_a
        ids = [*halves.scoring_a.ids, *halves.scoring_b.ids]
        tests = test(
            hypotheses,
            scores,
            is_a,
            config.statistics,
            rng,
            groups=halves.groups,
            may_confirm=not halves.double_dipped,
        )
        differences, rejected = sort_out(hypotheses, scores, is_a, ids, tests, config.statistics)
        separability = explain(hypotheses, scores, features, differences, is_a, config.seed)
        smallest = stats.minimum_detectable_auroc(
            len(halves.scoring_a),
            len(halves.scoring_b),
            config.statistics.alpha / max(1, len(hypotheses)),
        )
    null = None
    if config.null_repeats:
        with watch("null"):
            null, told = null_run(backends, halves, captions, said, config, cache)
            warnings += [f"In the shuffled runs: {w}" for w in told]
    if backends.ledger.spent:
        warnings.append("The budget is spent: not every question was asked (llm.max_calls, …).")
    captioned = captions is not None or said is not None
    made = provenance(config, backends.identities(captioned=captioned), watch.seconds, cache)

    return DifferenceReport(
        verdict=verdict(differences, opened[0].name, opened[1].name, halves.double_dipped),
        differences=differences,
        rejected=rejected,
        separability=separability,
        minimum_detectable_auroc=smallest,
        set_a=_card(opened[0], halves.discovery_a, halves.scoring_a, len(checks.unreadable_a)),
        set_b=_card(opened[1], halves.discovery_b, halves.scoring_b, len(checks.unreadable_b)),
        paired_by=config.paired_by,
        double_dipped=halves.double_dipped,
        preflight=checks.to_dict(),
        null=null,
        unanswered=proposed.failures,
        config=config.model_dump(mode="json"),
        provenance=replace(
            made,
            prompts={**made.prompts, **backends.prompts(captioned=captioned)},
            tokens=backends.tokens(),
            cost=backends.cost(),
        ),
        warnings=tuple(warnings),
        scores=score_table(hypotheses, scores, halves),
        thumbnails=thumbnails(differences, halves),
        captions=_by_key(halves, captions),
    )


def explain(
    hypotheses: Sequence[Hypothesis],
    scores: np.ndarray,
    features: np.ndarray | None,
    differences: Sequence[Difference],
    is_a: np.ndarray,
    seed: int,
) -> Separability:
    """How different the scored images are, and how much of it the confirmed sentences explain."""
    confirmed = {(d.text, d.direction) for d in differences if d.confirmed}
    rows = [i for i, h in enumerate(hypotheses) if (h.text, h.direction) in confirmed]
    images = None
    if features is not None:
        images = _number(stats.separability(features, is_a, np.random.default_rng(seed)))
    sentences = None
    if rows:
        sentences = _number(stats.separability(scores[rows].T, is_a, np.random.default_rng(seed)))
    return Separability(images=images, sentences=sentences)


def verdict(
    differences: Sequence[Difference], name_a: str, name_b: str, double_dipped: bool
) -> str:
    """The result in one sentence."""
    confirmed = [d for d in differences if d.confirmed]
    if not confirmed:
        if double_dipped and differences:
            return f"{NO_DIFFERENCE} that could be confirmed: too few images to test on"
        return NO_DIFFERENCE
    parts = []
    for direction, name in (("A", name_a), ("B", name_b)):
        texts = [f"“{d.text}”" for d in confirmed if d.direction == direction][:3]
        if texts:
            parts.append(f"{name} shows more {', '.join(texts)}")
    count = "1 difference" if len(confirmed) == 1 else f"{len(confirmed)} differences"
    return f"{count} confirmed: {'; '.join(parts)}"


def _check_sizes(a: ImageSet, b: ImageSet) -> None:
    for images, which in ((a, "A"), (b, "B")):
        if len(images) < 2:
            raise InputError(
                f"Expected at least 2 readable images in set {which} ({images.source}), got "
                f"{len(images)}; a difference between sets needs several images a side."
            )


def _readable(images: ImageSet, unreadable: Sequence[tuple[str, str]]) -> ImageSet:
    bad = {name for name, _ in unreadable}
    if not bad:
        return images
    return images.subset([i for i, name in enumerate(images.ids) if name not in bad])


def _failed(what: str, applied: Applied) -> list[str]:
    if not applied.failures:
        return []
    first = next(iter(applied.failures.values()))
    return [f"{len(applied.failures)} images {what} and were left out (first: {first})."]


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


def _by_key(halves: Halves, captions: Sequence[str | None] | None) -> dict[str, str]:
    if captions is None:
        return {}
    keys = [f"A/{i}" for i in halves.discovery_a.ids] + [f"B/{i}" for i in halves.discovery_b.ids]
    return {k: c for k, c in zip(keys, captions, strict=True) if c is not None}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
