"""``clip-vs-resnet``: what one classifier gets right where another is wrong.

Dunlap et al., CVPR 2024, section 6.2: images that CLIP classifies rightly and a ResNet wrongly,
against those that both do. Any two classifiers, or two columns of predictions, will do.
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
    check_sides,
    classes_of,
    matched,
    slices,
    without_duplicates,
)
from visdiff.recipes.outcomes import named, outcomes
from visdiff.recipes.run import Formed, RecipeReport, run

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
        second: Likewise.
        cache: Where predictions, captions and embeddings are kept; the user's by default.
        progress: Show progress bars on stderr.
        **how: What `form` takes: what to compare with, classes, slices, the share held out, the
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
) -> Formed:
    """Forms sets of the images that only the first classifier gets right and of others.

    Classifiers differ from class to class, so "more dogs" may be all there is to find; with
    ``match_classes`` both sets have the same classes in the same shares.

    Args:
        images: A folder of class directories, or a manifest.
        first: A column of predictions, or a classifier to run (`visdiff.recipes.classifiers`).
        second: Likewise.
        against: What set A, only the first right, is compared with: images that "both-right" do,
            the "reverse" (only the second right), or all the "rest".
        class_column: Column of the class; by default the image's directory.
        class_names: The data's class → what the classifiers call it.
        template: Of zero-shot classification.
        match_classes: Give both sets the same shares of the classes.
        per_class: Also compare class by class, with one correction over all.
        held_out: Share put aside for the check of the confirmed sentences; 0 for none.
        config: The configuration of every comparison.
        cache: Where predictions are kept; the user's by default.
        progress: Show progress bars on stderr.

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
    a, of_a = named(found, one & ~two, f"only {first} right")
    b, of_b = named(found, sides[against], titles[against])
    check_sides([(a.name, len(a)), (b.name, len(b))], "use more images or other classifiers")
    place = dict(zip((*a.ids, *b.ids), (*of_a.tolist(), *of_b.tolist()), strict=True))
    a, b, notes = without_duplicates(a, b)
    notes = [*found.notes, *notes]
    if match_classes:
        rng = np.random.default_rng(config.seed)
        a, b, more = matched(a, b, classes_of(a, place), classes_of(b, place), rng)
        notes += more
    pairs: Pairs = [(a, b)]
    if per_class:
        sliced, more = slices(a, b, classes_of(a, place), classes_of(b, place))
        pairs += sliced
        notes += more
    return Formed(NAME, pairs, config, notes, held_out)
