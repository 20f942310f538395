"""The ceiling: the power of the comparison's own test when the score is the truth."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from visdiff.bench.ceiling import power
from visdiff.config import StatisticsConfig
from visdiff.errors import InputError

SETTINGS = StatisticsConfig()
N = 60


def of(purity: float, *, shows: tuple[Any, Any] = (np.ones(N, bool), np.zeros(N, bool)),
       scored: float = 0.5, tested: int = 5, draws: int = 100, seed: int = 0,
       settings: StatisticsConfig = SETTINGS) -> float:  # fmt: skip
    halves = [np.arange(N) < round(scored * N)] * 2
    return power(
        *shows, *halves, purity=purity, tested=tested, settings=settings,
        rng=np.random.default_rng(seed), draws=draws,
    )  # fmt: skip


def test_a_plain_difference_of_pure_sets_is_always_confirmed() -> None:
    assert of(1.0) == 1


def test_purity_takes_power_away_and_full_mixture_leaves_false_alarms_alone() -> None:
    curve = [of(p) for p in (1.0, 0.8, 0.7, 0.6, 0.5)]
    assert curve[0] > 0.99
    assert curve[2] > curve[3] > curve[4]
    # Three standard errors of 100 draws above the level of the test.
    assert curve[4] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def test_more_hypotheses_and_fewer_images_cost_power() -> None:
    assert of(0.65, tested=40) < of(0.65, tested=1)
    assert of(0.65, scored=0.35) < of(0.65, scored=1.0)


def test_it_is_the_power_of_the_one_sided_test() -> None:
    # All images scored and one hypothesis: each set has exactly its share, so the outcome is known.
    for purity in (0.55, 0.6, 0.7):
        a = np.arange(N) < round(purity * N)
        p = stats.mannwhitneyu(a, ~a, alternative="greater", method="asymptotic").pvalue
        auroc = 0.5 + (2 * a.mean() - 1) / 2
        expected = float(p <= SETTINGS.alpha and auroc >= SETTINGS.min_auroc)
        assert of(purity, scored=1.0, tested=1, draws=3) == expected


def test_an_attribute_of_some_images_has_less_power_than_one_of_all() -> None:
    three_quarters = (np.arange(N) % 4 > 0, np.arange(N) % 4 == 0)
    assert of(0.8, shows=three_quarters) < of(0.8)


def test_nothing_is_confirmed_with_too_few_images() -> None:
    assert of(1.0, scored=0.3) == 0
    assert of(1.0, scored=0.3, settings=SETTINGS.model_copy(update={"min_scored": 10})) == 1


def test_a_pair_without_hypotheses_has_the_truths_power() -> None:
    assert of(1.0, tested=0) == 1


def test_a_purity_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="purity"):
        of(0.3)
