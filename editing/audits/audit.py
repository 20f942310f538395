"""The audit: what an edit changed, meant or not, in sentences and numbers.

Original and edited model draw the same prompts from the same noise. For every group of prompts the
pairs go to `visdiff` (propose from one half, test on the other, paired tests, one false discovery
rate over all groups), and the distance that they moved is set against the seed-noise floor: what
another seed would have done. What moved and was not meant to is what to preserve next time.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from editing.audits.pairs import shown_pairs
from editing.audits.prompt_groups import (
    MEANT,
    PLACES,
    STYLES,
    PromptGroup,
    prompt_groups,
    samples_of,
)
from editing.audits.report import AuditReport, GroupAudit, Outcome, drift_by_concept
from editing.edit import Edit
from editing.generate import EDITED, ORIGINAL, Progress, paired
from editing.generate.phrases import phrase
from editing.metrics.drift import Drift, drift
from editing.metrics.proportions import Proportion, proportion
from editing.metrics.similarity import nearest_text
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Change, Debias, Moderate, Preserve, Replace, Request, target_of
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import conclude, score
from visdiff.comparison.many import corrected
from visdiff.comparison.measurements import Measurements
from visdiff.comparison.split import pair_up, split_pair
from visdiff.config import Config
from visdiff.config.backends import NgramsConfig
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

__all__ = ["AuditReport", "audit", "audit_sets"]

IMAGES = 64
"""Pairs of images a group: half of them propose, the other half is what the tests see."""

_SOONER = 0.5
"""Of the least z of a phrase: what changes under one prompt of four is said in a quarter of the
captions. What this lets through is still tested, on pairs that did not propose it."""


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
        **changes: To the configuration, such as ``seed=1``.

    Returns:
        The report; its q-values are corrected over the candidates of all groups.

    Raises:
        InputError: A column is missing, or nothing pairs.
        MissingBackendError: A model's weights are not available.
    """
    settled = (config or Config.of(preset)).changed(**changes)
    if isinstance(settled.proposer, NgramsConfig):
        settled = settled.changed(proposer__min_z=settled.proposer.min_z * _SOONER)
    first, second, left_out = pair_up(original, edited, ("prompt", "seed"))
    warnings = [f"{left_out} images without a partner were left out."] if left_out else []
    with Backends.using(settled, cache, progress) as models:
        parts = _parted(first, second, by)
        warnings += _shared_seeds(parts)
        configs = [_paired(settled, a) for _, a, _ in parts]
        scored = [
            score(split_pair(a, b, c), c, models)
            for (_, a, b), c in zip(parts, configs, strict=True)
        ]
        n = sum(len(s.hypotheses) for s in scored)
        found = []
        for (name, a, b), one, c, tests in zip(
            parts, scored, configs, corrected(scored, settled), strict=True
        ):
            report = conclude(one, tests, c, models, n)
            found.append(_group(name, a, b, report, one, models, settled))
        outcomes = _outcomes(requests, first, second, by, models)
    return AuditReport(
        about=dict(about or {}),
        requests=tuple(requests),
        outcomes=tuple(outcomes),
        groups=tuple(found),
        n_candidates=n,
        config=settled.model_dump(mode="json"),
        warnings=tuple(warnings),
    )


def _parted(a: ImageSet, b: ImageSet, by: str) -> list[tuple[str, ImageSet, ImageSet]]:
    """The groups: name and aligned images of both, in order of appearance."""
    if by not in a.frame.columns:
        return [("all prompts", a.renamed(ORIGINAL), b.renamed(EDITED))]
    values = a.frame[by].astype(str).to_numpy()
    return [
        (name, a.subset(rows).renamed(ORIGINAL), b.subset(rows).renamed(EDITED))
        for name in dict.fromkeys(values.tolist())
        for rows in [values == name]
    ]


def _shared_seeds(parts: Sequence[tuple[str, ImageSet, ImageSet]]) -> list[str]:
    """A warning where prompts of a group were drawn from equal noise."""
    # Each pair of (prompt, seed) is there once: a seed that occurs twice is of two prompts.
    shared = [name for name, a, _ in parts if a.frame["seed"].duplicated().any()]
    if not shared:
        return []
    return [
        f"Prompts share seeds in {', '.join(shared)}: equal noise gives them equal backgrounds, so "
        "that pairs are not independent and q-values come out too small; draw every prompt with "
        "seeds of its own."
    ]


