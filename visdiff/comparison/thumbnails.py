"""Thumbnails of the evidence images, and the table of scores, for a report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from visdiff.comparison.split import Halves
from visdiff.errors import UnreadableImageError
from visdiff.report.images import thumbnail
from visdiff.results import Difference, Hypothesis, score_column

if TYPE_CHECKING:
    import pandas as pd


def thumbnails(differences: Sequence[Difference], halves: Halves) -> dict[str, bytes]:
    """Returns thumbnails of the evidence images: ``"A/<id>"`` or ``"B/<id>"`` → bytes."""
    found: dict[str, bytes] = {}
    for side, images in (("A", halves.scoring_a), ("B", halves.scoring_b)):
        place = {name: i for i, name in enumerate(images.ids)}
        for d in differences:
            for name in d.evidence_a if side == "A" else d.evidence_b:
                if f"{side}/{name}" in found:
                    continue
                try:
                    image = images.image(place[name])
                except UnreadableImageError:  # deleted after scoring; the report omits it
                    continue
                found[f"{side}/{name}"] = thumbnail(image)
    return found


def score_table(
    hypotheses: Sequence[Hypothesis], scores: np.ndarray, halves: Halves
) -> "pd.DataFrame":
    """Returns the scores as a table: one row per scored image, one column per hypothesis text.

    No column of a hypothesis replaces one that names the image ("set", "id", "half").

    Args:
        hypotheses: h candidates.
        scores: (h, n) scores; NaN where unscored, or where the image was not in the test. Rows of
            one text have the same score where both have one.
        halves: The images.
    """
    import pandas as pd

    n_a, n_b = len(halves.scoring_a), len(halves.scoring_b)
    columns: dict[str, object] = {
        "set": ["A"] * n_a + ["B"] * n_b,
        # Names that are not UTF-8 have lone surrogates, which only columns of objects hold.
        "id": pd.Series([*halves.scoring_a.ids, *halves.scoring_b.ids], dtype=object),
        "half": ["both" if halves.same_images else "scoring"] * (n_a + n_b),
    }
    found: dict[str, np.ndarray] = {}
    for h, row in zip(hypotheses, scores, strict=True):
        # A text that was proposed in both directions has one column; with cross-fitting, each
        # direction may have been tested on another half.
        known = np.asarray(found.get(h.text, row))
        found[h.text] = np.where(np.isnan(known), row, known)
    return pd.DataFrame(columns | {score_column(text): row for text, row in found.items()})
