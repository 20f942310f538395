"""Near copies of images: the same picture, saved again, resized, brightened or slightly cropped.

A difference hash (Krawetz 2013, "Kind of like that") compares the signs of the differences between
neighbouring pixels of a small copy. Here the differences themselves are correlated, in colour and
at two sizes. That tells two drawings with the same background apart, and finds an image again after
JPEG compression at quality 30, a change of size or brightness, or a crop of 2 %.
"""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Side of the small copy in pixels.
SIDE = 16
#: Least correlation of near copies at half the side and, with twice the detail, at the full side.
MIN_CORRELATION = (0.94, 0.80)
# Below this root mean square difference of neighbours (of 255), there is nothing to compare.
_MIN_DETAIL = 3.0
_BLOCK = 512
# Of images without structure in common, 64 coordinates rule out almost all pairs.
_COORDINATES = 64
_BASIS_ROWS = 2000
# More than the rounding of the bound in float32, which is the largest where the rest is near zero.
_ROUNDING = 1e-3


def small_copy(image: Image.Image) -> NDArray[np.uint8]:
    """Returns a small copy of an RGB image for `near_copies`, (SIDE, SIDE, 3)."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.uint8)


def near_copies(small: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Returns a label per image; images that are near copies of each other have the same one.

    Near copies of near copies have the same label too. Images without structure (one colour, a
    smooth gradient) are only compared by their bytes, elsewhere, and have a label of their own.
    Memory use is bounded by a block of rows.

    Args:
        small: (n, SIDE, SIDE, 3) small copies.

    Returns:
        (n,) the position of the first image of each group.
    """
    labels = np.arange(len(small))
    halved = small.reshape(len(small), SIDE // 2, 2, SIDE // 2, 2, 3)
    coarse, detail = _differences(halved.mean(axis=(2, 4), dtype=np.float32))
    images = np.flatnonzero(detail >= _MIN_DETAIL)
    coarse = coarse[images]

    @cache
    def fine() -> NDArray[np.float32]:
        """Returns the full detail, which few sets of images need."""
        return _differences(small[images].astype(np.float32))[0]

    bound = _Bound(coarse)
    for start in range(0, len(images), _BLOCK):
        for row, found in bound.candidates(start):
            found = found[labels[images[found]] != labels[images[row]]]
            found = found[coarse[found] @ coarse[row] >= MIN_CORRELATION[0]]
            if len(found):
                found = found[fine()[found] @ fine()[row] >= MIN_CORRELATION[1]]
            if len(found):
                groups = np.append(labels[images[found]], labels[images[row]])
                joined = np.zeros(len(labels), bool)
                joined[groups] = True
                labels[joined[labels]] = groups.min()
    return labels


class _Bound:
    """An upper bound of the correlation of unit vectors that needs few of their coordinates.

    In an orthonormal basis, u·v is at most the product of the first k coordinates plus the product
    of the lengths of the rest (Cauchy and Schwarz). The length of the rest is one more coordinate.
    The basis is that of the principal components of a part of the vectors, which makes the rest
    small; the bound holds in every basis.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        part = vectors[:: max(1, len(vectors) // _BASIS_ROWS)]
        _, basis = np.linalg.eigh(part.T @ part)
        first = vectors @ basis[:, : -_COORDINATES - 1 : -1]
        rest = np.maximum(0, 1 - np.square(first).sum(axis=1, keepdims=True))
        self._short = np.concatenate([first, np.sqrt(rest)], axis=1)

    def candidates(self, start: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yields the rows of a block with candidates: the later rows whose bound is high enough."""
        short = self._short[start:]
        high = short[:_BLOCK] @ short.T >= MIN_CORRELATION[0] - _ROUNDING
        # Each pair once, and no row with itself.
        own = high[:, : len(high)]
        own[np.tril_indices(len(high))] = False
        for i in np.flatnonzero(high.any(axis=1)).tolist():
            yield start + i, start + np.flatnonzero(high[i])


def _differences(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the differences of neighbours as unit vectors, and their root mean square."""
    across, down = np.diff(values, axis=2), np.diff(values, axis=1)
    flat = [part.reshape(len(part), math.prod(part.shape[1:])) for part in (across, down)]
    vectors = np.concatenate(flat, axis=1)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norm, 1e-6), norm[:, 0] / np.sqrt(vectors.shape[1])
