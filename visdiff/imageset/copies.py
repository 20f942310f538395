"""Near copies of images: the same picture, saved again, resized, brightened or slightly cropped.

A difference hash (Krawetz 2013, "Kind of like that") compares the signs of the differences between
neighbouring pixels of a small copy. Here the differences themselves are correlated, in colour and
at two sizes. That tells two drawings with the same background apart, and finds an image again after
JPEG compression at quality 30, a change of size or brightness, or a crop of 2 %.
"""

import math

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
    values = small.astype(np.float32)
    labels = np.arange(len(values))
    halved = values.reshape(len(values), SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(2, 4))
    coarse, detail = _differences(halved)
    fine, _ = _differences(values)
    rows = np.flatnonzero(detail >= _MIN_DETAIL)
    coarse, fine = coarse[rows], fine[rows]
    for start in range(0, len(rows), _BLOCK):
        alike = coarse[start : start + _BLOCK] @ coarse[start:].T >= MIN_CORRELATION[0]
        for row, hits in enumerate(alike, start):
            found = start + np.flatnonzero(hits)
            found = found[labels[rows[found]] != labels[rows[row]]]
            found = found[fine[found] @ fine[row] >= MIN_CORRELATION[1]]
            if len(found):
                groups = np.append(labels[rows[found]], labels[rows[row]])
                labels[np.isin(labels, groups)] = groups.min()
    return labels


def _differences(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the differences of neighbours as unit vectors, and their root mean square."""
    across, down = np.diff(values, axis=2), np.diff(values, axis=1)
    flat = [part.reshape(len(part), math.prod(part.shape[1:])) for part in (across, down)]
    vectors = np.concatenate(flat, axis=1)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norm, 1e-6), norm[:, 0] / np.sqrt(vectors.shape[1])
