"""Example pairs of an audit: original and edited image of the same prompt and seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from visdiff.errors import UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.report.images import thumbnail
from visdiff.results import Difference, DifferenceReport

MAX_PAIRS = 4
"""Most pairs kept per sentence, and for a group without sentences."""

EXAMPLES = 2
"""Pairs kept per concept that the edit was asked to change."""


@dataclass(frozen=True)
class ImagePair:
    """The images of both models for one prompt and seed.

    Attributes:
        prompt: The prompt.
        seed: The seed.
        original: Thumbnail of the unedited model's image.
        edited: Thumbnail of the edited model's image.
        scores: The ranker's scores of a sentence for the original and the edited image; None if
            the pair shows no sentence.
    """

    prompt: str
    seed: str
    original: bytes
    edited: bytes
    scores: tuple[float, float] | None = None


def select_pairs(
    report: DifferenceReport, a: ImageSet, b: ImageSet, distances: np.ndarray | None
) -> dict[str, tuple[ImagePair, ...]]:
    """Selects and reads the example pairs of a group.

    Args:
        report: Comparison of the group, with its scores.
        a: Original images.
        b: Edited images, in the same order.
        distances: (n,) distance between the images of each pair; None if unknown.

    Returns:
        Text of each confirmed difference → the pairs whose score changes most in its direction; ""
        → the pairs that moved most, or the first pairs without distances.
    """
    order = np.argsort(-distances, kind="stable") if distances is not None else np.arange(len(a))
    read: dict[int, ImagePair | None] = {}

    def pair_at(index: int) -> ImagePair | None:
        if index not in read:
            read[index] = _read_pair(a, b, index)
        return read[index]

    moved = [pair for i in order[:MAX_PAIRS] if (pair := pair_at(int(i))) is not None]
    pairs = {"": tuple(moved)}
    places = {name: i for i, name in enumerate(a.ids)}
    for d in report.confirmed:
        pairs[d.text] = tuple(
            replace(pair, scores=scores)
            for name, scores in _largest_changes(report, d)
            if (pair := pair_at(places[name])) is not None
        )
    return pairs


def _largest_changes(
    report: DifferenceReport, d: Difference
) -> list[tuple[str, tuple[float, float]]]:
    """Returns the original's id and both scores of the pairs that show a difference best."""
    table = report.scores
    if table is None:
        return []
    # The scored images of both sets are in the same order, as `split_pair` leaves paired sets.
    of_a, of_b = (table[table["set"] == side] for side in ("A", "B"))
    before, after = (part[d.text].to_numpy(np.float64) for part in (of_a, of_b))
    change = after - before if d.direction == "B" else before - after
    ids = of_a["id"].tolist()
    ranked = np.argsort(-change, kind="stable")[:MAX_PAIRS]  # NaN, unscored, comes last
    return [(ids[i], (float(before[i]), float(after[i]))) for i in ranked if change[i] > 0]


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
