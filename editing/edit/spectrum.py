"""Singular value decompositions of weights, kept on disk.

The decompositions of a whole UNet take minutes, and every use of spectral shifts (training,
applying, export) needs those of the same weights. Large ones are therefore stored, by the digest of
the weight, in the folder "spectra" of visdiff's cache.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from editing.linear import Tensor
from editing.pipelines.weights import tensor_digest
from visdiff.cache import Cache
from visdiff.errors import InputError
from visdiff.files import write_whole

logger = logging.getLogger(__name__)

LIMIT = 24 * 2**30
"""Largest size of the folder in bytes: the spectra of a UNet of SDXL take 12 GB."""

STORED_FROM = 2**16
"""Smallest number of elements of a weight whose decomposition is stored."""


@dataclass(frozen=True, eq=False)
class Singular:
    """W = U diag(σ) Vᵀ, for a weight as a matrix of r rows and c columns and k = min(r, c).

    Attributes:
        u: Shape (r, k), float64; the entry of largest size of each column is positive.
        sigma: Shape (k,), float64, descending, not negative.
        vt: Shape (k, c), float64.
    """

    u: Tensor
    sigma: Tensor
    vt: Tensor


def singular(weight: Tensor, folder: Path | None = None, limit: int = LIMIT) -> Singular:
    """Returns the singular value decomposition of a weight, from disk if it is there.

    The values of the weight are taken as float32. Singular vectors are rounded to float32, so that
    a stored decomposition equals a new one bit for bit; U diag(σ) Vᵀ agrees with the weight to
    single precision.

    Args:
        weight: Shape (out, …), at least two dimensions; seen as the matrix (out, in · h · w).
        folder: Where decompositions are kept; default: "spectra" in visdiff's cache.
        limit: Largest size of the folder in bytes; the least recently used files are removed.

    Returns:
        The decomposition, on the CPU.

    Raises:
        InputError: The weight has fewer than two dimensions, or values that are not finite.
    """
    matrix = _as_matrix(weight)
    if matrix.numel() < STORED_FROM:
        return _unpack(_decompose(matrix))
    digest = tensor_digest(matrix)[:64]
    folder = Cache().directory / "spectra" if folder is None else folder
    path = folder / f"{matrix.shape[0]}x{matrix.shape[1]}-{digest}.safetensors"
    stored = _read(path, matrix)
    if stored is None:
        stored = _decompose(matrix)
        _write(path, stored, limit)
    return _unpack(stored)


def _as_matrix(weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        raise InputError(
            f"Expected a weight of two or more dimensions, got shape {tuple(weight.shape)}; "
            "shift a vector as a whole or by element instead."
        )
    matrix = weight.detach().to(device="cpu", dtype=torch.float32).flatten(1)
    if not torch.isfinite(matrix).all():
        raise InputError(
            "Expected finite weights, got infinite or undefined values; load the model again."
        )
    return matrix


def _decompose(matrix: Tensor) -> dict[str, Tensor]:
    u, sigma, vt = _svd(matrix.to(torch.float64))
    # Either sign of a pair of vectors is valid; libraries differ in which they return.
    largest = u.abs().argmax(dim=0)
    sign = torch.where(u[largest, torch.arange(u.shape[1])] < 0, -1.0, 1.0).to(u.dtype)
    u, vt = u * sign, vt * sign[:, None]
    return {
        "u": u.to(torch.float32).contiguous(),
        "sigma": sigma,
        "vt": vt.to(torch.float32).contiguous(),
    }


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = matrix.shape
    if rows > columns:
        u, sigma, vt = _svd(matrix.T)
        return vt.T, sigma, u.T
    # W = L Qᵀ with a square L: five times as fast as LAPACK's own way on a convolution's weight.
    q, r = torch.linalg.qr(matrix.T)
    u, sigma, vt = torch.linalg.svd(r.T, full_matrices=False)
    return u, sigma, vt @ q.T


def _unpack(stored: dict[str, Tensor]) -> Singular:
    u, sigma, vt = (stored[name].to(torch.float64) for name in ("u", "sigma", "vt"))
    return Singular(u, sigma, vt)


def _read(path: Path, matrix: Tensor) -> dict[str, Tensor] | None:
    """Returns a stored decomposition, or None if there is none or it is damaged."""
    try:
        stored = load_file(path)
        u, sigma, vt = stored["u"], stored["sigma"], stored["vt"]
    except (OSError, SafetensorError, KeyError):
        return None
    k = min(matrix.shape)
    shapes = [tuple(t.shape) for t in (u, sigma, vt)]
    if shapes != [(matrix.shape[0], k), (k,), (k, matrix.shape[1])]:
        return None
    # Flipped bits leave a readable file: one product with a vector finds them.
    probe = torch.cos(torch.arange(matrix.shape[1], dtype=torch.float64))
    found = u.double() @ (sigma.double() * (vt.double() @ probe))
    expected = matrix.double() @ probe
    if not float((found - expected).norm()) <= 1e-5 * float(sigma[0]) * float(probe.norm()):
        return None
    with suppress(OSError):
        os.utime(path)
    return stored


def _write(path: Path, stored: dict[str, Tensor], limit: int) -> None:
    size = sum(t.nbytes for t in stored.values())
    if size > limit:
        return
    try:
        _make_room(path.parent, limit - size)
        write_whole(path, lambda part: save_file(stored, part))
    except (OSError, SafetensorError) as error:
        logger.warning("a singular value decomposition was not kept on disk: %s", error)


def _make_room(folder: Path, limit: int) -> None:
    """Removes the least recently used files until the others take ``limit`` bytes at most."""
    files = []
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        with suppress(OSError):
            path.unlink()
        total -= size
