r"""The closed-form solve behind UCE, TIME and RECE: one linear map on text vectors.

For each text-conditioned layer :math:`W`, all of these methods minimise

.. math:: \min_{W'} \sum_i e_i \|W' c_i - W c^*_i\|^2 + \sum_j p_j \|W' c_j - W c_j\|^2
          + \lambda \|W' - W\|_F^2

where every target is the original layer's value of some vector :math:`c^*_i`. The solution is the
same map for every layer, :math:`W' = W M` with :math:`M = A B^{-1}`,

.. math:: A = \lambda I + \sum_i e_i c^*_i c_i^T + \sum_j p_j c_j c_j^T, \quad
          B = \lambda I + \sum_i e_i c_i c_i^T + \sum_j p_j c_j c_j^T,

so that B is factorised once for all layers. Since A and B differ only by the edited concepts,
:math:`M = I + D^T R`, with rows :math:`e_i (c^*_i - c_i)` of D and :math:`R = C B^{-1}`: the rank
of the change is at most the number of edited vectors. All computations are in float64.

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
        left: L, float64, shape (rank, d); the change lies in the span of its rows.
        right: R, float64, shape (rank, d); inputs are projected onto its rows.
        gains: Diagonal of G for each layer, float64, shape (layers, rank), or None for G = I. Only
            targets that depend on the layer (uce-2024's debiasing) need it.
    """

    left: Tensor
    right: Tensor
    gains: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of rows of the factors: an upper bound of the rank of M − I."""
        return int(self.left.shape[0])

    def displacement(self, vectors: Tensor, layer: int = 0) -> Tensor:
        """Returns (M − I) applied to each row of ``vectors``, float64, shape (n, d)."""
        projected = vectors.to(torch.float64) @ self.right.T
        if self.gains is not None:
            projected = projected * self.gains[layer]
        return projected @ self.left

    def matrix(self) -> Tensor:
        """Returns M, float64, shape (d, d); of gains that differ by layer, with their mean."""
        left = self.left if self.gains is None else self.left * self.gains.mean(0)[:, None]
        m = left.T @ self.right
        m.diagonal().add_(1.0)
        return m

    def followed_by(self, other: "LinearMap") -> "LinearMap":
        """Returns the map of W' = (W M) N, where M is this map and N the other one.

        Both must be without gains.
        """
        assert self.gains is None
        assert other.gains is None
        left = torch.cat([self.left, other.left + self.displacement(other.left)])
        return LinearMap(left, torch.cat([self.right, other.right]))

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
    """A solved map and the conditioning of its system.

    Attributes:
        map: The map.
        lam: λ.
        condition: Estimated ratio of the largest to the smallest eigenvalue of B.
        first: The map of the first solve, of a method that solves again from the edited weights.
    """

    map: LinearMap
    lam: float
    condition: float
    first: LinearMap | None = None


def absolute_lambda(gram: Tensor, lam_rel: float) -> float:
    """Returns λ = λ_rel · tr(B) / d for B without its ridge.

    This makes λ_rel independent of the norm of the vectors, which differs by an order of magnitude
    between text encoders.
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
    """Returns the map that moves each source by its shift, by one Cholesky factorisation.

    Args:
        statistics: B without λI: the weighted second moments of all edited and preserved vectors,
            float64, shape (d, d).
        sources: C, the edited vectors, shape (n, d).
        shifts: D, the weight times (target − source) of each source, float64, shape (n, d).
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
    # At this condition number no digit of the solution is reliable.
    if not condition < 1 / torch.finfo(torch.float64).eps:
        raise InputError(
            f"Expected statistics that determine the edit, got a singular matrix at λ = {lam:g}; "
            "raise lam (or lam_rel), or preserve more concepts."
        )
    right = torch.cholesky_solve(sources.to(torch.float64).T, factor).T.contiguous()
    found = LinearMap(shifts.to(torch.float64).contiguous(), right, gains)
    return Solution(found, lam, condition)


def find_revivals(
    change: LinearMap, vectors: Tensor, lam: float, second: Tensor | None = None
) -> Tensor:
    r"""Returns the vectors that would revive an edited concept (RECE).

    These are the e' whose new keys and values are nearest, by ridge regression, to the old ones of
    e: :math:`e' = (\lambda I + M^T S M)^{-1} M^T S e` with :math:`S = \sum_l W_l^T W_l` over the
    old layers. The published form sums over the new layers, which is the same, layer by layer.

    Args:
        change: The current map.
        vectors: The concept's own vectors e, shape (n, d).
        lam: λ > 0, in the units of S. The ridge pulls toward zero.
        second: S, float64, shape (d, d); None for the identity, which compares text vectors
            instead of keys and values.

    Returns:
        Shape (n, d), float64.

    Raises:
        InputError: The system is singular to working precision.
    """
    m = change.matrix()
    ms = m.T if second is None else m.T @ second
    system = ms @ m
    system = (system + system.T) / 2
    system.diagonal().add_(lam)
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info):
        raise InputError(
            f"Expected a ridge that determines the reviving vectors, got a singular matrix at "
            f"λ = {lam:g}; raise revive_lam."
        )
    return torch.cholesky_solve(ms @ vectors.to(torch.float64).T, factor).T.contiguous()


def compress(up: Tensor, down: Tensor, tolerance: float = 1e-14) -> tuple[Tensor, Tensor]:
    """Returns balanced factors of ``up @ down`` of its numerical rank.

    Factors of a solve are badly scaled and, with many padding vectors, have far more rows than
    their rank; both would harm an export in single precision.

    Args:
        up: Shape (out, rank).
        down: Shape (rank, d).
        tolerance: Singular values below this fraction of the largest are dropped.

    Returns:
        Factors of the same product, float64, of rank at least 1.
    """
    q, r = torch.linalg.qr(up.to(torch.float64))
    u, s, vh = torch.linalg.svd(r @ down.to(torch.float64), full_matrices=False)
    keep = max(1, int((s > tolerance * s[0]).sum())) if float(s[0]) > 0 else 1
    root = s[:keep].sqrt()
    return q @ (u[:, :keep] * root), root[:, None] * vh[:keep]


def effective_rank(change: LinearMap) -> float:
    """Returns the participation ratio (Σσ²)² / Σσ⁴ of the singular values of M − I.

    It lies between 1, for a change in a single direction, and the rank of the map; 0 is no change.
    """
    left, right = change.left, change.right
    # multi_dot finds the cheapest order: with many edits the factors have more rows than columns.
    product = torch.linalg.multi_dot([right.T, left, left.T, right])
    second = float(product.diagonal().sum())
    fourth = float(product.square().sum())
    return second**2 / fourth if fourth > 0 else 0.0


def _condition(b: Tensor, factor: Tensor, steps: int = 30) -> float:
    """Returns an estimate of the condition number of a positive definite matrix.

    Power and inverse iteration with its Cholesky factor; accurate to a factor of two.
    """
    d = b.shape[0]
    # A fixed start, so that runs agree, that is not an eigenvector of matrices met in practice.
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


def constrained(
    weight: Tensor, kept: Tensor, sources: Tensor, values: Tensor, ridge: float = 1e-6
) -> Tensor:
    r"""Returns the weight nearest to W on some vectors among those that map others exactly.

    .. math:: \min_{W'} \|(W' - W) K^T\|_F \quad \text{with} \quad W' C^T = V^T, \qquad
              W' = W + (V^T - W C^T) (D C^T)^{-1} D, \quad D = C (K^T K)^{-1}

    Custom Diffusion (Kumari et al., CVPR 2023, arXiv:2212.04488, equation 4).

    Args:
        weight: W, shape (out, d).
        kept: K, vectors whose outputs should change least, shape (k, d).
        sources: C, shape (n, d), linearly independent, n ≤ d.
        values: V, their outputs, shape (n, out).
        ridge: Added to the diagonal of KᵀK, relative to its mean, so that fewer than d vectors do.

    Returns:
        W', float64.

    Raises:
        InputError: The sources are not linearly independent.
    """
    base, c, v = (t.to(torch.float64) for t in (weight, sources, values))
    second = gram(kept)
    second.diagonal().add_(absolute_lambda(second, ridge))
    d = torch.cholesky_solve(c.T, torch.linalg.cholesky(second)).T
    system = d @ c.T
    if not float(torch.linalg.cond(system)) < 1e12:
        raise InputError(
            f"Expected {len(c)} linearly independent vectors to map, got dependent ones; merge "
            "fewer subjects, or subjects of different nouns."
        )
    return base + torch.linalg.solve(system, (v - c @ base.T)).T @ d
