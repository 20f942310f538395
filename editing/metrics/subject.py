"""Measures of a personalised model, on arrays of features.

Symbols: r_1 … r_N are the features of the real images of a subject, g_1 … g_M those of generated
images, t_m that of the prompt of image m without its identifier, all at length 1 (the functions
normalise). A value per generated image comes first; `estimate` averages the values.

- DINO and CLIP-I (DreamBooth, Ruiz et al. 2023, arXiv:2208.12242) = mean over m and n of g_mᵀ r_n:
  `likeness`, on features of DINO ViT-S/16 or of CLIP.
- CLIP-T = mean over m of g_mᵀ t_m: `text_alignment`. He et al. (arXiv:2311.04315) report it for the
  noun of the released data ("stuffed animal") and for a specific one ("bear plushie").
- SA, NSD and TA (SID, Kim et al. 2024, arXiv:2403.15330, equations 1 to 3), with s(x) the mask of
  the subject in x and f the image features of CLIP:
  SA = mean f(r_n · s(r_n))ᵀ g_m, NSD = 1 − mean f(r_n · (1 − s(r_n)))ᵀ g_m, TA = CLIP-T.
- PRES (DreamBooth) = `likeness` of images of "a [class noun]", without the identifier, by the
  personalised model. Lower means less language drift.
- DIV (DreamBooth) = mean distance (LPIPS) over the pairs of `same_prompt_pairs`.
- Copies: `copy_detection`.

What the papers leave open, and what is done here. DreamBooth and SID do not name CLIP's
architecture: ViT-B/32 of OpenAI, by the level of the published values. They do not state how
means are taken: over all pairs within an image, then over the images of a prompt, then over
prompts, then over subjects, so that each of these counts equally. SID does not state what masked
pixels become: black (see `editing.metrics.masks`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visdiff.encoders.zero_shot import unit
from visdiff.errors import InputError

Floats = NDArray[np.float64]

_SAME = 1 - 1e-6
"""Cosine from which two references count as one picture."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its bootstrap interval.

    Attributes:
        value: The mean of the cluster means.
        low: Lower end of the interval; NaN with one value.
        high: Upper end of the interval; NaN with one value.
        n: Number of values.
        clusters: Number of clusters.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True, eq=False)
class Copies:
    """Generated images that are closer to a reference than references are to each other.

    Attributes:
        likeness: (m,) cosine of each generated image with its nearest reference.
        nearest: (m,) index of that reference.
        threshold: Largest cosine of a reference with its nearest other one (leave-one-out).
        flags: (m,) whether the likeness is above the threshold.
    """

    likeness: Floats
    nearest: NDArray[np.intp]
    threshold: float
    flags: NDArray[np.bool_]


def likeness(generated: ArrayLike, references: ArrayLike) -> Floats:
    """Returns the mean cosine of each generated image with all references.

    The mean of the result is CLIP-I or DINO; with images of the class noun it is PRES; with the
    features of masked references it is SA.

    Args:
        generated: (m, d) features of generated images.
        references: (n, d) features of the real images by the same encoder.

    Returns:
        (m,) in [-1, 1].

    Raises:
        InputError: The widths differ, a set is empty, or a vector is zero or not finite.
    """
    first, second = _pair(generated, references)
    return (first @ second.T).mean(axis=1)


def real_likeness(references: ArrayLike) -> float:
    """Returns the mean cosine of distinct references: what CLIP-I or DINO is for real images.

    The published values, .774 for DINO and .885 for CLIP-I, are means of this over the 30 subjects
    of DreamBench. A likeness above it is a sign of copies.

    Args:
        references: (n, d) features, n of 2 or more.

    Raises:
        InputError: There are fewer than 2 references, or as for `likeness`.
    """
    vectors = _checked(references)
    if len(vectors) < 2:
        raise InputError(
            f"Expected 2 or more references, got {len(vectors)}; real images are compared with "
            "each other."
        )
    n = len(vectors)
    return float(((vectors @ vectors.T).sum() - n) / (n * (n - 1)))


def disentanglement(generated: ArrayLike, backgrounds: ArrayLike) -> Floats:
    """Returns NSD of each generated image: 1 − mean cosine with the references without the subject.

    Args:
        generated: (m, d) features of generated images; of their parts outside the subject for the
            masked variant.
        backgrounds: (n, d) features of the references with the subject masked out.

    Returns:
        (m,) in [0, 2]; higher means less of the references' surroundings.

    Raises:
        InputError: As for `likeness`.
    """
    return 1 - likeness(generated, backgrounds)


