"""Purity: the fraction of each set that is its own.

At purity p, round((1 − p)·n) random images of a set of n images move to the other set, from both
sets at once. Purity 1 leaves the sets unchanged; purity 0.5 mixes them fully, so that both have the
same composition for any sizes. No image is lost, and none is in both sets. Sets of equal size keep
their size, and a fraction p of each is its own. Values below 0.5 would only swap the names of the
sets and are rejected.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from visdiff.errors import InputError

T = TypeVar("T")


def mix(
    a: Sequence[T], b: Sequence[T], purity: float, rng: np.random.Generator
) -> tuple[list[T], list[T]]:
    """Mixes two sets to a purity.

    Args:
        a: The images of A.
        b: The images of B; no image is in both sets.
        purity: p, from 0.5 to 1.
        rng: Generator for the images that move, first A's, then B's.

    Returns:
        The new sets: the images that stayed, then those that moved in, each in their order.

    Raises:
        InputError: The purity is out of range.
    """
    if not 0.5 <= purity <= 1:
        raise InputError(
            f"Expected a purity from 0.5 (fully mixed) to 1 (pure), got {purity}; below 0.5 the "
            f"sets only swap their names."
        )
    moved_a, moved_b = (_sample_moved(len(side), purity, rng) for side in (a, b))
    rest_a = [x for i, x in enumerate(a) if i not in moved_a]
    rest_b = [x for i, x in enumerate(b) if i not in moved_b]
    return (
        rest_a + [x for i, x in enumerate(b) if i in moved_b],
        rest_b + [x for i, x in enumerate(a) if i in moved_a],
    )


def count_moved(n: int, purity: float) -> int:
    """Returns how many of n images move: (1 − p)·n rounded to an integer, halves up."""
    # The tolerance is for 1 − 0.9, which is slightly below 0.1; the original loses an image there.
    return math.floor((1 - purity) * n + 0.5 + 1e-9)


def _sample_moved(n: int, purity: float, rng: np.random.Generator) -> set[int]:
    return set(rng.permutation(n)[: count_moved(n, purity)].tolist())
