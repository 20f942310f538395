"""The whole comparison: images A, images B → captions → hypotheses → scores → report.

Hypotheses come from one half of the images, every number from the other. VisDiff (Dunlap et al.,
CVPR 2024) proposes and ranks; what is added here is the split, the tests, the correction, the
redundancy, the explained separability and the abstaining (design, "statistically honest").

There are two parts. `score` asks the models and tests every candidate; `conclude` turns what it
measured into a report. Many comparisons (`visdiff.comparison.many`) score all of their pairs first,
correct once over all candidates, and then conclude.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.cross_check import cross_check
from visdiff.comparison.findings import NO_DIFFERENCE, Tests, explain, sort_out, test, verdict
from visdiff.comparison.measurements import Scored
from visdiff.comparison.null import null_run
from visdiff.comparison.preflight import preflight
from visdiff.comparison.provenance import Stopwatch, provenance
from visdiff.comparison.readiness import check_models
from visdiff.comparison.rounds import propose
from visdiff.comparison.split import align, cut, open_both
from visdiff.comparison.thumbnails import score_table, thumbnails
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport

__all__ = ["NO_DIFFERENCE", "Scored", "compare", "conclude", "score"]


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
            ``null_repeats=20``, ``verify="vqa"``, ``statistics__alpha=0.01``.

    Returns:
        The report. Captions and embeddings are cached as they are made, so that a run that was
        killed goes on where it stopped and gives the same report.

    Raises:
        InputError: A source, column, setting or backend that does not exist, or an empty set.
        MissingBackendError: A library or a model's weights are not available.
    """
    config = (config or Config.of(preset)).changed(**settings)
    set_a, set_b = open_both(a, b, where_a, where_b, name_a, name_b)
    with Cache() if cache is None else nullcontext(cache) as store:
        models = backends or Backends.of(config, store)
        scored = score(set_a, set_b, config, models, store, progress)
        return conclude(scored, scored.tests, config, models, store, progress)


def score(
    set_a: ImageSet,
    set_b: ImageSet,
    config: Config,
    backends: Backends,
    cache: Cache,
    progress: bool,
) -> Scored:
    """Proposes from one half of the images, scores the other, and tests every candidate.

    Args:
        set_a: Set A.
        set_b: Set B.
        config: The configuration.
        backends: Models made from it.
        cache: Where captions and embeddings are kept.
        progress: Show progress bars on stderr.

    Raises:
        InputError: A column or setting does not exist, or a set has fewer than two images.
        MissingBackendError: A model's weights are not available; said before any image is decoded.
    """
    watch = Stopwatch()
    rng = np.random.default_rng(config.seed)
    opened, warnings = (set_a, set_b), list[str]()
    _check_sizes(set_a, set_b)
    check_models(backends, set_a, set_b, cache)

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
        proposals = propose(
            backends, halves.discovery_a, halves.discovery_b, captions, config, rng, cache, progress
        )
        warnings += proposals.warnings()

    with watch("rank"):
        hypotheses, a, b = proposals.hypotheses, halves.scoring_a, halves.scoring_b
        said: list[str | None] | None = None
        if reads and halves.double_dipped and captions is not None:
            said = captions
        elif reads:
            found = backends.captions(a, b, cache, progress)
            warnings += [w for w in _failed("could not be captioned", found) if w not in warnings]
            said = found.values
        scores = backends.score(hypotheses, a, b, said, cache, progress)
        if missing := int(np.isnan(scores).sum()):
            warnings.append(f"{missing} of {scores.size} scores are missing; they count nowhere.")
        features = backends.features(a, b, cache, progress)
    with watch("statistics"):
        tests = test(
            hypotheses,
            scores,
            halves.scoring_is_a,
            config.statistics,
            rng,
            groups=halves.groups,
            may_confirm=not halves.double_dipped,
        )
    null = None
    if config.null_repeats:
        with watch("null"):
            null, told = null_run(backends, halves, captions, said, config, cache)
            warnings += [f"In the shuffled runs: {w}" for w in told]
    return Scored(
        *opened, checks, halves, captions, said, proposals, scores, features, tests, null,
        tuple(warnings), watch,
    )  # fmt: skip


def conclude(
    scored: Scored,
    tests: Tests,
    config: Config,
    backends: Backends,
    cache: Cache,
    progress: bool,
    n_candidates: int | None = None,
) -> DifferenceReport:
    """Turns what was measured into a report.

    Args:
        scored: What `score` returned.
        tests: Its own tests, or the same corrected over more comparisons than this one.
        config: The configuration.
        backends: Models made from it; the second ranker (``config.verify``) scores here, since only
            what is confirmed is checked.
        cache: Where its scores are kept.
        progress: Show progress bars on stderr.
        n_candidates: How many candidates the correction is over; those of this comparison when
            None.
    """
    halves, hypotheses, is_a = scored.halves, scored.hypotheses, scored.halves.scoring_is_a
    n_a, n_b = len(halves.scoring_a), len(halves.scoring_b)
    settings, warnings = config.statistics, list(scored.warnings)
    with scored.watch("statistics"):
        ids = [*halves.scoring_a.ids, *halves.scoring_b.ids]
        differences, rejected = sort_out(hypotheses, scored.scores, is_a, ids, tests, settings)
        separability = explain(
            hypotheses, scored.scores, scored.features, differences, is_a, config.seed
        )
        alpha = settings.alpha / max(1, len(hypotheses) if n_candidates is None else n_candidates)
        smallest = stats.minimum_detectable_auroc(n_a, n_b, alpha)
    captioned = scored.captions is not None or scored.said is not None
    if backends.verifier is not None and any(d.confirmed for d in differences):
        with scored.watch("verify"):
            differences, told = cross_check(
                differences, halves, scored.said, config, backends, cache, progress
            )
            warnings += told
        captioned = captioned or backends.verifier.needs_captions
    if backends.ledger.spent:
        warnings.append("The budget is spent: not every question was asked (llm.max_calls, …).")
    models = backends.identities(captioned=captioned)
    made = provenance(config, models, scored.watch.seconds, cache)

    return DifferenceReport(
        verdict=verdict(differences, scored.set_a.name, scored.set_b.name, halves.double_dipped),
        differences=differences,
        rejected=rejected,
        separability=separability,
        minimum_detectable_auroc=smallest,
        set_a=scored.card_a,
        set_b=scored.card_b,
        paired_by=config.paired_by,
        double_dipped=halves.double_dipped,
        preflight=scored.preflight.to_dict(),
        null=scored.null,
        unanswered=scored.proposals.failures,
        config=config.model_dump(mode="json"),
        provenance=replace(
            made,
            prompts={**made.prompts, **backends.prompts(captioned=captioned)},
            tokens=backends.tokens(),
            cost=backends.cost(),
        ),
        warnings=tuple(warnings),
        scores=score_table(hypotheses, scored.scores, halves),
        thumbnails=thumbnails(differences, halves),
        captions=scored.captions_by_key,
    )


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
