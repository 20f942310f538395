"""Distances between two sets of images, KID and FID, on features of any encoder.

They are computed by torch-fidelity (extra ``metrics``). Values are comparable only for the same
encoder and preprocessing; published values use Inception features.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visdiff.errors import InputError, MissingBackendError
from visdiff.torchvision_compat import ensure_torchvision


class KernelDistance(NamedTuple):
    """A KID value and its variation.

    Attributes:
        value: Squared maximum mean discrepancy, unbiased. For two samples of one distribution its
            expectation is 0, so it can be negative. Often reported times 1,000.
        spread: Standard deviation over subsets; not a standard error.
        subset_size: Images of each set per subset.
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
        rng: Generator for the subsets.
        subsets: Number of subsets to average over; 1 is used if a subset covers both sets.
        most: Most images of each set per subset; limited by the smaller set.

    Returns:
        The kernel distance.

    Raises:
        InputError: The shapes do not match, a feature is not finite, or a set has fewer than 2
            images.
        MissingBackendError: torch-fidelity is not installed.
    """
    first, second = _checked(a, b)
    torch, metrics = _backend("metric_kid")
    size = min(len(first), len(second), most)
    full = size == len(first) == len(second)
    result = metrics.kid_features_to_metric(
        torch.from_numpy(first),
        torch.from_numpy(second),
        kid_subsets=1 if full else subsets,
        kid_subset_size=size,
        rng_seed=int(rng.integers(2**31)),
        verbose=False,
    )
    return KernelDistance(
        result["kernel_inception_distance_mean"],
        result["kernel_inception_distance_std"],
        size,
    )


def fid(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the Fréchet distance of two fitted normals (Heusel et al. 2017, arXiv:1706.08500).

    Biased upward for a finite number of images, strongly so below a few times d. Compare only
    values from equal numbers of images, and prefer `kid`.

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
    value = metrics.fid_statistics_to_metric(*fits, verbose=False)["frechet_inception_distance"]
    # For equal sets, rounding errors of the eigenvalues can give a value just below zero.
    return max(float(value), 0.0)


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    # float64: the kernel cubes inner products, and differences near 0 would be rounding errors.
    first, second = (np.ascontiguousarray(x, dtype=np.float64) for x in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(
            f"Expected two matrices of features of one width, got shapes {first.shape} and "
            f"{second.shape}; use one encoder for both sets."
        )
    if min(len(first), len(second)) < 2:
        raise InputError(
            f"Expected at least 2 images per set, got {len(first)} and {len(second)}; add more."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("Expected finite features, got NaN or infinity; leave those images out.")
    return first, second


def _backend(module: str) -> tuple[Any, Any]:
    from importlib import import_module

    ensure_torchvision()  # torch-fidelity imports torchvision
    try:
        return import_module("torch"), import_module(f"torch_fidelity.{module}")
    except ImportError as error:
        raise MissingBackendError(
            f"Expected torch-fidelity for KID and FID, got an import error ({error}); pip install "
            "'visdiff[metrics]'"
        ) from error
