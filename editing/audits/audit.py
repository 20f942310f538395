"""The audit: what an edit changed, intended or not, in sentences and numbers.

The original and the edited model generate images from the same prompts and the same noise. For
each group of prompts, `visdiff` compares the pairs: it proposes differences from one half and
tests them on the other, with paired tests and one false discovery rate over all groups. The
distance between the two images of a pair is compared with the distance between images of
different seeds. Other concepts that moved far should be preserved by the next edit.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from editing.audits.effects import same_things
from editing.audits.grouping import (
    check_columns,
    readable_pairs,
    split_groups,
    warn_shared_seeds,
)
from editing.audits.metrics import load_measures
from editing.audits.outcomes import evaluate_outcomes, subject_outcomes
from editing.audits.personalized.subject import audit_subjects
from editing.audits.personalized.taught import Taught, prepare
from editing.audits.prompt_groups import PromptGroup, prompt_groups, samples_of
from editing.audits.report import AuditReport
from editing.edit import Edit
from editing.generate import EDITED, ORIGINAL, Progress, generate_pairs
from editing.metrics.masks import Segmenter
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Request
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.many import corrected
from visdiff.comparison.split import pair_up
from visdiff.config import Config
from visdiff.config.proposers import NgramsConfig
from visdiff.imageset import ImageSet

IMAGES = 64
"""Pairs of images per group: one half for proposing differences, the other for testing them."""

#: Highest threshold of the proposer `ngrams`. A change under one prompt of four is in a quarter of
#: the captions only. Candidates that pass are still tested, on pairs that did not propose them.
_MIN_Z = 0.98

#: Least completeness of the phrases of `ngrams`: a side effect is a thing, not half of its name.
_MIN_COMPLETENESS = 1.5


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
    references: Sequence[Any] | Any = None,
    checkpoints: str | Path | None = None,
    segmenter: Segmenter | None = None,
    **how: Any,
) -> AuditReport:
    """Generates images of the targets of an edit and of unrelated prompts, and reports changes.

    Of an edit that teaches a subject it also reports what the subject is entangled with, language
    drift, copies, the leak of attention, and the best of the steps that were kept.

    Args:
        base: The unedited model: hub id, folder, "miniature", or a pipeline.
        edit: The edit.
        folder: Folder of the images; complete images that it already holds are reused.
        groups: The prompts; by default those of `editing.audits.prompt_groups.prompt_groups`.
        images: Pairs of images per group.
        scale: Strength of the edit.
        settings: Sampling settings.
        batch_size: Images per call of the pipeline; does not change the images.
        on_batch: Called after each batch of images.
        references: The real images of a taught subject, as for
            `editing.personalize.subject.Subject.open`; a list for several subjects. What needs
            them is named as missing without them.
        checkpoints: Folder of the edits that a training kept, ``NAME-000200.safetensors``.
        segmenter: Finds the class noun in generated images, for the leak of attention.
        **how: Arguments of `audit_sets`, such as a preset or configuration, a cache, a seed.

    Returns:
        The report.

    Raises:
        InputError: The edit was fitted to another model, the folder cannot be written to, or a
            group cannot be compared.
    """
    pipe = load_pipeline(base)
    edit.check_base(pipe)
    groups = prompt_groups(pipe, edit.requests) if groups is None else groups
    # The type checker does not accept a cached property where the protocol has a property.
    generated = generate_pairs(
        pipe, cast(Any, edit), samples_of(groups, images), folder,
        scale=scale, settings=settings, batch_size=batch_size, on_batch=on_batch,
    )  # fmt: skip
    taught = prepare(
        pipe, edit, folder, references=references, checkpoints=checkpoints, segmenter=segmenter,
        scale=scale, settings=settings, batch_size=batch_size, on_batch=on_batch,
    )  # fmt: skip
    return audit_sets(
        generated.images(ORIGINAL),
        generated.images(EDITED),
        requests=edit.requests,
        about={"method": edit.method, "base": edit.base_model, "digest": edit.digest},
        taught=taught,
        notes=generated.warnings,
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
    taught: Mapping[str, Taught] | None = None,
    notes: Sequence[str] = (),
    **changes: Any,
) -> AuditReport:
    """Audits existing images: of two models, or of an edit made by another tool.

    Args:
        original: Images of the unedited model, with the columns ``prompt`` and ``seed`` or others
            of their usual names, such as ``evaluation_seed``.
        edited: Images of the edited model. Images of equal prompt and seed form a pair.
        requests: The requests of the edit; () when they are not known, and the report then does
            not evaluate whether they were met.
        about: Facts about the edit for the report.
        by: Column that splits both sets into groups; without it all images form one group.
        preset: Models of the comparison, as for `visdiff.comparison.compare.compare`.
        config: A complete configuration, used instead of the preset.
        cache: Cache of captions and embeddings.
        progress: Show progress bars on stderr.
        metrics: Additional measures of each group, from `editing.audits.metrics.NAMES`.
        taught: Concept of a request to learn a subject → what is at hand about it, such as its
            references; see `editing.audits.personalized.taught`.
        notes: Sentences about images that are missing, for the warnings of the report.
        **changes: Changes to the configuration, such as ``seed=1``.

    Returns:
        The report; its q-values are corrected over the candidates of all groups.

    Raises:
        InputError: A column is missing, no image has a partner, or no pair can be read.
        MissingBackendError: A model's weights are not available.
    """
    extra_measures = load_measures(metrics)
    config = (config or Config.of(preset)).changed(**changes)
    config = _without_cross_fitting(_with_own_ngrams(config))
    original, edited = check_columns(original, edited)
    first, second, left_out = pair_up(original, edited, ("prompt", "seed"))
    warnings = list(dict.fromkeys([*original.notes, *edited.notes]))
    failures = list(notes)
    warnings += [f"{left_out} images without a partner were left out."] if left_out else []
    with Backends.using(config, cache, progress) as models:
        first, second, unread = readable_pairs(first, second, models)
        groups = split_groups(first, second, by)
        failures += unread
        warnings += warn_shared_seeds(groups)
        measured = [group.measure(config, models) for group in groups]
        n = sum(len(m.hypotheses) for m in measured)
        audits = [
            group.conclude(m, tests, config, models, n, extra_measures)
            for group, m, tests in zip(groups, measured, corrected(measured, config), strict=True)
        ]
        outcomes = evaluate_outcomes(requests, first, second, by, models)
        subjects = audit_subjects(requests, first, second, taught or {}, models, config)
    if unmeasured := [a.name for a in audits if a.drift is None]:
        warnings.append(
            f"The drift was not measured in {', '.join(unmeasured)}: it needs image features, and "
            "two different original images of every prompt."
        )
    failures += [
        f"The measure {name} was not computed in {audit.name}: {reason}"
        for audit in audits
        for name, reason in audit.unmeasured.items()
    ]
    if small := [f"{a.name} ({a.n})" for a in audits if a.report.double_dipped]:
        warnings.append(
            f"Too few pairs to confirm anything in {', '.join(small)}: half of a group's pairs are "
            f"tested, and a test needs {config.statistics.min_scored}. Draw more images (--images)."
        )
    return AuditReport(
        about=dict(about or {}),
        requests=tuple(requests),
        outcomes=(*outcomes, *subject_outcomes(subjects)),
        groups=tuple(audits),
        n_candidates=n,
        config=config.model_dump(mode="json"),
        warnings=(*failures, *warnings),
        subjects=subjects,
        same=same_things(audits, config.statistics.redundant),
        failures=tuple(failures),
    )


def _without_cross_fitting(config: Config) -> Config:
    """Returns the configuration without cross-fitting, unless it asks for it."""
    if config.statistics.cross_fit != "auto":
        return config
    # It captions both halves of every group; that it finds more in pairs has not been shown.
    return config.changed(statistics={"cross_fit": "never"})


def _with_own_ngrams(config: Config) -> Config:
    """Returns the configuration with the thresholds of an audit for the proposer `ngrams`."""
    return config.changed(proposer=config.proposer.change_of("ngrams", _thresholds))


def _thresholds(ngrams: NgramsConfig) -> dict[str, float]:
    return {
        "min_z": min(ngrams.min_z, _MIN_Z),
        "min_completeness": max(ngrams.min_completeness, _MIN_COMPLETENESS),
    }
