"""Example pairs of an audit: original and edited image of the same prompt and seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from visdiff.comparison.folds import tested_images
from visdiff.comparison.measurements import Measurements
from visdiff.errors import UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.report.images import thumbnail
from visdiff.results import Difference, DifferenceReport, Direction

MAX_PAIRS = 4
"""Most pairs kept per sentence, and for a group without sentences."""

EXAMPLES = 2
"""Pairs kept per concept that the edit was asked to change."""


Scores = tuple[float, float]
"""Scores of a sentence for the original and the edited image of a pair."""


@dataclass(frozen=True)
class ImagePair:
    """The images of both models for one prompt and seed.

    Attributes:
        prompt: The prompt.
        seed: The seed.
        original: Thumbnail of the unedited model's image.
        edited: Thumbnail of the edited model's image.
        scores: The ranker's scores of the sentence that the pair was chosen for; None without one.
    """

    prompt: str
    seed: str
    original: bytes
    edited: bytes
    scores: Scores | None = None


def select_pairs(
    report: DifferenceReport,
    measured: Measurements,
    a: ImageSet,
    b: ImageSet,
    distances: np.ndarray | None,
) -> dict[str, tuple[ImagePair, ...]]:
    """Selects and reads the example pairs of a group.

    Args:
        report: Comparison of the group.
        measured: Its measurements.
        a: Original images.
        b: Edited images, in the same order.
        distances: (n,) distance between the images of each pair; None if unknown.

    Returns:
        Text of each confirmed difference → the pairs in which it most evidently comes or goes; "" →
        the pairs that moved most, or the first pairs without distances.
    """
    order = np.argsort(-distances, kind="stable") if distances is not None else np.arange(len(a))
    places = {name: i for i, name in enumerate(a.ids)}
    read: dict[int, ImagePair | None] = {}

    def pairs_at(rows: Sequence[tuple[int, Scores | None]]) -> tuple[ImagePair, ...]:
        for index in {index for index, _ in rows} - set(read):
            read[index] = _read_pair(a, b, index)
        return tuple(
            replace(pair, scores=scores)
            for index, scores in rows
            if (pair := read[index]) is not None
        )

    pairs = {"": pairs_at([(int(i), None) for i in order[:MAX_PAIRS]])}
    scored = measured.halves.scoring_a.ids
    for d in report.confirmed:
        before, after = _scores(measured, d)
        chosen = evident_changes(before, after, d.direction)
        pairs[d.text] = pairs_at([(places[scored[i]], (before[i], after[i])) for i in chosen])
    return pairs


def evident_changes(
    before: Sequence[float], after: Sequence[float], direction: Direction
) -> list[int]:
    """Returns the pairs in which the thing that a sentence names most evidently comes or goes.

    A score also changes between two images without the thing. Changes are therefore weighted by the
    rank of the higher score among all images. The lower score has no weight of its own: where few
    images show the thing, an image in which it was removed still scores above most others.

    Args:
        before: Scores of the original images; NaN where unscored.
        after: Scores of the edited images, in the same order.
        direction: "B" if the score should rise, "A" if it should fall.

    Returns:
        At most `MAX_PAIRS` places, the most evident first; only pairs that changed so.
    """
    low, high = (before, after) if direction == "B" else (after, before)
    scores = np.sort([s for s in (*before, *after) if not np.isnan(s)])
    ranks = np.searchsorted(scores, high, side="right") / max(len(scores), 1)
    weighted = {i: (h - w) * r for i, (w, h, r) in enumerate(zip(low, high, ranks, strict=True))}
    # A comparison with NaN is false.
    ranked = sorted((i for i, c in weighted.items() if c > 0), key=lambda i: -weighted[i])
    return ranked[:MAX_PAIRS]


def _scores(measured: Measurements, d: Difference) -> tuple[list[float], list[float]]:
    """Returns the scores of the originals and of their partners; NaN where it was not tested."""
    hypotheses = [(h.text, h.direction) for h in measured.hypotheses]
    row = hypotheses.index((d.text, d.direction))
    tested = tested_images(measured.halves, measured.proposed, len(hypotheses))[row]
    scores = np.where(tested, measured.scores[row], np.nan)
    n = len(measured.halves.scoring_a)
    return scores[:n].tolist(), scores[n:].tolist()


def first_pairs(
    a: ImageSet, b: ImageSet, concepts: Sequence[str], count: int
) -> dict[str, tuple[ImagePair, ...]]:
    """Returns the first pairs of each concept, which are not chosen by their content.

    Args:
        a: Original images.
        b: Edited images, in the same order.
        concepts: Concept of each pair; pairs without a concept ("") are left out.
        count: Pairs per concept.
    """
    rows: dict[str, list[int]] = {}
    for index, concept in enumerate(concepts):
        if concept and len(rows.setdefault(concept, [])) < count:
            rows[concept].append(index)
    return {
        concept: tuple(pair for i in indices if (pair := _read_pair(a, b, i)) is not None)
        for concept, indices in rows.items()
    }


def _read_pair(a: ImageSet, b: ImageSet, index: int) -> ImagePair | None:
    row = a.frame.iloc[index]
    try:
        return ImagePair(
            str(row["prompt"]),
            str(row["seed"]),
            thumbnail(a.image(index)),
            thumbnail(b.image(index)),
        )
    except UnreadableImageError:  # deleted since it was scored; the text needs no image
        return None
