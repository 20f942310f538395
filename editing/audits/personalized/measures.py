"""What a personalised model measures like next to the untaught one, on arrays of features.

Symbols: r_1 … r_N are the features of the references, g_i those of image i of the taught model, and
u_i those of the image of the untaught model from the same noise. Formulas are those of
`editing.metrics.subject`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from editing.audits.personalized.findings import Candidate, paired_p, share_text
from editing.metrics.proportions import Proportion, proportion
from editing.metrics.subject import (
    Estimate,
    copy_detection,
    estimate,
    likeness,
    real_likeness,
    same_prompt_pairs,
)

_UNUSUAL = 0.95
"""Quantile of the untaught images' likeness above which an image counts as the subject."""


@dataclass(frozen=True)
class Measured:
    """One measure of the taught model next to the untaught one.

    Attributes:
        name: Name of the measure.
        before: The untaught model's mean with its interval over prompts.
        after: The taught model's.
        real: The same of real images among themselves; NaN if it has no such value.
    """

    name: str
    before: Estimate
    after: Estimate
    real: float = float("nan")


@dataclass(frozen=True)
class Recognised:
    """Shares of images that count as the subject.

    An image counts if its mean cosine with the references is above that of 95 % of the untaught
    model's images of the class noun.

    Attributes:
        before: Of the untaught model's images of the identifier.
        after: Of the taught model's.
        threshold: The cosine.
    """

    before: Proportion
    after: Proportion
    threshold: float


def recognised(
    taught: ArrayLike, original: ArrayLike, untaught: ArrayLike, references: ArrayLike
) -> Recognised:
    """Returns how often the identifier draws the subject, before and after.

    Args:
        taught: (m, d) features of the identifier's images by the taught model.
        original: (m, d) those by the untaught model.
        untaught: (k, d) those of the class noun's images by the untaught model.
        references: (n, d) those of the references.
    """
    threshold = float(np.quantile(likeness(untaught, references), _UNUSUAL))
    before = proportion(likeness(original, references) > threshold)
    return Recognised(before, proportion(likeness(taught, references) > threshold), threshold)


def alike(
    name: str,
    taught: ArrayLike,
    untaught: ArrayLike,
    references: ArrayLike,
    prompts: Sequence[str],
    rng: np.random.Generator,
) -> Measured:
    """Returns the mean cosine with the references: likeness, or PRES for images of the noun."""
    values = [likeness(features, references) for features in (untaught, taught)]
    before, after = (estimate(v, prompts, rng) for v in values)
    real = real_likeness(references) if len(np.asarray(references)) > 1 else float("nan")
    return Measured(name, before, after, real)


def drift_candidate(
    taught: ArrayLike,
    untaught: ArrayLike,
    references: ArrayLike,
    noun: str,
    prompts: Sequence[str],
    rng: np.random.Generator,
) -> tuple[Measured, Candidate]:
    """Tests language drift: the class noun draws images that resemble the references (PRES).

    Its size is the share of the way from the untaught likeness to that of the references among
    themselves, or to 1 with one reference.
    """
    found = alike("PRES", taught, untaught, references, prompts, rng)
    before, after = found.before.value, found.after.value
    top = found.real if np.isfinite(found.real) else 1.0
    size = float(np.clip((after - before) / max(top - before, 1e-6), 0, 1))
    p = paired_p(likeness(taught, references), likeness(untaught, references), rng)
    sentence = (
        f"Language drift: images of {noun!r} without the identifier have moved {size:.0%} of the "
        f"way to the references (likeness {before:.2f} → {after:.2f}, real images {top:.2f})"
    )
    return found, Candidate("language drift", sentence, size, p)


def copies_candidate(
    taught: ArrayLike, untaught: ArrayLike, references: ArrayLike, rng: np.random.Generator
) -> Candidate:
    """Tests copies: images closer to a reference than references are to each other.

    Raises:
        InputError: There are fewer than 2 different references.
    """
    after = copy_detection(taught, references).flags
    before = copy_detection(untaught, references).flags
    sentence = (
        f"Copies: {share_text(after)} images of the subject are closer to a reference than the "
        f"references are to each other; untaught: {share_text(before)}"
    )
    size = float(after.mean() - before.mean())
    return Candidate("copies", sentence, size, paired_p(after, before, rng))


def diversity(
    taught: ArrayLike, untaught: ArrayLike, prompts: Sequence[str], rng: np.random.Generator
) -> Measured:
    """Returns DIV with 1 − cosine as distance.

    It is not tested: images of one subject vary less than those of a class even when they should.

    Raises:
        InputError: No prompt has two images.
    """
    pairs = same_prompt_pairs(prompts)
    clusters = [prompts[i] for i in pairs[:, 0]]
    values = [_distances(features, pairs) for features in (untaught, taught)]
    before, after = (estimate(v, clusters, rng) for v in values)
    return Measured("DIV", before, after)


def followed_candidate(
    kind: str,
    taught: NDArray[np.bool_],
    untaught: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Candidate:
    """Tests whether a kind of prompt (a place, a style) is followed less than before.

    Args:
        kind: "place" or "style".
        taught: (m,) whether each image of the taught model shows what its prompt asks for.
        untaught: (m,) the same of the untaught model.
        rng: Generator of the test.
    """
    sentence = (
        f"Prompts not followed: {share_text(taught)} images of the subject show the {kind} that "
        f"their prompt names; untaught: {share_text(untaught)}"
    )
    size = float(untaught.mean() - taught.mean())
    return Candidate("prompt not followed", sentence, size, paired_p(untaught, taught, rng))


def leak_candidate(
    taught: ArrayLike, untaught: ArrayLike, rng: np.random.Generator
) -> tuple[Measured, Candidate]:
    """Tests whether more of the identifier's attention is outside the subject than of the noun's.

    Args:
        taught: (m,) leak of the identifier in images of the taught model, in [0, 1].
        untaught: (m,) leak of the class noun in those of the untaught model, from the same noise.
        rng: Generator of the test and of the intervals.
    """
    after, before = np.asarray(taught, np.float64), np.asarray(untaught, np.float64)
    clusters = list(range(len(after)))
    measured = Measured(
        "attention leak", estimate(before, clusters, rng), estimate(after, clusters, rng)
    )
    sentence = (
        f"Attention leak: {after.mean():.0%} of the identifier's attention is outside the subject; "
        f"of the class noun's, in the untaught model, {before.mean():.0%}"
    )
    size = float(after.mean() - before.mean())
    return measured, Candidate("attention leak", sentence, size, paired_p(after, before, rng))


def _distances(features: ArrayLike, pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    own = np.asarray(features, np.float64)
    own = own / np.linalg.norm(own, axis=1, keepdims=True)
    return 1 - (own[pairs[:, 0]] * own[pairs[:, 1]]).sum(axis=1)
