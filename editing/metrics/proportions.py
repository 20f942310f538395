"""Shares with their intervals: of images that show what was asked for, of unsafe images."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from visdiff.errors import InputError


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


def wilson(count: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Returns the interval of Wilson 1927 for a binomial share, without continuity correction.

    "Probable inference, the law of succession, and statistical inference"; it keeps its level for
    small n and for shares near 0 and 1, where the share plus or minus its standard error does not.

    Args:
        count: Cases that count, of any shape, 0 to n.
        n: All cases, 1 or more; of a shape that broadcasts with `count`.
        level: In (0, 1).

    Returns:
        Lower and upper ends, float64 in [0, 1], of the broadcast shape.

    Raises:
        InputError: A count is not between 0 and n, an n is below 1, or the level is out of range.
    """
    k, m = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(n, np.float64))
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, got {level}: give for example 0.95.")
    if not ((m >= 1) & (k >= 0) & (k <= m)).all():
        raise InputError("expected counts from 0 to n and n of 1 or more, got others.")
    z2 = stats.norm.ppf((1 + level) / 2) ** 2
    middle = (k + z2 / 2) / (m + z2)
    half = np.sqrt(z2 * (k * (m - k) / m + z2 / 4)) / (m + z2)
    # Rounding must not leave out what was seen.
    low = np.where(k == 0, 0.0, np.maximum(middle - half, 0.0))
    high = np.where(k == m, 1.0, np.minimum(middle + half, 1.0))
    return low, high


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
    low, high = wilson(count, n, level)
    return Proportion(count, n, float(low), float(high))


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
