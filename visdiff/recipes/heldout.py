"""The sentences as a classifier: do they tell apart images that nobody has looked at yet?

The check of the paper's memorability study (Dunlap et al., CVPR 2024, section 6.5): whoever can say
how two sets differ can sort new images into them. Before anything else a part of both sets is put
aside. It proposes nothing and tests nothing; at the end the confirmed sentences, and nothing but
their scores, decide which set each of its images is of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visdiff import stats
from visdiff.comparison.backends import Backends
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport, Hypothesis


@dataclass(frozen=True)
class HeldOut:
    """How well the confirmed sentences sort images that neither proposed nor tested.

    Attributes:
        sentences: The confirmed sentences that decided; none when nothing was confirmed.
        n_a: Held-out images of A that were scored.
        n_b: The same of B.
        right_a: How many of A's were put into A.
        right_b: How many of B's were put into B.
        n_unscored: Held-out images without a score; they count nowhere.
        accuracy: Share of images put where they belong, or None when there is no sentence or image.
        ci_low: Lower end of its Wilson interval, images taken as independent; or None.
        ci_high: Upper end.
        majority: What naming the larger set every time would reach, or None.
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
        """The result in a sentence."""
        if not self.sentences:
            return "Nothing was confirmed, so no sentence could sort the held-out images."
        if self.accuracy is None or self.ci_low is None or self.ci_high is None:
            return "No held-out image could be scored."
        text = (
            f"The {len(self.sentences)} confirmed sentences put {self.right_a + self.right_b} of "
            f"{self.n_a + self.n_b} held-out images into the right set: accuracy "
            f"{self.accuracy:.2f} ({self.ci_low:.2f} to {self.ci_high:.2f}); naming the larger set "
            f"every time reaches {self.majority:.2f}."
        )
        if self.n_unscored:
            text += f" {self.n_unscored} more could not be scored."
        return text


def hold_out(
    a: ImageSet, b: ImageSet, fraction: float, config: Config, key: Sequence[str] = ()
) -> tuple[tuple[ImageSet, ImageSet], tuple[ImageSet, ImageSet], Config]:
    """Puts a part of both sets aside, by content, so that copies never straddle.

    Args:
        a: Set A.
        b: Set B.
        fraction: Share to put aside, 0 or more and below 1.
        config: The comparison's configuration.
        key: Columns whose values stay together, such as the prompt; the image's content by default.

    Returns:
        The sets to compare, the sets put aside, and a configuration whose discovery half is the
        same share of the sets to compare as it was of the whole ones.

    Raises:
        InputError: The fraction is out of range, or a column does not exist.
    """
    if not 0 <= fraction < 1:
        raise InputError(
            f"Expected a held-out share of 0 or more and below 1, got {fraction}; 0.2 is usual."
        )
    cut = [images.split(1 - fraction, list(key) or None) for images in (a, b)]
    kept, aside = (cut[0][0], cut[1][0]), (cut[0][1], cut[1][1])
    if tuple(key) == tuple(config.paired_by):
        # Both cuts read the same number of an image: what is put aside comes off its upper end.
        share = config.statistics.discovery_fraction * (1 - fraction)
        config = config.changed(statistics__discovery_fraction=share)
    return kept, aside, config


def check(
    report: DifferenceReport,
    a: ImageSet,
    b: ImageSet,
    backends: Backends,
) -> HeldOut:
    """Lets the confirmed sentences of a report sort images that it has not seen.

    The rule is a linear discriminant with a diagonal covariance: each sentence votes with its
    score's distance from the middle between the sets' means, weighed by how far these are apart in
    (pooled) variances. Means and variances are those of the images that tested the sentences; no
    set is taken to be likelier. A sentence without a score on an image has no vote on it.

    Args:
        report: As `visdiff.comparison.compare.compare` made it, with its scores.
        a: Images of A that were put aside.
        b: Images of B.
        backends: The models of the report.

    Returns:
        The result; without an accuracy where nothing was confirmed or nothing could be scored.

    Raises:
        InputError: The report was read back and has no scores.
    """
    confirmed = report.confirmed
    if not confirmed or not len(a) + len(b):
        texts = tuple(d.text for d in confirmed)
        return HeldOut(texts, 0, 0, 0, 0, len(a) + len(b), None, None, None, None)
    if report.scores is None:
        raise InputError(
            "Expected a report with its scores, got one that was read back; use it as compare "
            "returns it."
        )
    hypotheses = [Hypothesis(d.text, d.direction, d.proposer, d.round) for d in confirmed]
    captions = None
    if backends.ranker.needs_captions:
        captions = backends.captions(a, b).values
    scores = backends.score(hypotheses, a, b, captions).astype(np.float64)
    known = report.scores[[d.text for d in confirmed]].to_numpy(dtype=np.float64).T
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
    """Sum of the sentences' votes for A, (n,).

    Args:
        scores: (h, n) of the images to sort, NaN where unscored.
        known: (h, m) of the images that tested.
        known_is_a: (m,) bool.
    """
    of_a, of_b = known[:, known_is_a], known[:, ~known_is_a]
    mean_a, mean_b = np.nanmean(of_a, axis=1), np.nanmean(of_b, axis=1)
    variance = (np.nanvar(of_a, axis=1) + np.nanvar(of_b, axis=1)) / 2
    # Scores that are constant within both sets separate perfectly: any small variance does.
    floor = np.maximum(1e-6 * (mean_a - mean_b) ** 2, np.finfo(np.float64).tiny)
    weight = (mean_a - mean_b) / np.maximum(variance, floor)
    distance = scores - ((mean_a + mean_b) / 2)[:, None]
    return np.nansum(distance * weight[:, None], axis=0)
