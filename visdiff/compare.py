"""The whole comparison: images A, images B → captions → hypotheses → scores → report.

Hypotheses come from one half of the images, every number from the other. VisDiff (Dunlap et al.,
CVPR 2024) proposes and ranks; what is added here is the split, the tests, the correction, the
redundancy, the explained separability and the abstaining (design, "statistically honest").
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visdiff import registry, stats
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.errors import InputError
from visdiff.findings import sort_out, test
from visdiff.halves import Halves, align, cut, open_both
from visdiff.imageset import ImageSet
from visdiff.preflight import preflight
from visdiff.provenance import Stopwatch, provenance
from visdiff.results import (
    Difference,
    DifferenceReport,
    Hypothesis,
    NullRun,
    Separability,
    SetCard,
)
from visdiff.thumbnails import score_table, thumbnails

logger = logging.getLogger(__name__)

NO_DIFFERENCE = "no difference found"

#: With ``rounds="auto"``: at most this many, and another only when the image features tell the
#: discovery halves apart better than the sentences do by more than this AUROC.
_MAX_ROUNDS = 3
_LARGE_GAP = 0.05


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
            return _compare(*sets, config, own, progress)
    return _compare(*sets, config, cache, progress)


def _compare(
    set_a: ImageSet, set_b: ImageSet, config: Config, cache: Cache, progress: bool
) -> DifferenceReport:
    watch = Stopwatch()
    rng = np.random.default_rng(config.seed)
    backends = Backends.of(config)
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

    with watch("captions"):
        found = backends.captions(halves.discovery_a, halves.discovery_b, cache, progress)
        warnings += _failed("could not be captioned", found)
    captions: list[str | None] = found.values
    with watch("propose"):
        hypotheses = propose(backends, halves, captions, config, rng, cache, progress)

    with watch("rank"):
        said = backends.captions_to_rank(halves, captions, cache, progress)
        scores = backends.score(
            hypotheses, halves.scoring_a, halves.scoring_b, said, cache, progress
        )
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
            null = null_run(backends, halves, captions, config, cache, progress)

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
        config=config.model_dump(mode="json"),
        provenance=provenance(config, backends.identities(), watch.seconds, cache),
        warnings=tuple(warnings),
        scores=score_table(hypotheses, scores, halves),
        thumbnails=thumbnails(differences, halves),
        captions=_by_key(halves, captions),
    )


@dataclass(frozen=True)
class Backends:
    """The models of a run, and their use on both sets at once (A's images first)."""

    captioner: Any
    proposer: Any
    ranker: Any

    @classmethod
    def of(cls, config: Config) -> "Backends":
        """Makes the backends that a configuration names; no weights are loaded yet."""
        made = {}
        for role in ("captioner", "proposer", "ranker"):
            settings = getattr(config, role).model_dump()
            backend = registry.load(role, settings.pop("backend"))
            made[role] = backend(device=config.device, **settings)
        return cls(**made)

    def captions(self, a: ImageSet, b: ImageSet, cache: Cache, progress: bool) -> Applied:
        """Captions both sets: values of length n_a + n_b, None where there is none."""
        of_a = self.captioner.captions(a, cache, progress)
        of_b = self.captioner.captions(b, cache, progress)
        failures = of_a.failures | {len(a) + i: r for i, r in of_b.failures.items()}
        return Applied([*of_a.values, *of_b.values], failures)

    def captions_to_rank(
        self, halves: Halves, captions: list[str | None], cache: Cache, progress: bool
    ) -> list[str | None] | None:
        """The scored images' captions, when the ranker reads captions."""
        if not self.ranker.needs_captions:
            return None
        if halves.double_dipped:
            return captions
        return self.captions(halves.scoring_a, halves.scoring_b, cache, progress).values

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        a: ImageSet,
        b: ImageSet,
        captions: Sequence[str | None] | None,
        cache: Cache,
        progress: bool,
    ) -> np.ndarray:
        """Scores every hypothesis on every image: (h, n_a + n_b) float32, NaN = unscored."""
        of_a = captions[: len(a)] if captions is not None else None
        of_b = captions[len(a) :] if captions is not None else None
        return np.concatenate(
            [
                self.ranker.score(hypotheses, a, of_a, cache, progress),
                self.ranker.score(hypotheses, b, of_b, cache, progress),
            ],
            axis=1,
        )

    def features(self, a: ImageSet, b: ImageSet, cache: Cache, progress: bool) -> np.ndarray | None:
        """Image features (n_a + n_b, d), or None where the ranker has none."""
        if not hasattr(self.ranker, "features"):
            return None
        return np.concatenate([self.ranker.features(s, cache, progress) for s in (a, b)], axis=0)

    def identities(self) -> dict[str, dict[str, Any]]:
        """Role → what is known of its model, for the provenance."""
        roles = {"captioner": self.captioner, "ranker": self.ranker}
        return {role: dict(backend.identity) for role, backend in roles.items()}