def text_alignment(generated: ArrayLike, texts: ArrayLike) -> Floats:
    """Returns the cosine of each generated image and its text, CLIP-T and TA.

    CustomConcept101 reports 2.5 · max(cosine, 0) instead; its values are not comparable.

    Args:
        generated: (m, d) features of generated images.
        texts: (m, d) features of their prompts without the identifier.

    Returns:
        (m,) in [-1, 1].

    Raises:
        InputError: There is not one text per image, or as for `likeness`.
    """
    first, second = _pair(generated, texts)
    if len(first) != len(second):
        raise InputError(
            f"Expected a text for each of {len(first)} images, got {len(second)}; pair them."
        )
    return (first * second).sum(axis=1)


def same_prompt_pairs(prompts: Sequence[Hashable]) -> NDArray[np.intp]:
    """Returns the pairs of images whose distance DIV averages: all of the same prompt.

    Args:
        prompts: Prompt of each image.

    Returns:
        (p, 2) indices, first below second; none if every prompt has one image.
    """
    rows: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    pairs = [(i, j) for own in rows.values() for k, i in enumerate(own) for j in own[k + 1 :]]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def copy_detection(generated: ArrayLike, references: ArrayLike) -> Copies:
    """Returns which generated images are copies of a reference.

    An image is flagged if its cosine with the nearest reference exceeds the largest cosine that a
    reference has with its nearest other reference. References that are the same picture count once.
    No paper defines the threshold; published practice is to suspect a mean likeness above that of
    real images (`real_likeness`), which says nothing about a single image.

    Args:
        generated: (m, d) features of generated images.
        references: (n, d) features of 2 or more different real images.

    Raises:
        InputError: There are fewer than 2 different references, or as for `likeness`.
    """
    first, second = _pair(generated, references)
    cosines = second @ second.T
    distinct = [i for i in range(len(second)) if not (cosines[i, :i] >= _SAME).any()]
    if len(distinct) < 2:
        raise InputError(
            f"Expected 2 or more different references, got {len(distinct)}; what real images have "
            "in common is unknown from one."
        )
    among = cosines[np.ix_(distinct, distinct)]
    np.fill_diagonal(among, -np.inf)
    threshold = float(among.max())
    near = first @ second.T
    best = near.max(axis=1)
    return Copies(best, near.argmax(axis=1), threshold, best > threshold)


def estimate(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """Returns the mean over clusters with a percentile bootstrap interval.

    Clusters are the prompts of one subject, or the subjects of a benchmark. They are resampled
    whole, since images of one prompt are not independent. With one cluster its values are.

    Args:
        values: (m,) a value per image, finite.
        clusters: Cluster of each value.
        rng: Generator for the resamples.
        level: Confidence level of the interval.
        resamples: Number of resamples.

    Raises:
        InputError: There is no value, one is not finite, or the lengths differ.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or len(numbers) != len(clusters) or not len(numbers):
        raise InputError(
            f"Expected a cluster for each value and at least one value, got shape {numbers.shape} "
            f"and {len(clusters)} clusters; pass lists of equal length."
        )
    if not np.isfinite(numbers).all():
        raise InputError("Expected finite values, got NaN or infinity; leave those images out.")
    rows: dict[Hashable, list[float]] = {}
    for cluster, number in zip(clusters, numbers.tolist(), strict=True):
        rows.setdefault(cluster, []).append(number)
    means = np.array([np.mean(own) for own in rows.values()])
    units = means if len(means) > 1 else numbers
    low = high = float("nan")
    if len(units) > 1:
        chosen = units[rng.integers(len(units), size=(resamples, len(units)))].mean(axis=1)
        low, high = np.quantile(chosen, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Estimate(float(means.mean()), low, high, len(numbers), len(means))


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = _checked(first), _checked(second)
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"Expected features of one width, got {a.shape[1]} and {b.shape[1]}; use one encoder "
            "for both."
        )
    return a, b


def _checked(vectors: ArrayLike) -> Floats:
    """Returns rows at length 1, in float64."""
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2 or not len(rows):
        raise InputError(
            f"Expected features of shape (n, d) of at least one image, got shape {rows.shape}; "
            "encode the images first."
        )
    if not np.isfinite(rows).all() or not np.linalg.norm(rows, axis=1).all():
        raise InputError(
            "Expected finite features that are not zero, got others; leave those images out."
        )
    return unit(rows)
