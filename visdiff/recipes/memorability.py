"""``memorability``: how images with a high score differ from those with a low score.

Dunlap et al., CVPR 2024, section 6.5, on LaMem (Khosla et al., ICCV 2015): the most against the
least memorable quarter, and the sentences as a classifier of held-out images. It works with any
score.
"""

from typing import Any

import numpy as np
import pandas as pd

from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, manifest
from visdiff.recipes.forming import Pairs, column_texts, digests, exclusion_notes
from visdiff.recipes.run import RecipeReport, RecipeSets, run

NAME = "memorability"


def memorability(
    images: Any,
    score: str,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    **how: Any,
) -> RecipeReport:
    """Compares the images with the highest and with the lowest scores.

    Args:
        images: A manifest with a column of scores.
        score: The column.
        cache: Cache of captions and embeddings; the user's cache by default.
        progress: Whether to show progress bars on stderr.
        **how: Arguments of `form`: quantiles, slices, the held-out fraction, the configuration.

    Returns:
        The report; ``overall`` is high (A) against low (B).

    Raises:
        InputError: A source or column does not exist, the scores are not numbers or all equal, or
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
) -> RecipeSets:
    """Forms the sets of images with high and with low scores, and optionally one pair per slice.

    Images with the same bytes are merged into one with their mean score, so that no image is in
    both sets, counted twice, or in both a held-out and a compared set. Images without a score are
    left out and reported.

    Args:
        images: A manifest with a column of scores.
        score: The column.
        low: Set B is the images at or below this quantile of the score.
        high: Set A is the images at or above this quantile.
        by: Column whose values are compared as slices too, each with its own quantiles, and one
            correction over all.
        held_out: Fraction held out for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison.

    Raises:
        InputError: A source or column does not exist, the scores are not numbers or all equal, or
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
    if (wrong := ~known & (column_texts(opened, score) != "")).any():
        example = column_texts(opened, score)[wrong][0]
        raise InputError(
            f"Expected numbers in the column {score!r}, got {example!r}; name another column."
        )
    notes = exclusion_notes(int((~known).sum()), len(known), "they have no score")
    opened, numbers = opened.subset(known), numbers[known]
    opened, numbers, more = _merge_duplicates(opened, numbers, score)
    notes += more
    whole = _split_by_quantiles(opened, numbers, low, high, f"high {score}", f"low {score}")
    if whole is None:
        raise InputError(
            f"Expected scores that differ in the column {score!r}, got none at or above quantile "
            f"{high:g} that is over those at or below {low:g}; name another column or quantiles."
        )
    pairs: Pairs = [whole]
    if by is not None:
        values = column_texts(opened, by)
        alike = []
        for value in sorted(set(values.tolist()) - {""}):
            own = values == value
            names = (f"high {score}: {value}", f"low {score}: {value}")
            sides = _split_by_quantiles(opened.subset(own), numbers[own], low, high, *names)
            if sides is None or min(map(len, sides)) < 2:
                alike.append(value)
            else:
                pairs.append(sides)
        if alike:
            notes.append(
                f"{len(alike)} slices have fewer than 2 images at an end, or scores that are all "
                f"alike, and were not compared: {manifest.listed(alike)}."
            )
    return RecipeSets(NAME, pairs, config, notes, held_out)


def _merge_duplicates(
    images: ImageSet, numbers: np.ndarray, score: str
) -> tuple[ImageSet, np.ndarray, list[str]]:
    """Merges images with the same content into one with the mean of their scores."""
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
        f"{differ} of these images had different scores, and were given the mean."
    )
    return images.subset(first).with_columns({score: means}), means, [note]


def _split_by_quantiles(
    images: ImageSet, numbers: np.ndarray, low: float, high: float, name_a: str, name_b: str
) -> tuple[ImageSet, ImageSet] | None:
    """Returns the images with high and with low scores; None when the quantiles are equal."""
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
