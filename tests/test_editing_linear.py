"""Tests of the closed-form solve: its objective, its limits and its low-rank form."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.linear import (
    LinearMap,
    Solution,
    absolute_lambda,
    compress,
    effective_rank,
    find_revivals,
    gram,
    solve,
)
from visdiff.errors import InputError

D = 24


@dataclass(frozen=True, eq=False)
class Problem:
    """Edited vectors with weights and targets, preserved ones with weights, and a layer."""

    c: torch.Tensor
    t: torch.Tensor
    e: torch.Tensor
    preserved: torch.Tensor
    p: float
    w: torch.Tensor

    @property
    def b(self) -> torch.Tensor:
        return gram(self.c, self.e) + gram(self.preserved, self.p)

    def solved(self, lam: float) -> Solution:
        return solve(self.b, self.c, (self.t - self.c) * self.e[:, None], lam)

    def objective(self, w: torch.Tensor, lam: float) -> float:
        edited = ((self.c @ w.T - self.t @ self.w.T) ** 2).sum(1) @ self.e
        held = self.p * ((self.preserved @ (w - self.w).T) ** 2).sum()
        return float(edited + held + lam * ((w - self.w) ** 2).sum())


def problem(seed: int = 0, edited: int = 4, preserved: int = 7, out: int = 10) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    return Problem(
        random(edited, D),
        random(edited, D),
        torch.rand(edited, generator=g, dtype=torch.float64) + 0.5,
        random(preserved, D),
        0.3,
        random(out, D),
    )


def new_weight(p: Problem, lam: float) -> torch.Tensor:
    up, down = p.solved(lam).map.change(p.w)
    return p.w + up @ down


def direct(p: Problem, lam: float) -> torch.Tensor:
    """Returns the published formula for one layer, with an explicit inverse."""
    left, right = lam * p.w, lam * torch.eye(D, dtype=torch.float64)
    for c, t, e in zip(p.c, p.t, p.e, strict=True):
        left = left + e * torch.outer(p.w @ t, c)
        right = right + e * torch.outer(c, c)
    for c in p.preserved:
        left = left + p.p * torch.outer(p.w @ c, c)
        right = right + p.p * torch.outer(c, c)
    return left @ torch.linalg.inv(right)


@given(
    seed=st.integers(0, 1000),
    edited=st.integers(1, 40),
    preserved=st.integers(0, 40),
    lam=st.floats(1e-2, 1e2),
)
def test_the_low_rank_form_is_the_direct_solve(
    seed: int, edited: int, preserved: int, lam: float
) -> None:
    p = problem(seed, edited, preserved)
    expected = direct(p, lam)
    assert (new_weight(p, lam) - expected).norm() <= 1e-9 * expected.norm()


@given(seed=st.integers(0, 1000), lam=st.floats(1e-3, 10))
def test_the_solution_minimises_the_objective(seed: int, lam: float) -> None:
    p = problem(seed)
    best = new_weight(p, lam)
    g = torch.Generator().manual_seed(seed + 1)
    for size in (1e-2, 1.0):
        step = size * torch.randn(best.shape, generator=g, dtype=torch.float64)
        assert p.objective(best + step, lam) > p.objective(best, lam)


def test_preserved_values_hardly_move_as_lambda_goes_to_zero() -> None:
    p = problem()
    lam = absolute_lambda(p.b, 1e-9)
    moved = p.preserved @ (new_weight(p, lam) - p.w).T
    assert moved.norm() <= 1e-6 * (p.preserved @ p.w.T).norm()
    # The edited vectors reach their targets.
    assert (p.c @ new_weight(p, lam).T - p.t @ p.w.T).norm() <= 1e-6 * (p.t @ p.w.T).norm()


def test_nothing_moves_as_lambda_goes_to_infinity() -> None:
    p = problem()
    assert (new_weight(p, 1e14) - p.w).norm() <= 1e-9 * p.w.norm()
    assert (new_weight(p, 1.0) - p.w).norm() > 0.1 * p.w.norm()


def test_the_rank_is_at_most_the_number_of_edited_vectors() -> None:
    p = problem(edited=3)
    change = new_weight(p, 0.1) - p.w
    assert int(torch.linalg.matrix_rank(change)) == 3
    assert p.solved(0.1).map.rank == 3


@pytest.mark.parametrize("factor", [1e-2, 30.0])
def test_a_relative_lambda_is_independent_of_the_norm(factor: float) -> None:
    p = problem()
    scaled = Problem(p.c * factor, p.t * factor, p.e, p.preserved * factor, p.p, p.w)
    plain = p.solved(absolute_lambda(p.b, 1e-2)).map
    other = scaled.solved(absolute_lambda(scaled.b, 1e-2)).map
    assert torch.allclose(
        plain.left.T @ plain.right, other.left.T @ other.right, rtol=1e-9, atol=1e-12
    )


def test_gains_are_a_factor_on_each_shift_of_a_layer() -> None:
    p = problem(edited=2)
    gains = torch.tensor([[1.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
    shifts = (p.t - p.c) * p.e[:, None]
    found = solve(p.b, p.c, shifts, 0.2, gains).map
    for layer in range(2):
        up, down = found.change(p.w, layer)
        alone = solve(p.b, p.c, shifts * gains[layer][:, None], 0.2).map
        expected_up, expected_down = alone.change(p.w)
        assert torch.allclose(up @ down, expected_up @ expected_down, atol=1e-12)
        assert torch.allclose(
            found.displacement(p.preserved, layer), alone.displacement(p.preserved), atol=1e-12
        )


def test_a_singular_system_is_an_error() -> None:
    with pytest.raises(InputError, match="singular matrix at λ = 0; raise lam"):
        problem(edited=2, preserved=1).solved(0.0)


def test_the_condition_is_estimated_within_a_factor_of_two() -> None:
    p = problem(preserved=30)
    for lam in (1e-3, 1.0):
        b = p.b + lam * torch.eye(D, dtype=torch.float64)
        true = float(torch.linalg.cond(b))
        assert true / 2 <= p.solved(lam).condition <= true * 1.001


def test_revivals_minimise_the_residual() -> None:
    p = problem()
    change = p.solved(0.1).map
    layers = [problem(seed).w for seed in (5, 6)]
    second = sum((w.T @ w for w in layers), torch.zeros(D, D, dtype=torch.float64))
    ridge = 0.02
    found = find_revivals(change, p.c, ridge, second).requires_grad_()
    loss = ridge * found.square().sum()
    for w in layers:
        up, down = change.change(w)
        loss = loss + ((found @ (w + up @ down).T - p.c @ w.T) ** 2).sum()
    (slope,) = torch.autograd.grad(loss, found)
    assert slope.abs().max() < 1e-8 * float(loss.detach())


def test_nothing_is_needed_to_revive_an_unedited_concept() -> None:
    p = problem()
    none = LinearMap(torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, D, dtype=torch.float64))
    assert torch.allclose(find_revivals(none, p.c, 1e-9), p.c, rtol=1e-6)
    second = torch.outer(p.w[0], p.w[0])
    with pytest.raises(InputError, match="raise revive_lam"):
        find_revivals(none, p.c, 1e-30, second)


def test_maps_in_a_row_are_one_map() -> None:
    first, then = problem(1).solved(0.1).map, problem(2, edited=3).solved(0.3).map
    both = first.followed_by(then)
    assert torch.allclose(both.matrix(), first.matrix() @ then.matrix(), atol=1e-12)
    w = problem().w
    up, down = both.change(w)
    assert torch.allclose(w + up @ down, w @ first.matrix() @ then.matrix(), atol=1e-12)


def test_compressing_keeps_the_product_and_reduces_the_rank() -> None:
    g = torch.Generator().manual_seed(3)
    up = torch.randn((10, 3), generator=g, dtype=torch.float64)
    down = torch.randn((3, D), generator=g, dtype=torch.float64)
    wide_up, wide_down = torch.cat([up, up * 1e5], 1), torch.cat([down, down * 1e-5])
    a, b = compress(wide_up, wide_down)
    assert a.shape == (10, 3)
    assert b.shape == (3, D)
    assert torch.allclose(a @ b, wide_up @ wide_down, rtol=1e-12, atol=1e-12)
    assert torch.allclose(a.norm(dim=0), b.norm(dim=1))


def test_compressing_zero_gives_zero() -> None:
    zero = torch.zeros((4, 2), dtype=torch.float64)
    a, b = compress(zero, torch.ones((2, D), dtype=torch.float64))
    assert not (a @ b).any()


def test_effective_rank_counts_equal_directions() -> None:
    eye = torch.eye(5, D, dtype=torch.float64)
    assert effective_rank(LinearMap(eye, eye)) == pytest.approx(5)
    lopsided = LinearMap(eye * torch.tensor([1.0, 0, 0, 0, 0])[:, None], eye)
    assert effective_rank(lopsided) == pytest.approx(1)
    assert effective_rank(LinearMap(eye * 0, eye)) == 0
