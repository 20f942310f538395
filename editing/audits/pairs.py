"""Example pairs of an audit: original and edited image of the same prompt and seed."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from visdiff.errors import UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport

MAX_PAIRS = 4
"""Most pairs shown per sentence, and for a group without sentences."""

_SIDE = 160


@dataclass(frozen=True)
class ImagePair:
    """The images of both models for one prompt and seed.

    Attributes:
        prompt: The prompt.
        seed: The seed.
        original: PNG of the unedited model's image.
        edited: PNG of the edited model's image.
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


def _read_pair(a: ImageSet, b: ImageSet, index: int) -> ImagePair | None:
    row = a.frame.iloc[index]
    try:
        return ImagePair(
            str(row["prompt"]),
            str(row["seed"]),
            _thumbnail(a.image(index)),
            _thumbnail(b.image(index)),
        )
    except UnreadableImageError:  # deleted since it was scored; the text needs no image
        return None


def _thumbnail(image: Image.Image) -> bytes:
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
