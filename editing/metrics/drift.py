"""How much an edit moved the images of each prompt, in units of what another seed does.

A distance between features means nothing by itself. The same prompt drawn with another seed gives a
yardstick: 0 is the same image, 1 is an image as different as the next seed's. What no user would
notice among seeds is no side effect; what exceeds the floor is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from visdiff.errors import InputError


@dataclass(frozen=True)
class Drift:
    """Drift of a group of prompts.

    Attributes:
        value: Mean distance of original and edited at equal seeds, over the mean distance of
            originals at different seeds. Exactly 0 for an edit that changes nothing, about 1 for
            images that have as much to do with each other as two seeds.
        low: Lower end of the bootstrap interval over prompts; NaN with one prompt.
        high: Its upper end.
        moved: Mean distance at equal seeds.
        floor: Mean distance at different seeds: the seed-noise floor.
        by_prompt: Ratio of each prompt, in the order of first appearance.
    """

    value: float
    low: float
    high: float
    moved: float
    floor: float
    by_prompt: dict[str, float]


def drift(
    original: ArrayLike,
    edited: ArrayLike,
    prompts: Sequence[str],
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Drift:
    """Measures drift with Euclidean distances between features.

    Each prompt counts once, however many seeds it has. The ratio is of means over prompts and not
    a mean of ratios, which a prompt with a small floor would govern; numerator and denominator are
    resampled together.

    Args:
        original: (n, d) features of the original's images, finite.
        edited: (n, d) features of the edited model's images at the same prompts and seeds.
        prompts: The prompt of each row; 2 or more rows a prompt, with different seeds.
        rng: Draws the bootstrap.
        level: Of the interval.
        resamples: Bootstrap samples of prompts.

    Raises:
        InputError: The shapes do not fit, a feature is not finite, a prompt has one seed only, or
            the original's images do not differ between seeds.
    """
    first, second = np.asarray(original, np.float64), np.asarray(edited, np.float64)
    if first.ndim != 2 or first.shape != second.shape or len(prompts) != len(first):
        raise InputError(
            f"expected features of as many edited as original images and a prompt each, got "
            f"shapes {first.shape} and {second.shape} and {len(prompts)} prompts."
        )
    if not len(prompts) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("expected finite features of at least one prompt, got others.")
    rows: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    alone = [prompt for prompt, found in rows.items() if len(found) < 2]
    if alone:
        raise InputError(
            f"expected 2 or more seeds a prompt, got one for {alone[0]!r}"
            f"{f' and {len(alone) - 1} more' if len(alone) > 1 else ''}: the floor is the distance "
            "between seeds; draw more."
        )
    moved = np.array([np.linalg.norm(first[r] - second[r], axis=1).mean() for r in rows.values()])
    floor = np.array([pdist(first[r]).mean() for r in rows.values()])
    if (floor == 0).any():
        still = next(p for p, f in zip(rows, floor, strict=True) if f == 0)
        raise InputError(
            f"expected the original's images to differ between seeds, got equal ones for "
            f"{still!r}: check that each has its own seed."
        )
    low = high = float("nan")
    if len(rows) > 1:
        chosen = rng.integers(len(rows), size=(resamples, len(rows)))
        ratios = moved[chosen].sum(axis=1) / floor[chosen].sum(axis=1)
        low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Drift(
        value=float(moved.sum() / floor.sum()),
        low=low,
        high=high,
        moved=float(moved.mean()),
        floor=float(floor.mean()),
        by_prompt=dict(zip(rows, (moved / floor).tolist(), strict=True)),
    )
