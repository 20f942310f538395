"""CLIP score: similarity of images and texts in the space of a CLIP-like encoder."""

import numpy as np
from numpy.typing import ArrayLike

from visdiff.encoders.zero_shot import unit
from visdiff.errors import InputError


def clip_score(images: ArrayLike, texts: ArrayLike) -> np.ndarray:
    """Returns 100 · max(cosine, 0) of each image and its text, in [0, 100].

    CLIPScore of Hessel et al. 2021 (arXiv:2104.08718) without its factor 2.5, as papers on
    text-to-image models report it (often divided by 100: 0.31).

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
            f"Expected a text for each image and features of one width, got shapes {first.shape} "
            f"and {second.shape}; use one encoder for both."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (unit(first) * unit(second)).sum(axis=1)
    return 100 * np.where(np.isnan(cosine), np.nan, np.clip(cosine, 0, 1))
