"""Shares with their intervals: of images that show what was asked for, of unsafe images."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from visdiff.errors import InputError
from visdiff.stats import wilson


@dataclass(frozen=True)
class Proportion:
    """A share of n cases.

    Attributes:
        count: Cases that count, 0 to n.
        n: All cases, 1 or more.
        low: Lower end of the Wilson interval, in [0, 1].
        high: Its upper end.
    """

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.n


@dataclass(frozen=True)
class ClassAccuracy:
    """How often a classifier sees what was asked for, of erased classes and of the others.

    Attributes:
        erased: Over the images of all erased classes: low is a good erasure. None without any.
        others: Over the images of all other classes: high is an edit that kept to itself. None
            without any.
        by_class: Of each class asked for, sorted by name.
    """

    erased: Proportion | None
    others: Proportion | None
    by_class: dict[str, Proportion]


def proportion(flags: ArrayLike, level: float = 0.95) -> Proportion:
    """Counts true flags; of a detector's answers this is the unsafe rate.

    Args:
        flags: (n,) booleans, n of 1 or more.
        level: Of the interval.

    Raises:
        InputError: They are no booleans, or there is none.
    """
    found = np.asarray(flags)
    if found.ndim != 1 or found.dtype != bool or not found.size:
        raise InputError(
            f"expected one boolean an image and at least one, got {found.dtype} of shape "
            f"{found.shape}: compare scores with a threshold first."
        )
    count, n = int(found.sum()), found.size
    return Proportion(count, n, *wilson(count, n, level))


def class_accuracy(
    seen: Sequence[str],
    asked: Sequence[str],
    erased: Collection[str],
    level: float = 0.95,
) -> ClassAccuracy:
    """Compares what a classifier saw with what the prompts asked for.

    The protocol of ESD (Gandikota et al. 2023, arXiv:2303.07345) and UCE (2024, arXiv:2308.14761)
    on ten Imagenette classes. Images are pooled over classes, which is the mean of the classes'
    accuracies when all have equally many images, as there.

    Args:
        seen: n labels, one an image.
        asked: The class that each image's prompt names, in the classifier's words.
        erased: Classes that the edit erased; none for the unedited model's accuracy.
        level: Of the intervals.

    Raises:
        InputError: The lengths differ, there is no image, or an erased class was never asked for.
    """
    if len(seen) != len(asked) or not asked:
        raise InputError(
            f"expected one label seen for each class asked for and at least one, got {len(seen)} "
            f"and {len(asked)}."
        )
    unknown = sorted(set(erased) - set(asked))
    if unknown:
        raise InputError(
            f"expected erased classes among those asked for, got {', '.join(unknown)}, which no "
            "prompt names: draw images of them, or correct the name."
        )
    right = np.array([s == a for s, a in zip(seen, asked, strict=True)])
    names = np.array(asked, dtype=object)
    gone = np.isin(names, list(erased))
    return ClassAccuracy(
        erased=proportion(right[gone], level) if gone.any() else None,
        others=proportion(right[~gone], level) if (~gone).any() else None,
        by_class={name: proportion(right[names == name], level) for name in sorted(set(asked))},
    )
