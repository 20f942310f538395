"""``classifier-failures``: what the images that a classifier gets wrong have in common.

Dunlap et al., CVPR 2024, section 6.3: images that ResNets classify wrongly against those that they
classify rightly.
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
    check_sides,
    classes_of,
    left_out,
    matched,
    slices,
    texts,
    without_duplicates,
)
from visdiff.recipes.outcomes import named, outcomes
from visdiff.recipes.run import Formed, RecipeReport, run

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
        cache: Where predictions, captions and embeddings are kept; the user's by default.
        progress: Show progress bars on stderr.
        **how: What `form` takes: classes, slices, the share held out, the configuration.

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
) -> Formed:
    """Forms sets of the images that all classifiers get wrong and of those that all get right.

    With several classifiers, images that some get right and others wrong are in neither set, and
    counted: each is run on its own, and a failure is one of all of them.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: One or more, each a column of predictions or a classifier to run (see
            `visdiff.recipes.classifiers`).
        class_column: Column of the class; by default the image's directory.
        class_names: The data's class → what the classifiers call it.
        template: Of zero-shot classification.
        match_classes: Give both sets the same shares of the classes, so that hard classes are not
            themselves the difference.
        per_class: Also compare class by class, with one correction over all.
        by: Also compare slice by slice, by the values of this column.
        held_out: Share put aside for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison.
        cache: Where predictions are kept; the user's by default.
        progress: Show progress bars on stderr.

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
    notes += left_out(disagreed, len(wrong), "some classifiers are right on them, others wrong")
    a, of_a = named(found, wrong, "wrong")
    b, of_b = named(found, right, "right")
    check_sides([(a.name, len(a)), (b.name, len(b))], "use more images or another classifier")
    place = dict(zip((*a.ids, *b.ids), (*of_a.tolist(), *of_b.tolist()), strict=True))
    a, b, more = without_duplicates(a, b)
    notes += more
    if match_classes:
        rng = np.random.default_rng(config.seed)
        a, b, more = matched(a, b, classes_of(a, place), classes_of(b, place), rng)
        notes += more
    pairs: Pairs = [(a, b)]
    if per_class:
        sliced, more = slices(a, b, classes_of(a, place), classes_of(b, place))
        pairs += sliced
        notes += more
    if by is not None:
        sliced, more = slices(a, b, texts(a, by), texts(b, by))
        pairs += sliced
        notes += more
    return Formed(NAME, pairs, config, notes, held_out)
