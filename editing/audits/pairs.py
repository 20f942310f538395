"""Pairs of an audit that the reader sees: the same prompt and seed, original beside edited."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from visdiff.errors import UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport

MOST = 4
"""Pairs shown for a sentence, and for a group without one."""

_SIDE = 160


@dataclass(frozen=True)
class ShownPair:
    """One prompt and seed, twice.

    Attributes:
        prompt: What both were asked for.
        seed: Their seed.
        original: PNG of the unedited model's image.
        edited: PNG of the edited one's.
    """

    prompt: str
    seed: str
    original: bytes
    edited: bytes


def shown_pairs(
    report: DifferenceReport, a: ImageSet, b: ImageSet, apart: np.ndarray | None
) -> dict[str, tuple[ShownPair, ...]]:
    """Chooses and reads the pairs of a group.

    Args:
        report: Its comparison.
        a: Originals.
        b: Edited images, aligned with them.
        apart: (n,) how far each pair is apart; None when that is not known.

    Returns:
        Text of each confirmed difference → pairs of its most telling images; and "" → the pairs
        that moved most, or the first ones.
    """
    order = np.argsort(-apart, kind="stable") if apart is not None else np.arange(len(a))
    chosen: dict[str, list[int]] = {"": [int(i) for i in order[:MOST]]}
    places = {"A": {n: i for i, n in enumerate(a.ids)}, "B": {n: i for i, n in enumerate(b.ids)}}
    for d in report.confirmed:
        telling = d.evidence_a if d.direction == "A" else d.evidence_b
        chosen[d.text] = [places[d.direction][name] for name in telling[:MOST]]
    made: dict[int, ShownPair | None] = {}
    for index in {i for rows in chosen.values() for i in rows}:
        made[index] = _pair(a, b, index)
    return {
        text: tuple(pair for i in rows if (pair := made[i]) is not None)
        for text, rows in chosen.items()
    }


def _pair(a: ImageSet, b: ImageSet, index: int) -> ShownPair | None:
    row = a.frame.iloc[index]
    try:
        return ShownPair(
            str(row["prompt"]), str(row["seed"]), _png(a.image(index)), _png(b.image(index))
        )
    except UnreadableImageError:  # gone since it was scored: the text still stands
        return None


def _png(image: Image.Image) -> bytes:
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
