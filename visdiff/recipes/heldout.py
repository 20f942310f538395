"""The confirmed sentences as a classifier of held-out images.

This is the check of the paper's memorability study (Dunlap et al., CVPR 2024, section 6.5): a
description of how two sets differ should classify new images. A part of both sets is held out
before the comparison and used neither to propose nor to test. At the end, the scores of the
confirmed sentences alone assign each held-out image to a set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visdiff import stats
from visdiff.comparison.backends import Backends
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport, Hypothesis, score_column


@dataclass(frozen=True)
class HeldOut:
    """How well the confirmed sentences classify held-out images.

    Attributes:
        sentences: The confirmed sentences that were used; empty when nothing was confirmed.
        n_a: Number of scored held-out images of A.
        n_b: Number of scored held-out images of B.
        right_a: Number of A's images that were assigned to A.
        right_b: Number of B's images that were assigned to B.
        n_unscored: Number of held-out images without a score, excluded from the accuracy.
        accuracy: Fraction of correctly assigned images, or None without sentences or images.
        ci_low: Lower bound of its Wilson interval, for independent images, or None.
        ci_high: Upper bound, or None.
        majority: Accuracy of always choosing the larger set, or None.
    """

    sentences: tuple[str, ...]
    n_a: int
    n_b: int
    right_a: int
    right_b: int
    n_unscored: int
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    majority: float | None

    def sentence(self) -> str:
        """Returns the result in a sentence."""
        if not self.sentences:
            return "Nothing was confirmed, so no sentence could classify the held-out images."
        if self.accuracy is None or self.ci_low is None or self.ci_high is None:
            return "No held-out image could be scored."
        text = (
            f"The {len(self.sentences)} confirmed sentences assign {self.right_a + self.right_b} "
            f"of {self.n_a + self.n_b} held-out images to the right set: accuracy "
            f"{self.accuracy:.2f} ({self.ci_low:.2f} to {self.ci_high:.2f}); always choosing the "
            f"larger set gives {self.majority:.2f}."
        )
        if self.n_unscored:
            text += f" {self.n_unscored} more images could not be scored."
        return text


def hold_out(
    a: ImageSet, b: ImageSet, fraction: float, key: Sequence[str] = ()
) -> tuple[tuple[ImageSet, ImageSet], tuple[ImageSet, ImageSet]]:
    """Holds out a part of both sets, by content, so that copies are in the same part.

    Args:
        a: Set A.
        b: Set B.
        fraction: Fraction to hold out, 0 or more and below 1.
        key: Columns whose values stay together, such as the prompt; the image's content by default.

    Returns:
        The sets to compare, and the held-out sets.

    Raises:
        InputError: The fraction is out of range, or a column does not exist.
    """
    if not 0 <= fraction < 1:
        raise InputError(
            f"Expected a held-out share of 0 or more and below 1, got {fraction}; 0.2 is usual."
        )
    (kept_a, out_a), (kept_b, out_b) = (
        images.split(1 - fraction, list(key) or None) for images in (a, b)
    )
    return (kept_a, kept_b), (out_a, out_b)


def check(
    report: DifferenceReport,
    a: ImageSet,
    b: ImageSet,
    backends: Backends,
) -> HeldOut:
    """Classifies held-out images with the confirmed sentences of a report.

    The classifier is a linear discriminant with a diagonal covariance and equal priors: each
    sentence votes with the distance of its score from the midpoint of the sets' means, weighted by
    the difference of the means over the pooled variance. Means and variances are estimated on the
    images of the comparison. A sentence without a score for an image has no vote on it.

    Args:
        report: A report as returned by `visdiff.comparison.compare.compare`, with its scores.
        a: Held-out images of A.
        b: Held-out images of B.
        backends: The models of the report.

    Returns:
        The result, without an accuracy when nothing was confirmed or nothing could be scored.

    Raises:
        InputError: The report was loaded from JSON and has no scores.
    """
    confirmed = report.confirmed
    if not confirmed or not len(a) + len(b):
        texts = tuple(d.text for d in confirmed)
        return HeldOut(texts, 0, 0, 0, 0, len(a) + len(b), None, None, None, None)
    if report.scores is None:
        raise InputError(
            "Expected a report with its scores, got one that was loaded from JSON; use the report "
            "that compare returns."
        )
    hypotheses = [Hypothesis(d.text, d.direction, d.proposer, d.round) for d in confirmed]
    captions = None
    if backends.ranker.needs_captions:
        captions = backends.captions(a, b).values
    scores = backends.score(hypotheses, a, b, captions).astype(np.float64)
    known = report.scores[[score_column(d.text) for d in confirmed]].to_numpy(dtype=np.float64).T
    votes = _votes(scores, known, (report.scores["set"] == "A").to_numpy())
    is_a = np.arange(len(a) + len(b)) < len(a)
    scored = ~np.isnan(scores).all(axis=0)
    right = np.where(is_a, votes > 0, votes < 0) & scored
    n, n_right = int(scored.sum()), int(right.sum())
    n_a, n_b = int((scored & is_a).sum()), int((scored & ~is_a).sum())
    low, high = stats.wilson(n_right, n)
    return HeldOut(
        sentences=tuple(d.text for d in confirmed),
        n_a=n_a,
        n_b=n_b,
        right_a=int((right & is_a).sum()),
        right_b=int((right & ~is_a).sum()),
        n_unscored=int((~scored).sum()),
        accuracy=n_right / n if n else None,
        ci_low=low if n else None,
        ci_high=high if n else None,
        majority=max(n_a, n_b) / n if n else None,
    )


def _votes(scores: np.ndarray, known: np.ndarray, known_is_a: np.ndarray) -> np.ndarray:
    """Returns the sum of the sentences' votes for A, (n,).

    Args:
        scores: (h, n) scores of the images to classify, NaN where unscored.
        known: (h, m) scores of the images of the comparison.
        known_is_a: (m,) bool.
    """
    of_a, of_b = known[:, known_is_a], known[:, ~known_is_a]
    mean_a, mean_b = np.nanmean(of_a, axis=1), np.nanmean(of_b, axis=1)
    variance = (np.nanvar(of_a, axis=1) + np.nanvar(of_b, axis=1)) / 2
    # Scores that are constant within both sets separate perfectly; any small variance will do.
    floor = np.maximum(1e-6 * (mean_a - mean_b) ** 2, np.finfo(np.float64).tiny)
    weight = (mean_a - mean_b) / np.maximum(variance, floor)
    distance = scores - ((mean_a + mean_b) / 2)[:, None]
    return np.nansum(distance * weight[:, None], axis=0)
