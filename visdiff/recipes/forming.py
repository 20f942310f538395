"""Forming sets: classes, duplicates and slices.

No image is left out silently: each function returns the sets together with notes for the report.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import ImageSet, manifest

Pairs = list[tuple[ImageSet, ImageSet]]


def image_classes(images: ImageSet, column: str | None = None) -> np.ndarray:
    """Returns the class of each image, (n,) str, "" where it is unknown.

    Args:
        images: The set.
        column: A column of its manifest; by default the name of the image's directory.

    Raises:
        InputError: The column does not exist, or an image has no file.
    """
    if column is not None:
        return column_texts(images, column)
    paths = [images.path(i) for i in range(len(images))]
    if any(path is None for path in paths):
        raise InputError(
            f"Expected images in directories named by their class in {images.source}, got images "
            "without a file; pass a manifest and the column of the class."
        )
    return np.array([path.parent.name for path in paths if path is not None], dtype=str)


def classes_of(images: ImageSet, place: Mapping[str, str]) -> np.ndarray:
    """Returns the class of each image by its id, (n,) str."""
    return np.array([place[name] for name in images.ids], dtype=str)


def column_texts(images: ImageSet, column: str) -> np.ndarray:
    """Returns the cells of a column as text, (n,) str, "" where a cell is missing.

    Raises:
        InputError: The column does not exist.
    """
    frame = images.frame
    manifest.check_columns(frame, [column], images.source)
    return frame[column].map(manifest.text).to_numpy(dtype=str)


def without_duplicates(a: ImageSet, b: ImageSet) -> tuple[ImageSet, ImageSet, list[str]]:
    """Removes images that are in both sets, and all but the first of the copies within a set.

    An image in both sets carries no information on their difference; copies are not independent.

    Returns:
        Both sets, and a note for each kind of duplicate that was found.
    """
    of_a, of_b = digests(a), digests(b)
    both = (set(of_a) & set(of_b)) - {None}
    notes, kept = [], []
    if both:
        notes.append(
            f"{len(both)} images are in both {a.name} and {b.name}, byte for byte; they were left "
            "out of both."
        )
    for images, found in ((a, of_a), (b, of_b)):
        seen: set[str] = set()
        keep = np.zeros(len(images), dtype=bool)
        copies = 0
        for i, digest in enumerate(found):
            if digest is not None and digest in both:
                continue
            if digest is not None and digest in seen:
                copies += 1
                continue
            keep[i] = True
            if digest is not None:
                seen.add(digest)
        if copies:
            notes.append(f"{copies} images of {images.name} are copies of another; left out.")
        kept.append(images.subset(keep))
    return kept[0], kept[1], notes


def digests(images: ImageSet) -> list[str | None]:
    """Returns the digest of each image, None where the file cannot be read."""
    found: list[str | None] = []
    for i in range(len(images)):
        try:
            found.append(images.digest(i))
        except UnreadableImageError:
            found.append(None)
    return found


def balance_classes(
    a: ImageSet,
    b: ImageSet,
    classes_a: np.ndarray,
    classes_b: np.ndarray,
    rng: np.random.Generator,
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Balances the classes of both sets, so that the class is not a difference.

    Classes of only one set are left out. When the ratio of the sets' sizes is the same in every
    class, all images are kept. Otherwise each class is subsampled to the smaller set's count.

    Args:
        a: Set A.
        b: Set B.
        classes_a: (n_a,) str.
        classes_b: (n_b,) str.
        rng: Generator for the subsampling.

    Raises:
        InputError: The sets share no class.
    """
    names_a, names_b = ({c for c in of.tolist() if c} for of in (classes_a, classes_b))
    shared = sorted(names_a & names_b)
    notes = []
    for images, own in ((a, names_a - names_b), (b, names_b - names_a)):
        if own:
            notes.append(
                f"{len(own)} classes are in {images.name} only and were left out: "
                f"{manifest.listed(sorted(own))}."
            )
    if not shared:
        raise InputError(
            f"Expected classes that {a.name} and {b.name} share, got "
            f"{manifest.listed(sorted(names_a))} and {manifest.listed(sorted(names_b))}; use the "
            "same names for the directories (or the column's values)."
        )
    places = [
        {name: np.flatnonzero(of == name) for name in shared} for of in (classes_a, classes_b)
    ]
    ratios = {len(places[0][name]) / len(places[1][name]) for name in shared}
    if len(ratios) > 1:
        for name in shared:
            count = min(len(side[name]) for side in places)
            for side in places:
                if len(side[name]) > count:
                    side[name] = np.sort(rng.choice(side[name], count, replace=False))
    sides = []
    for images, side in zip((a, b), places, strict=True):
        kept = np.sort(np.concatenate(list(side.values())))
        sides.append(images.subset(kept))
        if len(ratios) > 1:
            notes.append(
                f"{len(kept)} of {len(images)} images of {images.name} were kept: as many of each "
                "class as in the other set."
            )
    return sides[0], sides[1], notes


def make_slices(
    a: ImageSet, b: ImageSet, values_a: np.ndarray, values_b: np.ndarray, least: int = 2
) -> tuple[Pairs, list[str]]:
    """Returns one pair of sets for each value that both sets have.

    Args:
        a: Set A.
        b: Set B.
        values_a: (n_a,) str, such as the classes; images with "" are in no slice.
        values_b: (n_b,) str.
        least: Minimum number of images per set; smaller slices are left out and reported.

    Returns:
        Pairs named "<set>: <value>", in the order of the values, and notes on omitted slices.
    """
    values = sorted({v for v in (*values_a.tolist(), *values_b.tolist()) if v})
    pairs: Pairs = []
    small = []
    for value in values:
        sides = [
            images.subset(of == value).renamed(f"{images.name}: {value}")
            for images, of in ((a, values_a), (b, values_b))
        ]
        if min(map(len, sides)) < least:
            small.append(value)
        else:
            pairs.append((sides[0], sides[1]))
    notes = []
    if small:
        notes.append(
            f"{len(small)} of {len(values)} slices have fewer than {least} images on a side and "
            f"were not compared: {manifest.listed(small)}."
        )
    return pairs, notes


def exclusion_notes(count: int, of: int, why: str) -> list[str]:
    """Returns a note on images that were left out, or nothing when `count` is 0."""
    return [f"{count} of {of} images were left out: {why}."] if count else []


def check_sides(sides: Iterable[tuple[str, int]], advice: str) -> None:
    """Raises InputError when a side of a comparison has no image.

    Args:
        sides: Name and number of images of each set.
        advice: What the user can do about an empty set.
    """
    for name, count in sides:
        if not count:
            raise InputError(f"Expected images in the set “{name}”, got none; {advice}.")
