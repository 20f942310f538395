"""Distances between two sets of images, on any encoder's features: KID and FID.

The arithmetic is torch-fidelity's (extra ``metrics``). Numbers compare only when the encoder and
its preprocessing are the same; published ones are on Inception's features.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visdiff.errors import InputError, MissingBackendError
from visdiff.torchvision_compat import ensure_torchvision


class KernelDistance(NamedTuple):
    """KID and how much it varies.

    Attributes:
        value: Squared maximum mean discrepancy, unbiased: 0 in expectation, and so now and then
            below 0, for two samples of one distribution. Often shown times 1,000.
        spread: Standard deviation over subsets; no standard error.
        subset_size: Images of each set in a subset.
    """

    value: float
    spread: float
    subset_size: int


def kid(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    subsets: int = 100,
    most: int = 1000,
) -> KernelDistance:
    """Returns the kernel distance with the cubic kernel (Bińkowski et al. 2018, arXiv:1801.01401).

    Args:
        a: (n, d) features of one set, finite.
        b: (m, d) features of the other.
        rng: Draws the subsets.
        subsets: How many to average over. 1 when a subset is all of both sets.
        most: Most images of each set in a subset; the smaller set has no more to give.

    Raises:
        InputError: The shapes do not fit, a feature is not finite, or a set has fewer than 2.
        MissingBackendError: torch-fidelity is not installed.
    """
    first, second = _checked(a, b)
    torch, metrics = _backend("metric_kid")
    size = min(len(first), len(second), most)
    whole = size == len(first) == len(second)
    found = metrics.kid_features_to_metric(
        torch.from_numpy(first),
        torch.from_numpy(second),
        kid_subsets=1 if whole else subsets,
        kid_subset_size=size,
        rng_seed=int(rng.integers(2**31)),
        verbose=False,
    )
    return KernelDistance(
        found["kernel_inception_distance_mean"],
        found["kernel_inception_distance_std"],
        size,
    )


def fid(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the Fréchet distance of two normal fits (Heusel et al. 2017, arXiv:1706.08500).

    Biased upward by a finite number of images, and strongly so below a few times d: compare only
    values of equal numbers of images, and prefer `kid`.

    Args:
        a: (n, d) features of one set, finite, n of 2 or more.
        b: (m, d) features of the other.

    Raises:
        InputError: As for `kid`.
        MissingBackendError: torch-fidelity is not installed.
    """
    first, second = _checked(a, b)
    torch, metrics = _backend("metric_fid")
    fits = [metrics.fid_features_to_statistics(torch.from_numpy(x)) for x in (first, second)]
    found = metrics.fid_statistics_to_metric(*fits, verbose=False)["frechet_inception_distance"]
    # The trace of the root comes of eigenvalues: equal sets end a rounding error below zero.
    return max(float(found), 0.0)


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    # float64: the kernel cubes inner products, and near 0 what is left is rounding.
    first, second = (np.ascontiguousarray(x, dtype=np.float64) for x in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(
            f"expected two matrices of features of one width, got shapes {first.shape} and "
            f"{second.shape}: use one encoder for both sets."
        )
    if min(len(first), len(second)) < 2:
        raise InputError(
            f"expected at least 2 images a set, got {len(first)} and {len(second)}: draw more."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("expected finite features, got others: leave those images out.")
    return first, second


def _backend(module: str) -> tuple[Any, Any]:
    from importlib import import_module

    ensure_torchvision()  # torch-fidelity imports it, whether or not somebody else did before
    try:
        return import_module("torch"), import_module(f"torch_fidelity.{module}")
    except ImportError as error:
        raise MissingBackendError(
            f"KID and FID need torch-fidelity, which cannot be imported ({error}); pip install "
            "'visdiff[metrics]'"
        ) from error
