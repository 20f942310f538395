"""Losses of samples, each of which draws from a generator of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Tensor = torch.Tensor
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Losses:
    """Loss values of n samples.

    Attributes:
        total: Loss of each sample, which is minimised, shape (n,).
        parts: Named parts of the loss, shape (n,) each.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


Loss = Callable[[Weights, Sequence[torch.Generator]], Losses]
"""(Trained weights by name, a CPU generator per sample) → losses.

The generators are the only source of randomness.
"""


def generator(seed: int, *key: int) -> torch.Generator:
    """Returns a CPU generator that is determined by a seed and further integers, all ≥ 0."""
    # As entropy instead of a spawn key, (1, 2) and (1, 2, 0) would give the same state.
    (state,) = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(state >> 2))


def mean_losses(
    weights: Weights, loss: Loss, seed: int, samples: int, at_once: int = 1
) -> dict[str, float]:
    """Returns the mean of each part of a loss on samples that training never draws.

    Args:
        weights: Weights to evaluate.
        loss: The loss; its total is not used.
        seed: Seed of the training; the same seed gives the same samples.
        samples: Number of samples.
        at_once: Largest number of samples per call of the loss.

    Returns:
        Name of the part → mean.
    """
    found: dict[str, list[Tensor]] = {}
    # The generators of training have two further integers, so these samples differ.
    generators = [generator(seed, i) for i in range(samples)]
    with torch.no_grad():
        for start in range(0, samples, at_once):
            # Apple's GPUs have no float64.
            for name, values in loss(weights, generators[start : start + at_once]).parts.items():
                found.setdefault(name, []).append(values.cpu().double())
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}
