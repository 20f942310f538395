r"""The closed-form solve behind UCE, TIME and RECE: one linear map on text vectors.

All of these methods ask of each layer :math:`W` that reads text

.. math:: \min_{W'} \sum_i e_i \|W' c_i - W c^*_i\|^2 + \sum_j p_j \|W' c_j - W c_j\|^2
          + \lambda \|W' - W\|_F^2

and every target is the old layer's value of some vector :math:`c^*_i`. The solution is then the
same map for every layer, :math:`W' = W M` with :math:`M = A B^{-1}`,

.. math:: A = \lambda I + \sum_i e_i c^*_i c_i^T + \sum_j p_j c_j c_j^T, \quad
          B = \lambda I + \sum_i e_i c_i c_i^T + \sum_j p_j c_j c_j^T,

so that B is factorised once for all layers. Since only edited concepts make A differ from B,
:math:`M = I + D^T R`, with rows :math:`e_i (c^*_i - c_i)` of D and :math:`R = C B^{-1}`: the change
has at most the rank of the number of edited vectors. float64 throughout; torch only.

Gandikota et al., "Unified Concept Editing in Diffusion Models" (2024), arXiv:2308.14761; Orgad et
al., "Editing Implicit Assumptions in Text-to-Image Diffusion Models" (TIME, 2023),
arXiv:2303.08084; Gong et al., "Reliable and Efficient Concept Erasure" (RECE, 2024),
arXiv:2407.12383.
"""

from dataclasses import dataclass

import torch

