"""Shares with their intervals: of images that show what was asked for, of unsafe images."""

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
