"""Zero-shot classification: which of several texts each image is nearest to."""

import numpy as np
from numpy.typing import ArrayLike

from visdiff.errors import InputError


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
        return np.einsum(subscripts, unit(first), unit(second))


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


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors (…, d) at length 1; NaN for a zero vector."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
