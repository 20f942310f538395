"""Drift: how far an edit moved the images of each prompt, in units of the seed-noise floor.

A distance between features has no absolute meaning. The distance between images of the same prompt
with different seeds is the unit: 0 is an identical image, 1 is an image as different as one of
another seed.
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
        value: Mean distance between original and edited image at equal seeds, divided by the mean
            distance between original images at different seeds. Exactly 0 for an edit that changes
            nothing, about 1 for images as different as those of two seeds.
        low: Lower end of the bootstrap interval over prompts; NaN with one prompt.
        high: Upper end of the interval.
        moved: Mean distance at equal seeds.
        floor: Mean distance at different seeds, the seed-noise floor.
        by_prompt: Prompt → ratio, in order of first appearance.
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
    """Returns the drift, from Euclidean distances between features.

    All prompts have equal weight, whatever their number of seeds. The value is a ratio of means
    over prompts; a mean of ratios would be dominated by prompts with a small floor. The bootstrap
    resamples numerator and denominator together.

    Args:
        original: (n, d) features of the original model's images, finite.
        edited: (n, d) features of the edited model's images for the same prompts and seeds.
        prompts: Prompt of each row; 2 or more rows per prompt, with different seeds.
        rng: Generator for the bootstrap.
        level: Confidence level of the interval.
        resamples: Number of bootstrap samples of prompts.

    Returns:
        The drift.

    Raises:
        InputError: The shapes do not match, a feature is not finite, a prompt has only one seed, or
            the original images of a prompt do not differ between seeds.
    """
    first, second = np.asarray(original, np.float64), np.asarray(edited, np.float64)
    if first.ndim != 2 or first.shape != second.shape or len(prompts) != len(first):
        raise InputError(
            f"Expected features of as many edited as original images and one prompt each, got "
            f"shapes {first.shape} and {second.shape} and {len(prompts)} prompts; pair the images."
        )
    if not len(prompts) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError(
            "Expected finite features of at least one prompt, got none, NaN or infinity; leave "
            "those images out."
        )
    rows: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    alone = [prompt for prompt, found in rows.items() if len(found) < 2]
    if alone:
        raise InputError(
            f"Expected 2 or more seeds per prompt, got one for {alone[0]!r}"
            f"{f' and {len(alone) - 1} more' if len(alone) > 1 else ''}; generate more, "
            "since drift is measured relative to the distance between seeds."
        )
    moved = np.array([np.linalg.norm(first[r] - second[r], axis=1).mean() for r in rows.values()])
    floor = np.array([pdist(first[r]).mean() for r in rows.values()])
    if (floor == 0).any():
        still = next(p for p, f in zip(rows, floor, strict=True) if f == 0)
        raise InputError(
            f"Expected the original images to differ between seeds, got equal ones for {still!r}; "
            "check that each has its own seed."
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
