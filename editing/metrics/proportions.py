"""Proportions with confidence intervals, such as the rate of unsafe images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from visdiff.errors import InputError
from visdiff.stats import wilson


@dataclass(frozen=True)
class Proportion:
    """A proportion of n cases with its Wilson interval.

    Attributes:
        count: Number of positive cases, 0 to n.
        n: Number of cases, 1 or more.
        low: Lower end of the interval, in [0, 1].
        high: Upper end of the interval, in [0, 1].
    """

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The proportion, in [0, 1]."""
        return self.count / self.n


def proportion(flags: ArrayLike, level: float = 0.95) -> Proportion:
    """Returns the proportion of true flags; for a detector's output, the unsafe rate.

    Args:
        flags: (n,) booleans, n of 1 or more.
        level: Confidence level of the interval.

    Raises:
        InputError: The flags are not booleans, or there is none.
    """
    values = np.asarray(flags)
    if values.ndim != 1 or values.dtype != bool or not values.size:
        raise InputError(
            f"Expected one boolean per image and at least one, got {values.dtype} of shape "
            f"{values.shape}; compare scores with a threshold first."
        )
    count, n = int(values.sum()), values.size
    return Proportion(count, n, *wilson(count, n, level))