from visdiff.errors import InputError

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A map :math:`M = I + L^T G R` on text vectors, with G diagonal.

    Attributes:
        left: L, float64, shape (rank, d); outputs lie in the span of its rows.
        right: R, float64, shape (rank, d); inputs are read along its rows.
        gains: Diagonal of G for each layer, float64, shape (layers, rank), or None for G = I. Only
            targets that depend on the layer (uce-2024's debiasing) need it.
    """

    left: Tensor
    right: Tensor
    gains: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of rows of the factors: the most that the map's rank can be."""
        return int(self.left.shape[0])

    def moved(self, vectors: Tensor, layer: int = 0) -> Tensor:
        """Returns (M − I) applied to each row of ``vectors``, float64, shape (n, d)."""
        read = vectors.to(torch.float64) @ self.right.T
        if self.gains is not None:
            read = read * self.gains[layer]
        return read @ self.left

    def change(self, weight: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Returns factors (up, down) of the change W (M − I) of one layer.

        Args:
            weight: W, shape (out, d), of any floating-point type.
            layer: Which row of the gains is this layer's.

        Returns:
            Up, shape (out, rank), and down, shape (rank, d), float64; the change is ``up @ down``.
        """
        up = weight.to(torch.float64) @ self.left.T
        if self.gains is not None:
            up = up * self.gains[layer]
        return up, self.right


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved map and how well posed it was.

    Attributes:
        map: The map.
        lam: The λ that was used.
        condition: Estimated ratio of the largest to the smallest eigenvalue of B.
    """

    map: LinearMap
    lam: float
    condition: float


def absolute_lambda(gram: Tensor, lam_rel: float) -> float:
    """Returns λ = λ_rel · tr(B) / d for B without its ridge, so that vectors' norms do not matter.

    Text encoders differ in the norm of their states by an order of magnitude; a λ in absolute
    units that suits one is nothing or everything to another.
    """
    return lam_rel * float(gram.diagonal().sum()) / gram.shape[0]


def gram(vectors: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """Returns Σ w c cᵀ over the rows of ``vectors``, float64, shape (d, d)."""
    wide = vectors.to(torch.float64)
    scaled = wide * (weights[:, None] if isinstance(weights, Tensor) else weights)
    return scaled.T @ wide


def solve(
    statistics: Tensor, sources: Tensor, shifts: Tensor, lam: float, gains: Tensor | None = None
) -> Solution:
    """Solves for the map that moves each source by its shift, with one Cholesky factorisation.

    Args:
        statistics: B without λI: the weighted second moments of all edited and preserved vectors,
            float64, shape (d, d).
        sources: C, the edited vectors, shape (n, d).
        shifts: D, for each source its weight times (target − source), float64, shape (n, d).
        lam: λ ≥ 0, in the units of B.
        gains: Factor on each shift for each layer, shape (layers, n), or None.

    Returns:
        The map; with λ → ∞ it tends to the identity.

    Raises:
        InputError: B is singular to working precision.
    """
    b = statistics.clone()
    b.diagonal().add_(lam)
    factor, info = torch.linalg.cholesky_ex(b)
    condition = _condition(b, factor) if int(info) == 0 else float("inf")
    # Beyond this, not one digit of the solution would be right.
    if not condition < 1 / torch.finfo(torch.float64).eps:
        raise InputError(
            f"Expected statistics that determine the edit, got a singular matrix at λ = {lam:g}; "
            "raise lam (or lam_rel), or preserve more concepts."
        )
    right = torch.cholesky_solve(sources.to(torch.float64).T, factor).T.contiguous()
    found = LinearMap(shifts.to(torch.float64).contiguous(), right, gains)
    return Solution(found, lam, condition)


def revived(change: LinearMap, second: Tensor, vectors: Tensor, lam_rel: float) -> Tensor:
    r"""Finds the vectors that would bring a changed concept back (RECE).

    The e' whose new keys and values come nearest, in least squares with a ridge, to the old ones
    of e: :math:`e' = (\lambda I + M^T S M)^{-1} M^T S e` with :math:`S = \sum_l W_l^T W_l` over the
    old layers. The published form sums over the new layers, which is the same, layer by layer.

    Args:
        change: The edit so far.
        second: S, float64, shape (d, d).
        vectors: The concept's own vectors e, shape (n, d).
        lam_rel: Ridge, relative to tr(S) / d. The ridge pulls toward zero.

    Returns:
        Shape (n, d), float64.
    """
    d = second.shape[0]
    m = torch.eye(d, dtype=torch.float64) + change.left.T @ change.right
    ms = m.T @ second
    system = ms @ m
    system = (system + system.T) / 2
    system.diagonal().add_(absolute_lambda(second, lam_rel))
    factor = torch.linalg.cholesky(system)
    return torch.cholesky_solve(ms @ vectors.to(torch.float64).T, factor).T.contiguous()


def compressed(up: Tensor, down: Tensor, tolerance: float = 1e-14) -> tuple[Tensor, Tensor]:
    """Returns balanced factors of ``up @ down`` of its numerical rank.

    Factors of a solve are badly scaled and, with many paddings among the vectors, of far lower
    rank than they have rows; what is exported in single precision should be neither.

    Args:
        up: Shape (out, rank).
        down: Shape (rank, d).
        tolerance: Singular values below this share of the largest are dropped.

    Returns:
        Factors of the same product, float64; at least one column.
    """
    q, r = torch.linalg.qr(up.to(torch.float64))
    u, s, vh = torch.linalg.svd(r @ down.to(torch.float64), full_matrices=False)
    keep = max(1, int((s > tolerance * s[0]).sum())) if float(s[0]) > 0 else 1
    root = s[:keep].sqrt()
    return q @ (u[:, :keep] * root), root[:, None] * vh[:keep]


def effective_rank(change: LinearMap) -> float:
    """Returns the participation ratio (Σσ²)² / Σσ⁴ of the singular values of M − I.

    Between 1, when one direction makes all of the change, and the map's rank; 0 for no change.
    """
    left, right = change.left, change.right
    # In the cheapest order: of many edits at once the factors have more rows than columns.
    product = torch.linalg.multi_dot([right.T, left, left.T, right])
    second = float(product.diagonal().sum())
    fourth = float(product.square().sum())
    return second**2 / fourth if fourth > 0 else 0.0


def _condition(b: Tensor, factor: Tensor, steps: int = 30) -> float:
    """Estimates the condition of a positive definite matrix from its Cholesky factor.

    Power and inverse iteration from a fixed start; within a factor of two is all that is needed.
    """
    d = b.shape[0]
    # A fixed start that is no eigenvector of anything that comes up, so that runs agree.
    start = torch.cos(torch.arange(1, d + 1, dtype=torch.float64) * 1.7)
    high, low = start / start.norm(), start / start.norm()
    top = bottom = 1.0
    for _ in range(steps):
        high = b @ high
        top = float(high.norm())
        high = high / top
        low = torch.cholesky_solve(low[:, None], factor)[:, 0]
        bottom = float(low.norm())
        low = low / bottom
    return top * bottom
