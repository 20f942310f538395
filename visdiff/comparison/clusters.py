"""Clusters: images that show the same thing, and so count as one observation.

Two images are in one cluster if their files have the same bytes, if they are near copies (once the
files have been decoded), or if they have the same value in the column ``group_by``, such as the
photograph, the patient or the video. Clusters may have images of both sets.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visdiff.imageset import ImageSet, manifest
from visdiff.imageset.copies import near_copies

Labels = NDArray[np.intp]

# A product such as 0.29 * 100 is a little below the whole number.
_ROUNDING = 1e-9


def label_clusters(
    a: ImageSet,
    b: ImageSet,
    group_by: str | None = None,
    small: NDArray[np.uint8] | None = None,
    *,
    paired: bool = False,
) -> Labels:
    """Returns the cluster of each image of both sets.

    If the sets are paired, the clusters are clusters of pairs. Two pairs are in one cluster if any
    images of theirs have the same bytes or the same value of ``group_by``, or if they are near
    copies in both sets. Pairs that are alike in one set only (two images of a prompt) are not.

    Args:
        a: Set A.
        b: Set B; if paired, image i is the partner of image i of A.
        group_by: Name of a column of both sets; rows without a value are not grouped by it.
        small: (n_a + n_b, SIDE, SIDE, 3) small copies of the images, A's first; None if the files
            have not been decoded.
        paired: Whether the sets are paired.

    Returns:
        (n_a + n_b,) labels, those of A first.

    Raises:
        InputError: A set has no column ``group_by``.
    """
    values = [_distinct([*_digests(a), *_digests(b)])]
    if group_by is not None:
        for images in (a, b):
            manifest.check_columns(images.frame, [group_by], images.source)
        columns = [images.frame[group_by].map(manifest.text).tolist() for images in (a, b)]
        values.append(_distinct([value or None for column in columns for value in column]))
    n = len(a)
    if paired:
        values.append(np.tile(np.arange(n), 2))
    if small is not None and paired:
        both = zip(near_copies(small[:n]).tolist(), near_copies(small[n:]).tolist(), strict=True)
        values.append(np.tile(_distinct(list(both)), 2))
    elif small is not None:
        values.append(near_copies(small))
    return join_labels(values)


def join_labels(partitions: Sequence[Labels]) -> Labels:
    """Returns the finest grouping in which the groups of every partition stay whole.

    Args:
        partitions: Labels of the same n items.

    Returns:
        (n,) numbers from 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(partitions[0])
    firsts = []
    for labels in partitions:
        _, first, place = np.unique(labels, return_index=True, return_inverse=True)
        firsts.append(first[place])
    rows, columns = np.tile(np.arange(n), len(firsts)), np.concatenate(firsts)
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return connected_components(links, directed=False)[1].astype(np.intp)


def first_part(
    order: Sequence[int], clusters: Labels, is_a: NDArray[np.bool_], fraction: float
) -> NDArray[np.bool_]:
    """Returns which images are in the first part of a split that keeps clusters whole.

    Clusters are ranked by the smallest number of their images, and the first ones are taken, so
    that the first part has this fraction of the clusters of each set, rounded down, however small
    the sets are. Clusters with images in both sets are cut first, by themselves.

    Args:
        order: n numbers that determine the order and come from the content of the images.
        clusters: (n,) labels.
        is_a: (n,) True for the images of set A.
        fraction: Fraction of the clusters in the first part, from 0 to 1.
    """
    _, place = np.unique(clusters, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    least: list[int | None] = [None] * count
    for number, cluster in zip(order, place.tolist(), strict=True):
        known = least[cluster]
        least[cluster] = number if known is None else min(known, number)
    ranked = np.array(sorted(range(count), key=lambda c: (least[c], c)), dtype=np.intp)
    in_a = np.bincount(place[is_a], minlength=count) > 0
    in_b = np.bincount(place[~is_a], minlength=count) > 0
    first = np.zeros(count, bool)
    n_both = int(fraction * (in_a & in_b).sum() + _ROUNDING)
    first[ranked[(in_a & in_b)[ranked]][:n_both]] = True
    for inside, other in ((in_a, in_b), (in_b, in_a)):
        n_first = max(0, int(fraction * inside.sum() + _ROUNDING) - n_both)
        first[ranked[(inside & ~other)[ranked]][:n_first]] = True
    return first[place]


def _digests(images: ImageSet) -> list[str | None]:
    return [images.content(i) for i in range(len(images))]


def _distinct(values: Sequence[object]) -> Labels:
    """Returns equal numbers for equal values, and a number of its own for each None."""
    numbers: dict[object, int] = {}
    return np.array(
        [numbers.setdefault((i,) if v is None else (v, 0), i) for i, v in enumerate(values)],
        dtype=np.intp,
    )
