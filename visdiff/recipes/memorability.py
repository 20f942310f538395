"""``memorability``: how images at the top of a score differ from those at its bottom.

Dunlap et al., CVPR 2024, section 6.5, on LaMem (Khosla et al., ICCV 2015): the most against the
least memorable quarter, and the sentences as a classifier on images put aside. Any score will do.
"""

from typing import Any

import numpy as np
import pandas as pd

from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, manifest
from visdiff.recipes.forming import Pairs, digests, left_out, texts, with_columns
from visdiff.recipes.run import Formed, RecipeReport, run

NAME = "memorability"


def memorability(
    images: Any,
    score: str,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    **how: Any,
) -> RecipeReport:
    """Compares the images at the two ends of a score.

    Args:
        images: A manifest with a column of scores.
        score: The column.
        cache: Where captions and embeddings are kept; the user's by default.
        progress: Show progress bars on stderr.
        **how: What `form` takes: quantiles, slices, the share held out, the configuration.

    Returns:
        The report; ``overall`` is high (A) against low (B).

    Raises:
        InputError: A source or column does not exist, the scores are no numbers or all alike, or
            the quantiles are out of order.
        MissingBackendError: A library or a model's weights are not available.
    """
    return run(form(images, score, **how), cache, progress)


def form(
    images: Any,
    score: str,
    *,
    low: float = 0.25,
    high: float = 0.75,
    by: str | None = None,
    held_out: float = 0.2,
    config: Config,
) -> Formed:
    """Forms sets of the images at the two ends of a score, and a pair a slice when asked.

    Images with the same bytes are one image, whose score is the mean of theirs, so that none is in
    both sets, counted twice, or put aside and proposed from at once. Images without a score are
    left out and counted.

    Args:
        images: A manifest with a column of scores.
        score: The column.
        low: Set B is the images at or below this quantile of the score.
        high: Set A is those at or above this one.
        by: Also compare slice by slice, by the values of this column, cut at the slice's own
            quantiles, with one correction over all.
        held_out: Share put aside for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison.

    Raises:
        InputError: A source or column does not exist, the scores are no numbers or all alike, or
            the quantiles are out of order.
    """
    if not 0 < low <= high < 1:
        raise InputError(
            f"Expected 0 < low <= high < 1, got low={low} and high={high}; 0.25 and 0.75 are usual."
        )
    opened = ImageSet.open(images)
    manifest.check_columns(opened.frame, [score], opened.source)
    cells = opened.frame[score]
    numbers = np.asarray(pd.to_numeric(cells, errors="coerce"), dtype=np.float64)
    known = np.isfinite(numbers)
    if (wrong := ~known & (texts(opened, score) != "")).any():
        example = texts(opened, score)[wrong][0]
        raise InputError(
            f"Expected numbers in the column {score!r}, got {example!r}; name another column."
        )
    notes = left_out(int((~known).sum()), len(known), "they have no score")
    opened, numbers = opened.subset(known), numbers[known]
    opened, numbers, more = _merged(opened, numbers, score)
    notes += more
    whole = _ends(opened, numbers, low, high, f"high {score}", f"low {score}")
    if whole is None:
        raise InputError(
            f"Expected scores that differ in the column {score!r}, got none at or above quantile "
            f"{high:g} that is over those at or below {low:g}; name another column or quantiles."
        )
    pairs: Pairs = [whole]
    if by is not None:
        values = texts(opened, by)
        alike = []
        for value in sorted(set(values.tolist()) - {""}):
            own = values == value
            names = (f"high {score}: {value}", f"low {score}: {value}")
            sides = _ends(opened.subset(own), numbers[own], low, high, *names)
            if sides is None or min(map(len, sides)) < 2:
                alike.append(value)
            else:
                pairs.append(sides)
        if alike:
            notes.append(
                f"{len(alike)} slices have fewer than 2 images at an end, or scores that are all "
                f"alike, and were not compared: {manifest.listed(alike)}."
            )
    return Formed(NAME, pairs, config, notes, held_out)


def _merged(
    images: ImageSet, numbers: np.ndarray, score: str
) -> tuple[ImageSet, np.ndarray, list[str]]:
    """Images of the same content as one, with the mean of their scores."""
    places: dict[str, list[int]] = {}
    for i, digest in enumerate(digests(images)):
        places.setdefault(digest if digest is not None else f"unreadable {i}", []).append(i)
    first = [own[0] for own in places.values()]
    copies = len(images) - len(first)
    if not copies:
        return images, numbers, []
    means = np.array([numbers[own].mean() for own in places.values()])
    differ = sum(len(set(numbers[own].tolist())) > 1 for own in places.values())
    note = (
        f"{copies} of {len(images)} images are copies of another and were merged with it; "
        f"{differ} of these images had scores that differ, and have their mean."
    )
    return with_columns(images.subset(first), {score: means}), means, [note]


def _ends(
    images: ImageSet, numbers: np.ndarray, low: float, high: float, name_a: str, name_b: str
) -> tuple[ImageSet, ImageSet] | None:
    """The images at the top and at the bottom; None when the cuts do not part them."""
    if not len(numbers):
        return None
    bottom, top = np.quantile(numbers, [low, high])
    of_a, of_b = numbers >= top, numbers <= bottom
    if (of_a & of_b).any():
        return None
    return (
        images.subset(of_a).renamed(name_a),
        images.subset(of_b).renamed(name_b),
    )
