"""Which images a classifier gets right: from columns of predictions, or by running it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from visdiff.cache import Cache
from visdiff.comparison.plan import ManyPlan, plan_unformed
from visdiff.config import Config
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.recipes.classifiers import LIBRARIES, TEMPLATE, predict
from visdiff.recipes.forming import classes, left_out, texts


@dataclass(frozen=True)
class Outcomes:
    """The images whose class and every prediction are known.

    Attributes:
        images: n images.
        truth: (n,) str, the class of each.
        right: (classifiers, n) bool.
        notes: What was left out, and how accurate each classifier is.
    """

    images: ImageSet
    truth: np.ndarray
    right: np.ndarray
    notes: tuple[str, ...]


def outcomes(
    images: Any,
    classifiers: Sequence[str],
    *,
    class_column: str | None,
    class_names: Mapping[str, str] | None,
    template: str = TEMPLATE,
    config: Config,
    cache: Cache | None,
    progress: bool,
) -> Outcomes:
    """Says which images each classifier gets right.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: Each the name of a column of predictions, or a classifier to run (see
            `visdiff.recipes.classifiers`); each is its own.
        class_column: Column of the class; by default the image's directory.
        class_names: The data's class → what the classifiers call it.
        template: Of zero-shot classification.
        config: Says the device.
        cache: Keeps predictions; the user's cache by default.
        progress: Show bars on stderr.

    Raises:
        InputError: A source, column or classifier does not exist, or no prediction is ever right.
        MissingBackendError: A library or a model's weights are not available.
    """
    opened = ImageSet.open(images)
    truth = classes(opened, class_column)
    known, notes = truth != "", list[str]()
    notes += left_out(int((~known).sum()), len(known), "their class is not known")
    opened, truth = opened.subset(known), truth[known]
    rows = []
    with Cache() if cache is None else nullcontext(cache) as store:
        for name in classifiers:
            if _is_spec(name, opened):
                rows.append(
                    predict(
                        name,
                        opened,
                        truth,
                        class_names=class_names,
                        template=template,
                        runtime=Runtime(store, progress),
                        device=config.device,
                    )
                )
            else:
                back = {called: own for own, called in (class_names or {}).items()}
                cells = texts(opened, name).tolist()
                rows.append(np.array([back.get(cell, cell) for cell in cells], dtype=str))
    predicted = np.array(rows)
    answered = (predicted != "").all(axis=0)
    notes += left_out(int((~answered).sum()), len(answered), "a prediction is missing")
    opened, truth, predicted = opened.subset(answered), truth[answered], predicted[:, answered]
    right = predicted == truth[None]
    for name, row in zip(classifiers, right, strict=True):
        if not row.any():
            raise InputError(
                f"Expected predictions in the words of the classes, got none by {name} that is "
                f"right: it says for example {predicted[list(classifiers).index(name)][:1]}, where "
                f"the class is {truth[:1]}; say which name is which (class_names)."
            )
        notes.append(f"{name} is right on {row.sum()} of {len(row)} images.")
    return Outcomes(opened, truth, right, tuple(notes))


def planned_outcomes(
    images: Any,
    classifiers: Sequence[str],
    *,
    class_column: str | None,
    per_class: bool,
    by: str | None = None,
    held_out: float,
    config: Config,
) -> ManyPlan | None:
    """Bounds a recipe whose sets depend on predictions that do not exist yet.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: As for `outcomes`.
        class_column: Likewise.
        per_class: Whether classes are compared one by one as well.
        by: A column whose values are compared one by one as well.
        held_out: Share of the images put aside.
        config: The configuration.

    Returns:
        The bound; None when every prediction is in a column, so that the sets can be formed.

    Raises:
        InputError: A source or column does not exist.
    """
    opened = ImageSet.open(images)
    to_run = [name for name in classifiers if _is_spec(name, opened)]
    if not to_run:
        return None
    truth = classes(opened, class_column)
    slices = len(set(truth.tolist()) - {""}) if per_class else 0
    slices += len(set(texts(opened, by).tolist()) - {""}) if by is not None else 0
    n = int((truth != "").sum())
    return plan_unformed(n, slices, n * len(to_run), held_out, config)


def named(found: Outcomes, chosen: np.ndarray, name: str) -> tuple[ImageSet, np.ndarray]:
    """The chosen images as a set of that name.

    Args:
        found: All images.
        chosen: (n,) bool.
        name: What to call the set.

    Returns:
        The set, and the class of each of its images.
    """
    return found.images.subset(chosen).renamed(name), found.truth[chosen]


def _is_spec(name: str, images: ImageSet) -> bool:
    if name in images.frame.columns:
        return False
    return name == "miniature" or name.partition(":")[0] in LIBRARIES
