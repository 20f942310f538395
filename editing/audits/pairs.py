"""Example pairs of an audit: original and edited image of the same prompt and seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visdiff.errors import UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.report.images import thumbnail
from visdiff.results import DifferenceReport

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
    """

    prompt: str
    seed: str
    original: bytes
    edited: bytes


def select_pairs(
    report: DifferenceReport, a: ImageSet, b: ImageSet, distances: np.ndarray | None
) -> dict[str, tuple[ImagePair, ...]]:
    """Selects and reads the example pairs of a group.

    Args:
        report: Comparison of the group.
        a: Original images.
        b: Edited images, in the same order.
        distances: (n,) distance between the images of each pair; None if unknown.

    Returns:
        Text of each confirmed difference → pairs of the images that show it best; "" → the pairs
        that moved most, or the first pairs without distances.
    """
    order = np.argsort(-distances, kind="stable") if distances is not None else np.arange(len(a))
    chosen: dict[str, list[int]] = {"": [int(i) for i in order[:MAX_PAIRS]]}
    places = {"A": {n: i for i, n in enumerate(a.ids)}, "B": {n: i for i, n in enumerate(b.ids)}}
    for d in report.confirmed:
        evidence = d.evidence_a if d.direction == "A" else d.evidence_b
        chosen[d.text] = [places[d.direction][name] for name in evidence[:MAX_PAIRS]]
    pairs: dict[int, ImagePair | None] = {}
    for index in {i for rows in chosen.values() for i in rows}:
        pairs[index] = _read_pair(a, b, index)
    return {
        text: tuple(pair for i in rows if (pair := pairs[i]) is not None)
        for text, rows in chosen.items()
    }


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
