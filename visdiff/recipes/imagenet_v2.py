"""``imagenet-v2``: how a re-collected data set differs from the original, class by class if wanted.

Dunlap et al., CVPR 2024, section 6.1, on ImageNet's validation images and ImageNetV2 (Recht et al.,
ICML 2019). Any two data sets of the same classes will do.
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
    classes,
    classes_of,
    left_out,
    matched,
    slices,
    without_duplicates,
)
from visdiff.recipes.run import Formed, RecipeReport, run

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
        original: Set B, likewise.
        cache: Where captions and embeddings are kept; the user's cache by default.
        progress: Show progress bars on stderr.
        **how: What `form` takes: columns, names, slices, the share held out, the configuration.

    Returns:
        The report; ``overall`` is variant (A) against original (B).

    Raises:
        InputError: A source or column does not exist, or the two share no class.
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
) -> Formed:
    """Forms two sets of the same classes, and a pair a class when asked.

    Classes of only one of them are left out and counted, images in both are left out of both, and
    the shares of the classes are made equal, so that class is not itself a difference. ImageNetV2's
    numbered directories ("0" … "999") are matched with wnids in sorted order, as its authors number
    them. ImageNetV2 has ten images a class: too few to confirm anything within one at the default
    ``statistics.min_scored``; such comparisons say so.

    Args:
        variant: Set A: a folder of class directories, or a manifest with ``class_column``.
        original: Set B, likewise.
        class_column: Column of the class in both; by default the image's directory.
        class_names: Directory (or column) name → the name of the class, where the two differ.
        per_class: Also compare class by class, with one correction over all.
        name_variant: What to call set A.
        name_original: What to call set B.
        held_out: Share put aside for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison; its seed draws the images that stay.

    Raises:
        InputError: A source or column does not exist, or the two share no class.
    """
    a = ImageSet.open(variant, name=name_variant)
    b = ImageSet.open(original, name=name_original)
    a, b, notes = without_duplicates(a, b)
    of_a, of_b = (_renamed(classes(s, class_column), class_names) for s in (a, b))
    of_a, of_b = _numbered(of_a, of_b), _numbered(of_b, of_a)
    for images, of in ((a, of_a), (b, of_b)):
        notes += left_out(int((of == "").sum()), len(of), f"{images.name} has no class for them")
    place_a = dict(zip(a.ids, of_a.tolist(), strict=True))
    place_b = dict(zip(b.ids, of_b.tolist(), strict=True))
    a, b, more = matched(a, b, of_a, of_b, np.random.default_rng(config.seed))
    notes += more
    pairs = [(a, b)]
    if per_class:
        sliced, more = slices(a, b, classes_of(a, place_a), classes_of(b, place_b))
        pairs += sliced
        notes += more
    return Formed(NAME, pairs, config, notes, held_out)


def _renamed(names: np.ndarray, class_names: Mapping[str, str] | None) -> np.ndarray:
    if not class_names:
        return names
    return np.array([class_names.get(name, name) for name in names.tolist()], dtype=str)


def _numbered(names: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Numbers 0 … n-1 as the wnids that they stand for, where the other set has wnids."""
    own, wnids = set(names.tolist()) - {""}, sorted(set(other.tolist()) - {""})
    if not own or not all(name.isdecimal() for name in own):
        return names
    if not wnids or not all(_WNID.fullmatch(name) for name in wnids):
        return names
    numbers = {int(name) for name in own}
    every = len(wnids) == 1000 and max(numbers) < 1000
    if not every and numbers != set(range(len(wnids))):
        raise InputError(
            f"Expected numbered classes 0 … {len(wnids) - 1} for {len(wnids)} wnids, got "
            f"{len(own)} numbers up to {max(numbers)}; say which is which (class_names)."
        )
    return np.array([wnids[int(name)] if name else "" for name in names.tolist()], dtype=str)
