"""The report of a comparison, from its measurements."""

import numpy as np

from visdiff import stats
from visdiff.comparison.backends import Backends
from visdiff.comparison.cross_check import cross_check
from visdiff.comparison.findings import Tests, explained_separability, select, verdict
from visdiff.comparison.folds import tested_images
from visdiff.comparison.measurements import Measurements
from visdiff.comparison.provenance import provenance
from visdiff.comparison.thumbnails import score_table, thumbnails
from visdiff.config import Config
from visdiff.results import DifferenceReport


def conclude(
    measured: Measurements,
    tests: Tests,
    config: Config,
    backends: Backends,
    n_candidates: int | None = None,
) -> DifferenceReport:
    """Returns the report of a comparison.

    Args:
        measured: The result of `visdiff.comparison.compare.score`.
        tests: Its own tests, or the same tests corrected over several comparisons.
        config: The configuration.
        backends: Models created from it. The second ranker (``config.verify``) scores here, because
            only confirmed differences are checked.
        n_candidates: Number of candidates that the correction covers; those of this comparison if
            None.
    """
    halves, hypotheses, scores = measured.halves, measured.hypotheses, measured.scores
    is_a, tested = halves.scoring_is_a, tested_images(halves, measured.proposed, len(hypotheses))
    settings, warnings, stopwatch = config.statistics, list(measured.warnings), measured.stopwatch
    with stopwatch("statistics"):
        ids = [*halves.scoring_a.ids, *halves.scoring_b.ids]
        differences, rejected = select(hypotheses, scores, is_a, ids, tests, settings, tested)
        separability = explained_separability(
            hypotheses,
            scores,
            measured.features,
            differences,
            is_a,
            config.seed,
            halves.clusters,
        )
        alpha = settings.alpha / max(1, len(hypotheses) if n_candidates is None else n_candidates)
        # At a level of 0.5 a test confirms anything on the right side of chance.
        smallest = stats.minimum_detectable_auroc(*halves.n_tested, alpha) if alpha < 0.5 else None
    captions = measured.discovery_captions, measured.scoring_captions
    captioned = any(c is not None for c in captions)
    if backends.verifier is not None and any(d.confirmed for d in differences):
        with stopwatch("verify"):
            differences, more = cross_check(differences, measured, config, backends)
            warnings += more
        captioned = captioned or backends.verifier.needs_captions
    if backends.ledger.spent:
        warnings.append(
            "The budget is spent: not every request was sent (--max-calls, --max-cost)."
        )
    return DifferenceReport(
        verdict=verdict(
            differences,
            measured.set_a.name,
            measured.set_b.name,
            halves.double_dipped,
            measured.stages,
        ),
        differences=differences,
        rejected=rejected,
        separability=separability,
        minimum_detectable_auroc=smallest,
        set_a=measured.card_a,
        set_b=measured.card_b,
        paired_by=config.paired_by,
        double_dipped=halves.double_dipped,
        cross_fitted=halves.first is not None,
        preflight=measured.preflight.to_dict(),
        null=measured.null,
        unanswered=measured.proposals.failures,
        stages=measured.stages,
        config=config.model_dump(mode="json"),
        provenance=provenance(config, backends, stopwatch.seconds, captioned=captioned),
        warnings=tuple(warnings),
        scores=score_table(hypotheses, np.where(tested, scores, np.nan), halves),
        thumbnails=thumbnails(differences, halves),
        captions=measured.captions_by_key,
    )