def propose(
    backends: Backends,
    halves: Halves,
    captions: Sequence[str | None],
    config: Config,
    rng: np.random.Generator,
    cache: Cache,
    progress: bool,
    is_a: np.ndarray | None = None,
) -> list[Hypothesis]:
    """Proposes hypotheses from the discovery half, in one round or several.

    Later rounds see only the images that the sentences so far leave unexplained. They look at
    the discovery half alone, so the scoring half stays untouched.

    Args:
        backends: The models.
        halves: The images.
        captions: Captions of the discovery images, A's first.
        config: ``rounds`` says how many.
        rng: For proposers that draw.
        cache: For scores on the discovery half.
        progress: Show progress.
        is_a: Membership of the discovery images; shuffled in a null run.
    """
    is_a = halves.discovery_is_a if is_a is None else is_a
    rounds = _MAX_ROUNDS if config.rounds == "auto" else config.rounds
    unexplained = np.array([c is not None for c in captions])
    hypotheses: list[Hypothesis] = []
    for number in range(1, rounds + 1):
        told = [
            [c for c, side, left in zip(captions, is_a, unexplained, strict=True)
             if c is not None and left and side == of_a]
            for of_a in (True, False)
        ]  # fmt: skip
        known = {(h.text.casefold(), h.direction) for h in hypotheses}
        new = backends.proposer.propose(told[0], told[1], rng=rng, round=number)
        new = [h for h in new if (h.text.casefold(), h.direction) not in known]
        hypotheses += new
        if not new or number == rounds:
            break
        a, b = halves.discovery_a, halves.discovery_b
        scores = backends.score(hypotheses, a, b, captions, cache, progress)
        if config.rounds == "auto":
            features = backends.features(a, b, cache, progress)
            if features is not None:
                sentences = stats.separability(scores.T, is_a, np.random.default_rng(config.seed))
                images = stats.separability(features, is_a, np.random.default_rng(config.seed))
                if not images - sentences > _LARGE_GAP:
                    break
        unexplained = stats.unexplained(scores.T, is_a, np.random.default_rng(config.seed))
    return hypotheses


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


def null_run(
    backends: Backends,
    halves: Halves,
    captions: Sequence[str | None],
    config: Config,
    cache: Cache,
    progress: bool,
) -> NullRun:
    """Repeats proposing and testing with shuffled membership (within pairs when paired).

    Whatever such a run confirms is false: what it finds says how far to trust the real one.
    """
    counts = []
    for k in range(config.null_repeats):
        rng = np.random.default_rng([config.seed, 1 + k])
        discovery, flips = shuffled(halves.discovery_is_a, rng, paired=bool(config.paired_by))
        is_a, flips = shuffled(halves.scoring_is_a, rng, paired=bool(config.paired_by))
        hypotheses = propose(
            backends, halves, captions, config, rng, cache, progress=False, is_a=discovery
        )
        said = backends.captions_to_rank(halves, list(captions), cache, progress)
        scores = backends.score(
            hypotheses, halves.scoring_a, halves.scoring_b, said, cache, progress=False
        )
        # Columns are put back in order, A's first, because pairs are told by position.
        scores = scores[:, flips]
        tests = test(
            hypotheses,
            scores,
            np.sort(is_a)[::-1],
            config.statistics,
            rng,
            groups=halves.groups,
            may_confirm=not halves.double_dipped,
        )
        counts.append(int(tests.confirmed.sum()))
    return NullRun(len(counts), sum(c > 0 for c in counts), tuple(counts))


def shuffled(
    is_a: np.ndarray, rng: np.random.Generator, *, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles membership; a paired one by swapping the members of random pairs.

    Returns:
        The new membership (n,) bool with as many True, and the positions (n,) that list its A
        images first, then its B images, partners at the same place.
    """
    n = len(is_a)
    if not paired:
        new = rng.permutation(is_a)
        return new, np.concatenate([np.flatnonzero(new), np.flatnonzero(~new)])
    half = n // 2
    swap = rng.random(half) < 0.5
    first = np.where(swap, np.arange(half, n), np.arange(half))
    second = np.where(swap, np.arange(half), np.arange(half, n))
    new = np.zeros(n, bool)
    new[first] = True
    return new, np.concatenate([first, second])


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


def _by_key(halves: Halves, captions: Sequence[str | None]) -> dict[str, str]:
    keys = [f"A/{i}" for i in halves.discovery_a.ids] + [f"B/{i}" for i in halves.discovery_b.ids]
    return {k: c for k, c in zip(keys, captions, strict=True) if c is not None}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
