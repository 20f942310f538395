"""The comparison of two sets: images A, images B → captions → hypotheses → scores → report.

Hypotheses are proposed from one half of the images and tested on the other half. Proposing and
ranking follow VisDiff (Dunlap et al., CVPR 2024); the split and the tests are ours.

There are two parts. `score` runs the models and tests every candidate; `conclude` turns the
measurements into a report. `visdiff.comparison.many` corrects several comparisons in between.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.conclude import conclude
from visdiff.comparison.folds import (
    propose_from_halves,
    score_on_halves,
    test_on_halves,
    tested_images,
)
from visdiff.comparison.measurements import Measurements
from visdiff.comparison.null import null_run
from visdiff.comparison.preflight import preflight
from visdiff.comparison.provenance import Stopwatch
from visdiff.comparison.readiness import check_models
from visdiff.comparison.split import SplitPair, check_sizes, open_pair, split_pair
from visdiff.comparison.stages import captions_stage, proposals_stage, scores_stage
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.results import DifferenceReport


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
    """Compares image set A with image set B and returns the differences, with statistics.

    Args:
        a: Set A: a folder, glob, manifest, list of paths or PIL images, or an ``ImageSet``.
        b: Set B.
        preset: Name of a preset or path of a ``.toml`` file; ignored when ``config`` is given.
        config: A complete configuration.
        where_a: Filter on the manifest's columns for A, e.g. ``{"group_name": "real"}``.
        where_b: The same for B.
        name_a: Name of A in the report; by default its filter's value, folder or file.
        name_b: The same for B.
        cache: Cache of captions and embeddings; the user's cache by default.
        backends: Models created from this configuration, with their own cache and progress bars.
            Their cost is counted and limited over all comparisons that share them.
        progress: Show progress bars on stderr.
        **settings: Changes to the configuration, see :meth:`visdiff.config.Config.changed`:
            ``seed=1``, ``ranker="captions-lexical"``, ``paired_by=("prompt", "seed")``,
            ``group_by="photo"``, ``null_repeats=20``, ``verify="vqa"``, ``statistics__alpha=0.01``.

    Returns:
        The report. A run that was killed resumes from the cache and returns the same report.

    Raises:
        InputError: A source, column, setting or backend does not exist, or a set is empty.
        MissingBackendError: A library or a model's weights are not available.
    """
    config = (config or Config.of(preset)).changed(**settings)
    pair = split_pair(*open_pair(a, b, where_a, where_b, name_a, name_b), config)
    with nullcontext(backends) if backends else Backends.using(config, cache, progress) as models:
        measured = score(pair, config, models)
        return conclude(measured, measured.tests, config, models)


def score(pair: SplitPair, config: Config, backends: Backends) -> Measurements:
    """Proposes from one half of the images, scores the other, and tests every candidate.

    Small sets are cross-fitted: each half is scored with the hypotheses of the other.

    Args:
        pair: Both sets; unreadable images are left out.
        config: The configuration.
        backends: Models created from it.

    Raises:
        InputError: A setting is invalid, or a set has fewer than two images.
        MissingBackendError: A model's weights are not available. This is raised before any image
            is decoded.
    """
    stopwatch, rng = Stopwatch(), np.random.default_rng(config.seed)
    set_a, set_b, runtime = pair.set_a, pair.set_b, backends.runtime
    check_sizes(set_a, set_b)
    check_models(backends, set_a, set_b)

    with stopwatch("preflight"):
        checks = preflight(set_a, set_b, cache=runtime.cache, progress=runtime.progress)
        warnings = [
            *backends.warnings,
            *dict.fromkeys([*set_a.notes, *set_b.notes]),
            *checks.warnings(),
        ]
        pair = pair.checked(checks, config)
        check_sizes(pair.set_a, pair.set_b, checks.unreadable_a, checks.unreadable_b)
    if pair.n_unpaired:
        warnings.append(f"{pair.n_unpaired} images without a partner were left out.")
    halves, a, b = pair.halves, pair.halves.scoring_a, pair.halves.scoring_b
    warnings += halves.cluster_warnings()

    discovery_captions = scoring_captions = None
    captioned: list[Applied] = []
    if backends.reads_discovery_captions(config):
        with stopwatch("captions"):
            found = backends.captions(halves.discovery_a, halves.discovery_b)
            captioned.append(found)
            warnings += _uncaptioned(found)
            discovery_captions = found.values
    with stopwatch("propose"):
        proposals, proposed = propose_from_halves(backends, halves, discovery_captions, config, rng)
        warnings += proposals.warnings()
        hypotheses = proposals.hypotheses

    with stopwatch("rank"):
        if backends.ranker.needs_captions and halves.same_images:
            scoring_captions = discovery_captions
        if backends.ranker.needs_captions and scoring_captions is None:
            found = backends.captions(a, b)
            captioned.append(found)
            warnings += [w for w in _uncaptioned(found) if w not in warnings]
            scoring_captions = found.values
        before = backends.ledger.reasons.copy()
        scores = score_on_halves(backends, hypotheses, halves, proposed, scoring_captions)
        reason = backends.ledger.common_reason(before)
        tested = tested_images(halves, proposed, len(hypotheses))
        stages = (
            captions_stage(captioned),
            proposals_stage(proposals),
            scores_stage(scores, tested, reason),
        )
        if missing := int((np.isnan(scores) & tested).sum()):
            warnings.append(f"{missing} of {int(tested.sum())} scores are missing and are ignored.")
            if reason:
                warnings.append(f"The most frequent reason of missing scores: {reason}.")
        features = backends.features(a, b)
    with stopwatch("statistics"):
        tests = test_on_halves(hypotheses, scores, halves, proposed, config.statistics, rng)
    null = None
    if config.null_repeats:
        with stopwatch("null"):
            null, more = null_run(backends, halves, discovery_captions, scoring_captions, config)
            warnings += [f"In the shuffled runs: {w}" for w in more]
    return Measurements(
        set_a, set_b, checks, halves, discovery_captions, scoring_captions, proposals, scores,
        features, tests, null, tuple(warnings), stopwatch, proposed,
        tuple(s for s in stages if s.asked),
    )  # fmt: skip


def _uncaptioned(applied: Applied) -> list[str]:
    reasons = list(applied.failures.values())
    text = f"{len(reasons)} images could not be captioned and were left out"
    return [f"{text} (first: {reasons[0]})."] if reasons else []
