"""The audit: what an edit changed, meant or not, in sentences and numbers.

Original and edited model draw the same prompts from the same noise. For every group of prompts the
pairs go to `visdiff` (propose from one half, test on the other, paired tests, one false discovery
rate over all groups), and the distance that they moved is set against the seed-noise floor: what
another seed would have done. What moved and was not meant to is what to preserve next time.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from editing.audits.grouping import groups_of, shared_seeds
from editing.audits.metrics import measures
from editing.audits.outcomes import outcomes_of
from editing.audits.prompt_groups import PromptGroup, prompt_groups, samples_of
from editing.audits.report import AuditReport
from editing.edit import Edit
from editing.generate import EDITED, ORIGINAL, Progress, paired
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Request
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import conclude, score
from visdiff.comparison.many import corrected
from visdiff.comparison.split import pair_up, split_pair
from visdiff.config import Config
from visdiff.config.backends import NgramsConfig
from visdiff.imageset import ImageSet

IMAGES = 64
"""Pairs of images a group: half of them propose, the other half is what the tests see."""


def audit(
    base: Any,
    edit: Edit,
    folder: str | Path,
    *,
    groups: Sequence[PromptGroup] | None = None,
    images: int = IMAGES,
    scale: float = 1.0,
    settings: Settings | None = None,
    batch_size: int = 8,
    on_batch: Callable[[Progress], None] | None = None,
    **how: Any,
) -> AuditReport:
    """Draws what an edit was made for and what it was not, and says what changed.

    Args:
        base: The unedited model: hub id, folder, "miniature", or a pipeline.
        edit: The edit.
        folder: Where the images go; what is there already is not drawn again.
        groups: The prompts; those of `editing.audits.prompt_groups.prompt_groups` by default.
        images: Pairs a group.
        scale: Strength of the edit.
        settings: How to sample.
        batch_size: Images a call of the pipeline; changes nothing in them.
        on_batch: Told after each batch of images.
        **how: As for `audit_sets`: a preset or configuration, a cache, a seed.

    Returns:
        The report.

    Raises:
        InputError: The edit was fitted to another model, the folder cannot be written to, or a
            group cannot be compared.
    """
    pipe = load_pipeline(base)
    edit.check_base(pipe)
    groups = prompt_groups(pipe, edit.requests) if groups is None else groups
    # A cached property is a property, but not to the type checker.
    drawn = paired(
        pipe, cast(Any, edit), samples_of(groups, images), folder,
        scale=scale, settings=settings, batch_size=batch_size, on_batch=on_batch,
    )  # fmt: skip
    return audit_sets(
        drawn.images(ORIGINAL),
        drawn.images(EDITED),
        requests=edit.requests,
        about={"method": edit.method, "base": edit.base_model, "digest": edit.digest},
        **how,
    )


def audit_sets(
    original: ImageSet,
    edited: ImageSet,
    *,
    requests: Sequence[Request] = (),
    about: Mapping[str, str] | None = None,
    by: str = "group",
    preset: str = "laptop",
    config: Config | None = None,
    cache: Cache | None = None,
    progress: bool = True,
    metrics: Sequence[str] = (),
    **changes: Any,
) -> AuditReport:
    """Audits images that exist: of two models, or of a foreign tool's edit.

    Args:
        original: Images of the unedited model, with the columns ``prompt`` and ``seed``.
        edited: Images of the edited one. Pairs are equal prompts and seeds.
        requests: What the edit was asked for; () when that is not known, and then nothing is said
            of whether it did it.
        about: What is known of the edit, for the report.
        by: Column that parts both into groups; without it all images are one group.
        preset: Models of the comparison, as for `visdiff.comparison.compare.compare`.
        config: A whole configuration instead.
        cache: Where captions and embeddings are kept.
        progress: Show progress bars on stderr.
        metrics: Further measures of each group, of `editing.audits.metrics.NAMES`.
        **changes: To the configuration, such as ``seed=1``.

    Returns:
        The report; its q-values are corrected over the candidates of all groups.

    Raises:
        InputError: A column is missing, or nothing pairs.
        MissingBackendError: A model's weights are not available.
    """
    further = measures(metrics)
    settled = (config or Config.of(preset)).changed(**changes)
    if isinstance(settled.proposer, NgramsConfig):
        # What changes under one prompt of four is in a quarter of the captions. What the lower
        # threshold lets through is still tested, on pairs that did not propose it.
        settled = settled.changed(proposer__min_z=settled.proposer.min_z / 2)
    first, second, left_out = pair_up(original, edited, ("prompt", "seed"))
    groups = groups_of(first, second, by)
    warnings = [f"{left_out} images without a partner were left out."] if left_out else []
    warnings += shared_seeds(groups)
    with Backends.using(settled, cache, progress) as models:
        configs = [g.paired(settled) for g in groups]
        scored = [
            score(split_pair(g.original, g.edited, config), config, models)
            for g, config in zip(groups, configs, strict=True)
        ]
        n = sum(len(one.hypotheses) for one in scored)
        audited = []
        for g, config, one, tests in zip(
            groups, configs, scored, corrected(scored, settled), strict=True
        ):
            report = conclude(one, tests, config, models, n)
            features = models.features(g.original, g.edited)
            audited.append(
                g.audited(report, len(one.halves.scoring_a), features, settled.seed, further)
            )
        outcomes = outcomes_of(requests, first, second, by, models)
    return AuditReport(
        about=dict(about or {}),
        requests=tuple(requests),
        outcomes=tuple(outcomes),
        groups=tuple(audited),
        n_candidates=n,
        config=settled.model_dump(mode="json"),
        warnings=tuple(warnings),
    )
