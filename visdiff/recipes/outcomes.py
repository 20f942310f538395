"""Which images a classifier gets right, from columns of predictions or by running it."""

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
from visdiff.recipes.forming import column_texts, exclusion_notes, image_classes


@dataclass(frozen=True)
class Outcomes:
    """The images with a known class and all predictions.

    Attributes:
        images: n images.
        truth: (n,) str, the true classes.
        right: (classifiers, n) bool, whether each prediction is correct.
        notes: Notes on omitted images and on the accuracy of each classifier.
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
    """Determines which images each classifier gets right.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: Names of columns of predictions, or classifiers to run (see
            `visdiff.recipes.classifiers`).
        class_column: Column of the class; by default the image's directory.
        class_names: The data's class → the classifiers' name for it.
        template: Template of zero-shot classification.
        config: The configuration, for the device.
        cache: Cache of predictions; the user's cache by default.
        progress: Whether to show progress bars on stderr.

    Raises:
        InputError: A source, column or classifier does not exist, or no prediction is correct.
        MissingBackendError: A library or a model's weights are not available.
    """
    opened = ImageSet.open(images)
    truth = image_classes(opened, class_column)
    known, notes = truth != "", list[str]()
    notes += exclusion_notes(int((~known).sum()), len(known), "their class is not known")
    opened, truth = opened.subset(known), truth[known]
    rows = []
    with Cache() if cache is None else nullcontext(cache) as store:
        for name in classifiers:
            if _is_classifier(name, opened):
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
                data_names = {theirs: ours for ours, theirs in (class_names or {}).items()}
                cells = column_texts(opened, name).tolist()
                rows.append(np.array([data_names.get(cell, cell) for cell in cells], dtype=str))
    predicted = np.array(rows)
    known = (predicted != "").all(axis=0)
    notes += exclusion_notes(int((~known).sum()), len(known), "a prediction is missing")
    opened, truth, predicted = opened.subset(known), truth[known], predicted[:, known]
    right = predicted == truth[None]
    for name, row in zip(classifiers, right, strict=True):
        if not row.any():
            raise InputError(
                f"Expected predictions with the names of the classes, got none by {name} that is "
                f"right (for example {predicted[list(classifiers).index(name)][:1]}, where the "
                f"class is {truth[:1]}); set class_names to the classifier's names of the classes."
            )
        notes.append(f"{name} is right on {row.sum()} of {len(row)} images.")
    return Outcomes(opened, truth, right, tuple(notes))


def plan_outcomes(
    images: Any,
    classifiers: Sequence[str],
    *,
    class_column: str | None,
    per_class: bool,
    by: str | None = None,
    held_out: float,
    config: Config,
) -> ManyPlan | None:
    """Estimates the maximum cost of a recipe whose predictions do not exist yet.

    Args:
        images: A folder of class directories, or a manifest.
        classifiers: As in `outcomes`.
        class_column: As in `outcomes`.
        per_class: Whether each class is compared too.
        by: A column whose values are compared as slices too.
        held_out: Fraction of the images that is held out.
        config: The configuration.

    Returns:
        The upper bound; None when all predictions are columns, so that the sets can be formed.

    Raises:
        InputError: A source or column does not exist.
    """
    opened = ImageSet.open(images)
    to_run = [name for name in classifiers if _is_classifier(name, opened)]
    if not to_run:
        return None
    truth = image_classes(opened, class_column)
    slices = len(set(truth.tolist()) - {""}) if per_class else 0
    slices += len(set(column_texts(opened, by).tolist()) - {""}) if by is not None else 0
    n = int((truth != "").sum())
    return plan_unformed(n, slices, n * len(to_run), held_out, config)


def named_subset(found: Outcomes, mask: np.ndarray, name: str) -> tuple[ImageSet, np.ndarray]:
    """Returns some of the images as a set with a name.

    Args:
        found: All images.
        mask: (n,) bool, the images to select.
        name: Name of the set.

    Returns:
        The set, and the class of each of its images.
    """
    return found.images.subset(mask).renamed(name), found.truth[mask]


def _is_classifier(name: str, images: ImageSet) -> bool:
    if name in images.frame.columns:
        return False
    return name == "miniature" or name.partition(":")[0] in LIBRARIES