def _paired(config: Config, images: ImageSet) -> Config:
    """Pairs by prompt and seed; resamples prompts, or seeds where there is one prompt."""
    several = len(set(images.frame["prompt"].astype(str))) > 1
    return config.changed(paired_by=("prompt", "seed") if several else ("seed", "prompt"))


def _group(
    name: str,
    a: ImageSet,
    b: ImageSet,
    report: Any,
    measured: Measurements,
    models: Backends,
    config: Config,
) -> GroupAudit:
    features = models.features(a, b)
    moved: Drift | None = None
    apart: np.ndarray | None = None
    if features is not None:
        apart = np.linalg.norm(features[: len(a)] - features[len(a) :], axis=1)
        prompts = a.frame["prompt"].astype(str).tolist()
        if min(Counter(prompts).values()) > 1:
            rng = np.random.default_rng(config.seed)
            moved = drift(features[: len(a)], features[len(a) :], prompts, rng)
    concepts = _concepts(a)
    return GroupAudit(
        name=name,
        meant=name in MEANT,
        n=len(a),
        n_tested=len(measured.halves.scoring_a),
        prompts=tuple(dict.fromkeys(a.frame["prompt"].astype(str))),
        drift=moved,
        by_concept=drift_by_concept(moved, a.frame["prompt"].astype(str).tolist(), concepts),
        report=report,
        pairs=shown_pairs(report, a, b, apart),
    )


def _outcomes(
    requests: Sequence[Request],
    a: ImageSet,
    b: ImageSet,
    by: str,
    models: Backends,
) -> list[Outcome]:
    """Whether each request was met, by zero-shot classification with the ranker's encoder."""
    asked = [r for r in requests if not isinstance(r, Preserve)]
    encoder = models.ranker.encoder
    features = models.features(a, b)
    if not asked or encoder is None or features is None or by not in a.frame.columns:
        return []
    concepts = np.array(_concepts(a), dtype=object)
    groups = a.frame[by].astype(str).to_numpy()
    meant = np.isin(groups, MEANT)
    # An image of a church on the grass is of both; what is chosen from are things.
    named = concepts[~np.isin(groups, (PLACES, STYLES))]
    every = [c for c in dict.fromkeys([*named, *(target_of(r) for r in asked)]) if c]
    found: list[Outcome] = []
    for request in asked:
        rows = np.flatnonzero(meant & (concepts == request.concept))
        if not len(rows):
            continue
        options = list(request.ratios) if isinstance(request, Debias) else every
        texts = encoder.encode_texts([phrase(o) for o in options])
        before = [options[i] for i in nearest_text(features[rows], texts)]
        after = [options[i] for i in nearest_text(features[len(a) + rows], texts)]
        found += [
            Outcome.of(request, sought, _share(before, sought), _share(after, sought))
            for sought in _sought(request)
        ]
    return found


def _sought(request: Change) -> list[str]:
    """What is looked for in a request's images: what shall go, what shall come, the attributes."""
    match request:
        case Debias():
            return list(request.ratios)
        case Moderate():
            return [request.concept]
        case Replace():
            return [request.concept, request.target]
        case _:
            return [request.concept, *([request.target] if request.target else [])]


def _share(seen: Sequence[str], sought: str) -> Proportion:
    return proportion([name == sought for name in seen])


def _concepts(images: ImageSet) -> list[str]:
    if "concept" not in images.frame.columns:
        return [""] * len(images)
    return [c if isinstance(c, str) else "" for c in images.frame["concept"]]


def check_folders(original: ImageSet, edited: ImageSet) -> None:
    """Makes sure that two sets can be audited before anything is computed.

    Raises:
        InputError: One of them says nothing of prompts and seeds.
    """
    for images in (original, edited):
        missing = [c for c in ("prompt", "seed") if c not in images.frame.columns]
        if missing:
            raise InputError(
                f"Expected a manifest with the columns prompt and seed, got {images.source} "
                f"without {' and '.join(missing)}; `visdiff generate` writes such a manifest."
            )
