"""The ceiling: the power of the comparison's test when the score is the true attribute."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from visdiff.bench.ceiling import power
from visdiff.config import StatisticsConfig
from visdiff.errors import InputError

SETTINGS = StatisticsConfig()
N = 60


def ceiling(purity: float, *, shows: tuple[Any, Any] = (np.ones(N, bool), np.zeros(N, bool)),
       scored: float = 0.5, tested: int = 5, draws: int = 100, seed: int = 0,
       settings: StatisticsConfig = SETTINGS) -> float:  # fmt: skip
    halves = [np.arange(N) < round(scored * N)] * 2
    return power(
        *shows, *halves, purity=purity, tested=tested, settings=settings,
        rng=np.random.default_rng(seed), draws=draws,
    )  # fmt: skip


def test_a_complete_difference_of_pure_sets_is_always_confirmed() -> None:
    assert ceiling(1.0) == 1


def test_lower_purity_has_less_power_and_full_mixture_only_false_alarms() -> None:
    curve = [ceiling(p) for p in (1.0, 0.8, 0.7, 0.6, 0.5)]
    assert curve[0] > 0.99
    assert curve[2] > curve[3] > curve[4]
    # At most three standard errors of 100 draws above the level of the test.
    assert curve[4] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def test_more_hypotheses_and_fewer_images_reduce_power() -> None:
    assert ceiling(0.65, tested=40) < ceiling(0.65, tested=1)
    assert ceiling(0.65, scored=0.35) < ceiling(0.65, scored=1.0)


def test_the_ceiling_is_the_power_of_the_one_sided_test() -> None:
    # With all images scored and one hypothesis, the composition and so the outcome are known.
    for purity in (0.55, 0.6, 0.7):
        a = np.arange(N) < round(purity * N)
        p = stats.mannwhitneyu(a, ~a, alternative="greater", method="asymptotic").pvalue
        auroc = 0.5 + (2 * a.mean() - 1) / 2
        expected = float(p <= SETTINGS.alpha and auroc >= SETTINGS.min_auroc)
        assert ceiling(purity, scored=1.0, tested=1, draws=3) == expected


def test_an_attribute_of_some_images_has_less_power_than_one_of_all() -> None:
    three_quarters = (np.arange(N) % 4 > 0, np.arange(N) % 4 == 0)
    assert ceiling(0.8, shows=three_quarters) < ceiling(0.8)


def test_nothing_is_confirmed_with_too_few_images() -> None:
    assert ceiling(1.0, scored=0.3) == 0
    assert ceiling(1.0, scored=0.3, settings=SETTINGS.model_copy(update={"min_scored": 10})) == 1


def test_a_pair_without_hypotheses_is_tested_with_the_truth() -> None:
    assert ceiling(1.0, tested=0) == 1


def test_a_purity_out_of_range_is_rejected() -> None:
    with pytest.raises(InputError, match="purity"):
        ceiling(0.3)
