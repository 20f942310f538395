"""``classifier-failures``: what the images that a classifier gets wrong have in common.

Dunlap et al., CVPR 2024, section 6.3: images that ResNets misclassify against those that they
classify correctly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.recipes.classifiers import TEMPLATE
from visdiff.recipes.forming import (
    Pairs,
    balance_classes,
    check_sides,
    classes_of,
    column_texts,
    exclusion_notes,
    make_slices,
    without_duplicates,
)
from visdiff.recipes.outcomes import named_subset, outcomes
from visdiff.recipes.run import RecipeReport, RecipeSets, run

NAME = "classifier-failures"
CLASSIFIERS = ("torchvision:resnet50", "torchvision:resnet101")


def classifier_failures(
    images: Any,
    classifiers: Sequence[str] = CLASSIFIERS,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    **how: Any,
) -> RecipeReport:
    """Compares the images that all classifiers get wrong with those that all get right.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: One or more, each a column of predictions or a classifier to run (see
            `visdiff.recipes.classifiers`).
        cache: Cache of predictions, captions and embeddings; the user's cache by default.
        progress: Whether to show progress bars on stderr.
        **how: Arguments of `form`: classes, slices, the held-out fraction, the configuration.

    Returns:
        The report; ``overall`` is wrong (A) against right (B).

    Raises:
        InputError: A source, column or classifier does not exist, or a set is empty.
        MissingBackendError: A library or a model's weights are not available.
    """
    return run(form(images, classifiers, cache=cache, progress=progress, **how), cache, progress)


def form(
    images: Any,
    classifiers: Sequence[str] = CLASSIFIERS,
    *,
    class_column: str | None = None,
    class_names: Mapping[str, str] | None = None,
    template: str = TEMPLATE,
    match_classes: bool = False,
    per_class: bool = False,
    by: str | None = None,
    held_out: float = 0.2,
    config: Config,
    cache: Cache | None = None,
    progress: bool = True,
) -> RecipeSets:
    """Forms the set of images that all classifiers get wrong and the set that all get right.

    With several classifiers, images that some get right and others wrong are in neither set; their
    number is reported.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: One or more, each a column of predictions or a classifier to run (see
            `visdiff.recipes.classifiers`).
        class_column: Column of the class; by default the image's directory.
        class_names: The data's class → the classifiers' name for it.
        template: Template of zero-shot classification.
        match_classes: Whether to balance the classes of both sets, so that hard classes are not the
            difference.
        per_class: Whether to compare each class too, with one correction over all.
        by: Column whose values are compared as slices too.
        held_out: Fraction held out for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison.
        cache: Cache of predictions; the user's cache by default.
        progress: Whether to show progress bars on stderr.

    Raises:
        InputError: A source, column or classifier does not exist, or a set is empty.
        MissingBackendError: A library or a classifier's weights are not available.
    """
    if not classifiers or len(set(classifiers)) < len(classifiers):
        raise InputError(
            f"Expected one classifier or several different ones, got {list(classifiers)}."
        )
    found = outcomes(
        images,
        classifiers,
        class_column=class_column,
        class_names=class_names,
        template=template,
        config=config,
        cache=cache,
        progress=progress,
    )
    n_right = found.right.sum(axis=0)
    wrong, right = n_right == 0, n_right == len(classifiers)
    notes = list(found.notes)
    disagreed = int((~wrong & ~right).sum())
    notes += exclusion_notes(
        disagreed, len(wrong), "some classifiers are right on them, others wrong"
    )
    a, classes_a = named_subset(found, wrong, "wrong")
    b, classes_b = named_subset(found, right, "right")
    check_sides([(a.name, len(a)), (b.name, len(b))], "use more images or another classifier")
    place = dict(zip((*a.ids, *b.ids), (*classes_a.tolist(), *classes_b.tolist()), strict=True))
    a, b, more = without_duplicates(a, b)
    notes += more
    if match_classes:
        rng = np.random.default_rng(config.seed)
        a, b, more = balance_classes(a, b, classes_of(a, place), classes_of(b, place), rng)
        notes += more
    pairs: Pairs = [(a, b)]
    if per_class:
        sliced, more = make_slices(a, b, classes_of(a, place), classes_of(b, place))
        pairs += sliced
        notes += more
    if by is not None:
        sliced, more = make_slices(a, b, column_texts(a, by), column_texts(b, by))
        pairs += sliced
        notes += more
    return RecipeSets(NAME, pairs, config, notes, held_out)
