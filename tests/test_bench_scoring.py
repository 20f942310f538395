"""Purity, accuracy and agreement: properties for all sets and verdicts."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdiff.bench.purity import count_moved, mix
from visdiff.bench.scoring import acc_at, accuracy, agreement
from visdiff.errors import InputError

SCORES = st.sampled_from([0.0, 0.5, 1.0])
VERDICTS = st.lists(SCORES, max_size=12)
UNSCORED_VERDICTS = st.lists(st.one_of(st.none(), SCORES), max_size=12)
PURITY = st.floats(0.5, 1, allow_nan=False)
SIZES = st.integers(0, 60)


def sets(n: int, m: int) -> tuple[list[str], list[str]]:
    return [f"a{i}" for i in range(n)], [f"b{i}" for i in range(m)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- purity -------------------------------------------------------------------------------------


@given(SIZES, SIZES, PURITY, st.integers(0, 5))
def test_no_image_is_lost_and_none_is_in_both(n: int, m: int, purity: float, seed: int) -> None:
    a, b = sets(n, m)
    new_a, new_b = mix(a, b, purity, rng(seed))
    assert sorted(new_a + new_b) == sorted(a + b)
    assert not set(new_a) & set(new_b)


@given(SIZES, PURITY, st.integers(0, 5))
def test_equal_sets_swap_the_same_number_and_keep_their_size(
    n: int, purity: float, seed: int
) -> None:
    a, b = sets(n, n)
    new_a, new_b = mix(a, b, purity, rng(seed))
    assert len(new_a) == len(new_b) == n
    moved = len(set(a) & set(new_b))
    assert moved == len(set(b) & set(new_a))
    assert abs(moved - (1 - purity) * n) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("purity", "moved"), [(1.0, 0), (0.9, 10), (0.8, 20), (0.7, 30), (0.6, 40), (0.5, 50)]
)
def test_the_published_sizes_move_whole_tenths(purity: float, moved: int) -> None:
    # The original implementation truncates (9, 19, …) and moves the first images.
    assert count_moved(100, purity) == moved
    a, b = sets(100, 100)
    new_a, _ = mix(a, b, purity, rng())
    assert sum(x.startswith("b") for x in new_a) == moved


def test_halves_are_rounded_up_and_not_to_even() -> None:
    assert [count_moved(n, 0.5) for n in (1, 3, 5)] == [1, 2, 3]


def test_pure_sets_are_unchanged() -> None:
    a, b = sets(7, 4)
    assert mix(a, b, 1.0, rng()) == (a, b)


@given(st.integers(1, 40).map(lambda n: 2 * n), st.integers(1, 40).map(lambda n: 2 * n))
def test_fully_mixed_sets_of_any_size_have_the_same_composition(n: int, m: int) -> None:
    a, b = sets(n, m)
    shares = [sum(x.startswith("a") for x in side) / len(side) for side in mix(a, b, 0.5, rng())]
    assert shares[0] == pytest.approx(shares[1]) == pytest.approx(n / (n + m))


def test_moved_images_are_random_and_seeded() -> None:
    a, b = sets(50, 50)
    one, again, other = (mix(a, b, 0.8, rng(seed)) for seed in (1, 1, 2))
    assert one == again != other
    moved = [[x for x in one[1] if x.startswith("a")], [x for x in one[0] if x.startswith("b")]]
    assert moved[0] != a[:10]
    assert moved[1] != b[:10]
    # The images that leave A and those that leave B are drawn independently.
    assert [x[1:] for x in moved[0]] != [x[1:] for x in moved[1]]


@pytest.mark.parametrize("purity", [0.49, -0.1, 1.01, math.nan])
def test_an_invalid_purity_is_rejected(purity: float) -> None:
    with pytest.raises(InputError, match="fully mixed"):
        mix([1], [2], purity, rng())


# --- accuracy -----------------------------------------------------------------------------------


@given(VERDICTS, st.integers(1, 12), st.integers(1, 12))
def test_acc_at_k_never_falls_with_k(verdicts: list[float], j: int, k: int) -> None:
    low, high = sorted((j, k))
    first, more, all_ = (acc_at(verdicts, n) for n in (low, high, None))
    assert first is not None
    assert more is not None
    assert all_ is not None
    assert first <= more <= all_


@given(UNSCORED_VERDICTS, st.integers(1, 12))
def test_an_unscored_verdict_never_counts_as_wrong(verdicts: list[float | None], k: int) -> None:
    value = acc_at(verdicts, k)
    outcomes = {
        acc_at([other if v is None else v for v in verdicts], k) for other in (0.0, 0.5, 1.0)
    }
    # Known exactly when no value of the missing verdicts could change it.
    assert value == (outcomes.pop() if len(outcomes) == 1 else None)


def test_acc_at_k_is_the_best_and_not_the_mean() -> None:
    assert acc_at([0, 0.5, 1, 0, 0, 1], 1) == 0
    assert acc_at([0, 0.5, 1, 0, 0, 1], 2) == 0.5
    assert acc_at([0, 0.5, 1, 0, 0, 1], 5) == 1
    assert acc_at([0, 0, 0, 0, 0, 1], 5) == 0
    assert acc_at([0, 0, 0, 0, 0, 1], None) == 1


def test_fewer_than_k_hypotheses_and_none_at_all() -> None:
    assert acc_at([0.5], 5) == 0.5
    assert acc_at([], 1) == acc_at([], 5) == acc_at([], None) == 0
    with pytest.raises(InputError, match="1 or more"):
        acc_at([1.0], 0)


def test_failed_and_unscored_pairs_are_excluded_and_counted() -> None:
    pairs: list[Sequence[float | None] | None] = [[1.0], [0.0], None, [None, 1.0], []]
    one = accuracy(pairs, 1, rng())
    assert (one.value, one.n, one.unscored) == (pytest.approx(1 / 3), 3, 2)
    five = accuracy(pairs, 5, rng())
    assert (five.value, five.n, five.unscored) == (0.5, 4, 1)
    nothing = accuracy([None], 1, rng())
    assert (nothing.value, nothing.ci, nothing.n, nothing.unscored) == (None, None, 0, 1)
    assert accuracy([], 1, rng()).value is None


@given(st.lists(VERDICTS, min_size=2, max_size=30), st.integers(1, 6))
@settings(max_examples=25)
def test_the_interval_contains_the_value(pairs: list[list[float]], k: int) -> None:
    found = accuracy(pairs, k, rng(), resamples=400)
    assert found.ci is not None
    assert found.value is not None
    # Bootstrap means are within the range of the values, and near their mean.
    assert 0 <= found.ci[0] <= found.ci[1] <= 1
    assert found.ci[0] - 0.05 <= found.value <= found.ci[1] + 0.05


def test_the_interval_has_its_nominal_coverage() -> None:
    truth, draws, hits = 0.7, rng(3), 0
    for seed in range(200):
        pairs = [[float(x)] for x in draws.random(150) < truth]
        ci = accuracy(pairs, 1, rng(seed), resamples=400).ci
        assert ci is not None
        hits += ci[0] <= truth <= ci[1]
    assert 0.89 <= hits / 200 <= 0.99


def test_the_bootstrap_is_seeded_and_wider_at_a_higher_level() -> None:
    pairs = [[float(i % 3 == 0)] for i in range(60)]
    one, again = (accuracy(pairs, 1, rng(4)) for _ in range(2))
    wide = accuracy(pairs, 1, rng(4), level=0.99)
    assert one == again
    assert one.ci is not None
    assert wide.ci is not None
    assert wide.ci[0] < one.ci[0] < one.ci[1] < wide.ci[1]


# --- agreement ----------------------------------------------------------------------------------


@given(st.lists(SCORES, min_size=1, max_size=40))
@settings(max_examples=40)
def test_a_judge_agrees_with_itself(scores: list[float]) -> None:
    found = agreement(scores, scores)
    assert found.observed == 1
    # Kappa is undefined (0/0) when all scores are equal.
    expected = pytest.approx(1) if len(set(scores)) > 1 else None
    assert found.kappa == expected
    assert found.weighted_kappa == expected
    assert sum(map(sum, found.table)) == len(scores)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=40))
@settings(max_examples=40)
def test_agreement_is_symmetric_and_its_table_is_transposed(
    both: list[tuple[float, float]],
) -> None:
    first, second = ([pair[i] for pair in both] for i in (0, 1))
    there, back = agreement(first, second), agreement(second, first)
    assert there.observed == back.observed
    assert there.kappa == pytest.approx(back.kappa, nan_ok=True)
    assert there.table == tuple(zip(*back.table, strict=True))


def test_kappa_of_a_worked_example() -> None:
    # 2 × 2 of Cohen's kind: observed 0.7, expected 0.5, kappa 0.4.
    first = [1.0] * 25 + [0.0] * 25
    second = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    found = agreement(first, second)
    assert found.observed == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.table == ((15, 0, 10), (0, 0, 0), (5, 0, 20))


def test_larger_disagreement_has_more_weight() -> None:
    base = [0.0, 0.5, 1.0] * 10
    near = [0.5, *base[1:]]
    far = [1.0, *base[1:]]
    close, wide = agreement(base, near), agreement(base, far)
    assert close.observed == wide.observed
    assert close.weighted_kappa is not None
    assert wide.weighted_kappa is not None
    assert close.weighted_kappa > wide.weighted_kappa


def test_unscored_claims_are_counted_and_excluded() -> None:
    found = agreement([1.0, None, 0.0, None], [1.0, 1.0, None, None])
    assert (found.n, found.unscored, found.observed) == (1, 3, 1.0)
    nothing = agreement([None], [None])
    assert (nothing.n, nothing.observed, nothing.kappa) == (0, None, None)
    with pytest.raises(InputError, match="same claims"):
        agreement([1.0], [])
