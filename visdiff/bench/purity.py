"""Purity: how much of each set is its own.

Of a set of n images, round((1 − p)·n) drawn at random go over to the other set, from both sides at
once: purity 1 leaves the sets as they are, 0.5 mixes them fully (each then has the same share of
both, whatever their sizes). No image is lost and none is in both sets. With sets of equal size it
is a swap: sizes stay, and a share p of each set is its own. Other texts call the same p
"1 = pure, 0 = shuffled"; below 0.5 the sets would only change their names, so it is refused.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from visdiff.errors import InputError

T = TypeVar("T")


def mixed(
    a: Sequence[T], b: Sequence[T], purity: float, rng: np.random.Generator
) -> tuple[list[T], list[T]]:
    """Mix two sets to a purity.

    Args:
        a: The images of A.
        b: Those of B; none is in both.
        purity: p, from 0.5 to 1.
        rng: Draws the images that go over, first A's, then B's.

    Returns:
        The new sets: what stayed, in its order, then what came over, in its order.

    Raises:
        InputError: The purity is out of range.
    """
    if not 0.5 <= purity <= 1:
        raise InputError(
            f"expected a purity from 0.5 (fully mixed) to 1 (pure), got {purity}: below 0.5 the "
            f"sets have only changed names."
        )
    goes_a, goes_b = (_draw(len(side), purity, rng) for side in (a, b))
    stay_a = [x for i, x in enumerate(a) if i not in goes_a]
    stay_b = [x for i, x in enumerate(b) if i not in goes_b]
    return (
        stay_a + [x for i, x in enumerate(b) if i in goes_b],
        stay_b + [x for i, x in enumerate(a) if i in goes_a],
    )


def moved(n: int, purity: float) -> int:
    """Return how many of n images go over: (1 − p)·n to the nearest whole number, halves up."""
    # 1 − 0.9 is a hair below 0.1: the original lost an image to that.
    return math.floor((1 - purity) * n + 0.5 + 1e-9)


def _draw(n: int, purity: float, rng: np.random.Generator) -> set[int]:
    return set(rng.permutation(n)[: moved(n, purity)].tolist())
