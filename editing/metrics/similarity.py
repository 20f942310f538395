"""Agreement of images and texts in the space of a CLIP-like encoder."""

import numpy as np
from numpy.typing import ArrayLike

from visdiff.errors import InputError


def clip_score(images: ArrayLike, texts: ArrayLike) -> np.ndarray:
    """Returns 100 · max(cosine, 0) of each image and its text, in [0, 100].

    CLIPScore of Hessel et al. 2021 (arXiv:2104.08718) without its factor 2.5, which is what papers
    on text-to-image models report (often over 100: 0.31).

    Args:
        images: (n, d) features of images; need not be unit vectors.
        texts: (n, d) features of their prompts by the same encoder.

    Returns:
        (n,) float64; NaN where a vector is not finite or is zero.

    Raises:
        InputError: The shapes differ.
    """
    first, second = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(
            f"expected a text for each image and features of one width, got shapes {first.shape} "
            f"and {second.shape}."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (_unit(first) * _unit(second)).sum(axis=1)
    return 100 * np.where(np.isnan(cosine), np.nan, np.clip(cosine, 0, 1))


def cosines(images: ArrayLike, texts: ArrayLike) -> np.ndarray:
    """Returns the cosine of each image and each text it may show.

    Args:
        images: (n, d) features.
        texts: (k, d) for all images, or (n, k, d) for texts that depend on the image.

    Returns:
        (n, k) float64 in [-1, 1]; NaN where a vector is zero.

    Raises:
        InputError: The shapes do not fit or an image's vector is not finite.
    """
    first, second = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    if first.ndim != 2 or second.ndim not in (2, 3) or first.shape[1] != second.shape[-1]:
        raise InputError(
            f"expected features of one width, got shapes {first.shape} and {second.shape}."
        )
    if second.ndim == 3 and len(second) != len(first):
        raise InputError(
            f"expected texts for each of {len(first)} images, got them for {len(second)}."
        )
    if not np.isfinite(first).all():
        raise InputError("expected finite features, got others: leave those images out.")
    subscripts = "nd,kd->nk" if second.ndim == 2 else "nd,nkd->nk"
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum(subscripts, _unit(first), _unit(second))


def nearest_text(images: ArrayLike, texts: ArrayLike) -> np.ndarray:
    """Returns for each image the index of the text it is nearest to: zero-shot classification.

    How UCE and TIME read genders and races off images: the texts are the attributes in words.

    Args:
        images: (n, d) features.
        texts: (k, d) for all images, or (n, k, d) for texts that depend on the image.

    Returns:
        (n,) integers from 0 to k-1; of equally near ones the first.

    Raises:
        InputError: As for `cosines`.
    """
    return cosines(images, texts).argmax(axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
