"""``imagenet-v2``: how a re-collected data set differs from the original, overall and per class.

Dunlap et al., CVPR 2024, section 6.1, on ImageNet's validation images and ImageNetV2 (Recht et al.,
ICML 2019). It works with any two data sets with the same classes.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.recipes.forming import (
    balance_classes,
    classes_of,
    exclusion_notes,
    image_classes,
    make_slices,
    without_duplicates,
)
from visdiff.recipes.run import RecipeReport, RecipeSets, run

NAME = "imagenet-v2"
_WNID = re.compile(r"n\d{8}")


def imagenet_v2(
    variant: Any,
    original: Any,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    **how: Any,
) -> RecipeReport:
    """Compares two data sets of the same classes, overall and per class.

    Args:
        variant: Set A: a folder of class directories, or a manifest with a column of classes.
        original: Set B, in the same form.
        cache: Cache of captions and embeddings; the user's cache by default.
        progress: Whether to show progress bars on stderr.
        **how: Arguments of `form`: columns, names, slices, the held-out fraction, the
            configuration.

    Returns:
        The report; ``overall`` is variant (A) against original (B).

    Raises:
        InputError: A source or column does not exist, or the sets share no class.
        MissingBackendError: A library or a model's weights are not available.
    """
    return run(form(variant, original, **how), cache, progress)


def form(
    variant: Any,
    original: Any,
    *,
    class_column: str | None = None,
    class_names: Mapping[str, str] | None = None,
    per_class: bool = False,
    name_variant: str = "variant",
    name_original: str = "original",
    held_out: float = 0.2,
    config: Config,
) -> RecipeSets:
    """Forms two sets with the same classes, and optionally one pair per class.

    Classes of only one set are left out and reported, images in both sets are removed, and the
    classes are balanced, so that the class is not a difference. ImageNetV2's numbered directories
    ("0" … "999") are matched with wnids in sorted order, as its authors number them. ImageNetV2 has
    ten images per class, too few to confirm anything within a class at the default
    ``statistics.min_scored``; the reports of such comparisons state this.

    Args:
        variant: Set A: a folder of class directories, or a manifest with ``class_column``.
        original: Set B, in the same form.
        class_column: Column of the class in both; by default the image's directory.
        class_names: Name of a directory (or value of the column) → name of the class, where they
            differ.
        per_class: Whether to compare each class too, with one correction over all.
        name_variant: Name of set A.
        name_original: Name of set B.
        held_out: Fraction held out for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison; its seed is used to balance classes.

    Raises:
        InputError: A source or column does not exist, or the sets share no class.
    """
    a = ImageSet.open(variant, name=name_variant)
    b = ImageSet.open(original, name=name_original)
    a, b, notes = without_duplicates(a, b)
    names_a, names_b = (
        _rename_classes(image_classes(s, class_column), class_names) for s in (a, b)
    )
    classes_a, classes_b = _numbers_to_wnids(names_a, names_b), _numbers_to_wnids(names_b, names_a)
    for images, own in ((a, classes_a), (b, classes_b)):
        reason = f"{images.name} has no class for them"
        notes += exclusion_notes(int((own == "").sum()), len(own), reason)
    place_a = dict(zip(a.ids, classes_a.tolist(), strict=True))
    place_b = dict(zip(b.ids, classes_b.tolist(), strict=True))
    a, b, more = balance_classes(a, b, classes_a, classes_b, np.random.default_rng(config.seed))
    notes += more
    pairs = [(a, b)]
    if per_class:
        sliced, more = make_slices(a, b, classes_of(a, place_a), classes_of(b, place_b))
        pairs += sliced
        notes += more
    return RecipeSets(NAME, pairs, config, notes, held_out)


def _rename_classes(names: np.ndarray, class_names: Mapping[str, str] | None) -> np.ndarray:
    if not class_names:
        return names
    return np.array([class_names.get(name, name) for name in names.tolist()], dtype=str)


def _numbers_to_wnids(names: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Replaces class numbers 0 … n-1 by the corresponding wnids, if the other set has wnids."""
    own, wnids = set(names.tolist()) - {""}, sorted(set(other.tolist()) - {""})
    if not own or not all(name.isdecimal() for name in own):
        return names
    if not wnids or not all(_WNID.fullmatch(name) for name in wnids):
        return names
    numbers = {int(name) for name in own}
    is_imagenet = len(wnids) == 1000 and max(numbers) < 1000
    if not is_imagenet and numbers != set(range(len(wnids))):
        raise InputError(
            f"Expected numbered classes 0 … {len(wnids) - 1} for {len(wnids)} wnids, got "
            f"{len(own)} numbers up to {max(numbers)}; map them with class_names."
        )
    return np.array([wnids[int(name)] if name else "" for name in names.tolist()], dtype=str)
