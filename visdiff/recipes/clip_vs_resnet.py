"""``clip-vs-resnet``: images that one classifier gets right and another gets wrong.

Dunlap et al., CVPR 2024, section 6.2: images that CLIP classifies correctly and a ResNet does not,
against those that both classify correctly. It works with any two classifiers or columns of
predictions.
"""

from collections.abc import Mapping
from typing import Any, Literal

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
    make_slices,
    without_duplicates,
)
from visdiff.recipes.outcomes import named_subset, outcomes
from visdiff.recipes.run import RecipeReport, RecipeSets, run

NAME = "clip-vs-resnet"
FIRST = "open_clip:ViT-B-32/openai"
SECOND = "torchvision:resnet50/IMAGENET1K_V1"
Against = Literal["both-right", "reverse", "rest"]


def clip_vs_resnet(
    images: Any,
    first: str = FIRST,
    second: str = SECOND,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    **how: Any,
) -> RecipeReport:
    """Compares the images that only the first classifier gets right with others.

    Args:
        images: A folder of class directories, or a manifest.
        first: A column of predictions, or a classifier to run (`visdiff.recipes.classifiers`).
        second: Another one, in the same form.
        cache: Cache of predictions, captions and embeddings; the user's cache by default.
        progress: Whether to show progress bars on stderr.
        **how: Arguments of `form`: set B, classes, slices, the held-out fraction, the
            configuration.

    Returns:
        The report; ``overall`` is only the first right (A) against the others (B).

    Raises:
        InputError: A source, column or classifier does not exist, or a set is empty.
        MissingBackendError: A library or a model's weights are not available.
    """
    formed = form(images, first, second, cache=cache, progress=progress, **how)
    return run(formed, cache, progress)


def form(
    images: Any,
    first: str = FIRST,
    second: str = SECOND,
    *,
    against: Against = "both-right",
    class_column: str | None = None,
    class_names: Mapping[str, str] | None = None,
    template: str = TEMPLATE,
    match_classes: bool = False,
    per_class: bool = False,
    held_out: float = 0.2,
    config: Config,
    cache: Cache | None = None,
    progress: bool = True,
) -> RecipeSets:
    """Forms the set of images that only the first classifier gets right, and a set of others.

    The accuracy of classifiers depends on the class, so the main difference may be "more dogs";
    ``match_classes`` balances the classes of both sets.

    Args:
        images: A folder of class directories, or a manifest.
        first: A column of predictions, or a classifier to run (`visdiff.recipes.classifiers`).
        second: Another one, in the same form.
        against: Set B: images that both classifiers get right ("both-right"), that only the second
            gets right ("reverse"), or all others ("rest").
        class_column: Column of the class; by default the image's directory.
        class_names: The data's class → the classifiers' name for it.
        template: Template of zero-shot classification.
        match_classes: Whether to balance the classes of both sets.
        per_class: Whether to compare each class too, with one correction over all.
        held_out: Fraction held out for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison.
        cache: Cache of predictions; the user's cache by default.
        progress: Whether to show progress bars on stderr.

    Raises:
        InputError: A source, column or classifier does not exist, or a set is empty.
        MissingBackendError: A library or a model's weights are not available.
    """
    if first == second:
        raise InputError(f"Expected two classifiers, got {first} twice; name another one.")
    found = outcomes(
        images,
        (first, second),
        class_column=class_column,
        class_names=class_names,
        template=template,
        config=config,
        cache=cache,
        progress=progress,
    )
    one, two = found.right
    sides = {"both-right": one & two, "reverse": ~one & two, "rest": ~(one & ~two)}
    titles = {
        "both-right": "both right",
        "reverse": f"only {second} right",
        "rest": "all others",
    }
    if against not in sides:
        raise InputError(f"Expected against to be one of {', '.join(sides)}, got {against!r}.")
    a, classes_a = named_subset(found, one & ~two, f"only {first} right")
    b, classes_b = named_subset(found, sides[against], titles[against])
    check_sides([(a.name, len(a)), (b.name, len(b))], "use more images or other classifiers")
    place = dict(zip((*a.ids, *b.ids), (*classes_a.tolist(), *classes_b.tolist()), strict=True))
    a, b, notes = without_duplicates(a, b)
    notes = [*found.notes, *notes]
    if match_classes:
        rng = np.random.default_rng(config.seed)
        a, b, more = balance_classes(a, b, classes_of(a, place), classes_of(b, place), rng)
        notes += more
    pairs: Pairs = [(a, b)]
    if per_class:
        sliced, more = make_slices(a, b, classes_of(a, place), classes_of(b, place))
        pairs += sliced
        notes += more
    return RecipeSets(NAME, pairs, config, notes, held_out)
