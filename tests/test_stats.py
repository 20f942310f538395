"""The statistics, checked against theorems, reference implementations and simulations."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats as reference
from sklearn.metrics import roc_auc_score

from visdiff import stats
from visdiff.stats.redundancy import spearman

NAN = math.nan


def two_sets(n_a: int, n_b: int) -> np.ndarray:
    return np.repeat([True, False], [n_a, n_b])


def normal_scores(rng: np.random.Generator, h: int, n_a: int, n_b: int, area: float) -> np.ndarray:
    """Draws scores whose AUROC is `area`."""
    shift = math.sqrt(2) * reference.norm.ppf(area)
    return rng.normal(size=(h, n_a + n_b)) + shift * two_sets(n_a, n_b)


def share_within(bounds: np.ndarray, truth: float) -> float:
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


@st.composite
def scored_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties or none, of any size, some missing, and a membership."""
    n = draw(st.integers(2, 30))
    elements = draw(
        st.sampled_from(
            [
                st.sampled_from([0.0, 1.0]),
                st.integers(-3, 3).map(float),
                st.floats(-1e30, 1e30),
                st.sampled_from([0.0, 1.0, 2.0, NAN]),
                st.floats(0, 1) | st.just(NAN),
            ]
        )
    )
    scores = draw(npst.arrays(np.float64, (draw(st.integers(1, 4)), n), elements=elements))
    return scores, draw(npst.arrays(np.bool_, n))


# --- auroc ----------------------------------------------------------------------------------


@given(scored_sets())
def test_auroc_equals_sklearn(case):
    scores, is_a = case
    areas = stats.auroc(scores, is_a)
    assert areas.shape == (len(scores),)
    assert areas.dtype == np.float64
    for row, area in zip(scores, areas, strict=True):
        known = ~np.isnan(row)
        if len(set(is_a[known])) == 2:
            assert abs(area - roc_auc_score(is_a[known], row[known])) <= 1e-12
        else:
            assert np.isnan(area)


@given(scored_sets())
def test_exchanging_the_sets_mirrors_auroc_and_its_interval(case):
    scores, is_a = case
    np.testing.assert_allclose(
        stats.auroc(scores, is_a), 1 - stats.auroc(scores, ~is_a), atol=1e-12
    )
    np.testing.assert_allclose(
        stats.delong_interval(scores, is_a),
        1 - stats.delong_interval(scores, ~is_a)[:, ::-1],
        atol=1e-9,
    )


@given(scored_sets())
def test_auroc_depends_on_the_order_only(case):
    scores, is_a = case
    assume(np.isnan(scores).all() or np.nanmax(np.abs(scores)) < 100)
    # Multiplying by a power of two keeps every order and every tie.
    np.testing.assert_array_equal(
        stats.auroc(scores, is_a), stats.auroc(np.float64(8) * scores, is_a)
    )


def test_auroc_of_empty_sets_missing_and_constant_scores():
    is_a = two_sets(2, 2)
    scores = [[NAN] * 4, [NAN, NAN, 1, 2], [1, 2, NAN, NAN], [7, 7, 7, 7], [np.inf, 1, -np.inf, 0]]
    np.testing.assert_array_equal(stats.auroc(scores, is_a), [NAN, NAN, NAN, 0.5, 1.0])
    assert np.isnan(stats.auroc([[1.0, 2.0]], np.array([True, True]))).all()
    assert stats.auroc(np.empty((0, 4)), is_a).shape == (0,)
    assert np.isnan(stats.auroc(np.empty((3, 0)), np.empty(0, bool))).all()


def test_auroc_in_blocks_equals_auroc_at_once(monkeypatch):
    scores, is_a = np.random.default_rng(1).normal(size=(7, 11)), two_sets(5, 6)
    at_once = stats.auroc(scores, is_a)
    monkeypatch.setattr("visdiff.stats.roc._SORTED_BLOCK", 24)
    np.testing.assert_array_equal(stats.auroc(scores, is_a), at_once)


@pytest.mark.parametrize("levels", [2, 40, 10**9])
def test_auroc_of_single_precision_is_the_share_of_pairs(levels: int) -> None:
    """Few ties, as among tens of thousands of cosines, and many: all pairs are counted."""
    rng = np.random.default_rng(levels)
    scores = (rng.integers(0, levels, (3, 1200)) / levels).astype(np.float32)
    scores[:, 7] = scores[:, 900]
    is_a = rng.random(1200) < 0.3
    pairs = scores[:, is_a, None] - scores[:, None, ~is_a]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean(axis=(1, 2))
    np.testing.assert_allclose(stats.auroc(scores, is_a), expected, rtol=0, atol=1e-12)


def test_auroc_of_single_precision_counts_ties_across_the_sets_and_zeros_of_either_sign():
    values = np.array([-3.5, -1e-40, -0.0, 0.0, 1e-45, 0.25, 3e38], np.float32)
    scores = np.random.default_rng(2).choice(values, size=(50, 40))
    is_a = two_sets(15, 25)
    a, b = scores[:, is_a, None], scores[:, None, ~is_a]
    expected = (a > b).mean(axis=(1, 2)) + (a == b).mean(axis=(1, 2)) / 2
    np.testing.assert_allclose(stats.auroc(scores, is_a), expected, atol=1e-12)
    distinct = np.random.default_rng(3).normal(size=(5, 200)).astype(np.float32)
    areas = stats.auroc(distinct, np.arange(200) % 3 == 0)
    by_sklearn = [roc_auc_score(np.arange(200) % 3 == 0, row) for row in distinct]
    np.testing.assert_allclose(areas, by_sklearn, atol=1e-12)


@pytest.mark.parametrize(
    "is_a", [np.array([1, 0, 1]), np.array([True, False]), np.array([[True, False, True]])]
)
def test_membership_that_is_not_a_mask_is_rejected(is_a):
    with pytest.raises(ValueError, match="Expected is_a as 3 booleans"):
        stats.auroc([[1.0, 2.0, 3.0]], is_a)


def test_one_dimensional_scores_are_rejected():
    with pytest.raises(ValueError, match="2 dimensions"):
        stats.auroc([1.0, 2.0], np.array([True, False]))


# --- intervals ------------------------------------------------------------------------------


@given(scored_sets(), st.floats(0.5, 0.999))
def test_delong_interval_contains_its_estimate_and_has_a_width(case, level):
    scores, is_a = case
    areas = stats.auroc(scores, is_a)
    bounds = stats.delong_interval(scores, is_a, level)
    known = ~np.isnan(areas)
    assert np.isnan(bounds[~known]).all()
    low, high = bounds[known].T
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= areas[known] + 1e-12).all()
    assert (areas[known] <= high + 1e-12).all()
    assert (high > low).all()


def test_delong_interval_has_delongs_variance_in_large_sets():
    rng = np.random.default_rng(2)
    scores, is_a = rng.integers(0, 6, size=(1, 6000)).astype(float), two_sets(2600, 3400)
    scores[0, [3, 20, 4000]] = NAN
    a, b = scores[0, is_a] + 1, scores[0, ~is_a]
    scores[0, is_a] += 1
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    kernel = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    variance = kernel.mean(1).var(ddof=1) / len(a) + kernel.mean(0).var(ddof=1) / len(b)
    half = 1.959963985 * math.sqrt(variance)
    expected = kernel.mean() + np.array([-half, half])
    np.testing.assert_allclose(stats.delong_interval(scores, is_a)[0], expected, atol=2e-4)


@pytest.mark.parametrize("area", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("sizes", [(30, 30), (20, 100)])
def test_delong_covers_the_truth_95_times_in_100(area, sizes):
    scores = normal_scores(np.random.default_rng(3), 2000, sizes[0], sizes[1], area)
    bounds = stats.delong_interval(scores, two_sets(*sizes))
    assert 0.93 <= share_within(bounds, area) <= 0.99


@pytest.mark.parametrize("sizes", [(25, 1000), (1000, 25), (20, 20)])
@pytest.mark.parametrize("kind", ["normal", "unequal spread", "two values"])
def test_intervals_near_one_cover_in_unequal_sets(sizes, kind):
    # On the logit scale, DeLong's interval covers 86, 68 and 41 % of these at 25 against 1,000.
    rng, n = np.random.default_rng(4), 800
    if kind == "two values":
        truth, shares = 0.98, np.repeat([0.98, 0.02], sizes)
        scores = (rng.random((n, sum(sizes))) < shares).astype(float)
    else:
        truth, spread = 0.98, 3.0 if kind == "unequal spread" else 1.0
        shift = math.sqrt(1 + spread**2) * reference.norm.ppf(truth)
        scores = rng.normal(size=(n, sum(sizes)))
        scores[:, : sizes[0]] = scores[:, : sizes[0]] * spread + shift
    assert share_within(stats.delong_interval(scores, two_sets(*sizes)), truth) >= 0.93


def test_perfect_separation_gives_the_exact_bound():
    bounds = stats.delong_interval([[3.0, 4, 5, 0, 1, 2, 2]], two_sets(3, 4))
    np.testing.assert_allclose(bounds, [[0.025 ** (1 / 3), 1.0]])
    # An AUROC at the lower bound separates the sets perfectly with probability 0.025 at most.
    scores = normal_scores(np.random.default_rng(4), 20_000, 3, 4, bounds[0, 0])
    assert np.mean(stats.auroc(scores, two_sets(3, 4)) == 1) <= 0.025 + 0.003


def pairs_by_prompt(
    rng: np.random.Generator, h: int, prompts: int, seeds: int, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws scores with a large effect per prompt and independent noise per image."""
    group = np.repeat(np.arange(prompts), seeds)
    prompt = rng.normal(size=(h, prompts))[:, group]
    noise = 0.5 * rng.normal(size=(2, h, len(group)))
    return prompt + noise[0] + shift, prompt + noise[1], group


def test_bootstrap_over_prompts_has_coverage_and_is_narrower_than_delong():
    rng = np.random.default_rng(5)
    a, b, group = pairs_by_prompt(rng, 200, prompts=25, seeds=4, shift=0.6)
    # AUROC between images of different prompts; 1 comparison in 25 is within a prompt.
    apart = reference.norm.cdf(0.6 / math.sqrt(2 * 1.25))
    within = reference.norm.cdf(0.6 / math.sqrt(2 * 0.25))
    truth = float(apart + (within - apart) / 25)
    bounds = stats.paired_interval(a, b, group, rng, n_resamples=500)
    assert 0.90 <= share_within(bounds, truth) <= 0.99
    # Pairs share their prompt: intervals for independent images would be far too wide.
    independent = stats.delong_interval(np.hstack([a, b]), two_sets(100, 100))
    assert np.median(np.ptp(bounds, axis=1)) < 0.8 * np.median(np.ptp(independent, axis=1))


def test_bootstrap_resamples_equal_sklearn_with_repeated_images():
    from visdiff.stats.roc import _weighted_areas

    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 5, size=(2, 12)).astype(float)
    a[2] = b[7] = NAN
    weights = rng.integers(0, 4, size=(12, 9)).astype(float)
    for column, area in zip(weights.T.astype(int), _weighted_areas(a, b, weights), strict=True):
        left, right = np.repeat(a, column), np.repeat(b, column)
        left, right = left[~np.isnan(left)], right[~np.isnan(right)]
        truth = roc_auc_score(two_sets(len(left), len(right)), np.concatenate([left, right]))
        assert area == pytest.approx(truth, abs=1e-12)


def test_bootstrap_interval_never_has_zero_width():
    rng = np.random.default_rng(7)
    apart = stats.paired_interval([[5.0, 6, 7, 8]], [[1.0, 2, 3, 4]], [0, 0, 1, 1], rng)
    np.testing.assert_allclose(apart, [[0.025, 1.0]])
    single = stats.paired_interval([[1.0, 3]], [[2.0, 0]], ["a cat", "a cat"], rng)
    assert np.ptp(single) > 0.5
    assert np.isnan(stats.paired_interval([[NAN, NAN]], [[2.0, 0]], [0, 1], rng)).all()
    sparse = stats.paired_interval([[1.0, NAN, NAN]], [[2.0, NAN, 0]], [0, 1, 2], rng)
    assert np.ptp(sparse) > 0


def test_paired_interval_rejects_shapes_that_do_not_match():
    with pytest.raises(ValueError, match="of one shape"):
        stats.paired_interval([[1.0, 2]], [[1.0, 2]], [0], np.random.default_rng(0))


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_out_of_range_are_rejected(level):
    with pytest.raises(ValueError, match="confidence level"):
        stats.delong_interval([[1.0, 2.0]], two_sets(1, 1), level)


# --- tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(40, 40), (25, 120)])
def test_mann_whitney_is_uniform_without_a_difference(sizes):
    scores = np.random.default_rng(8).normal(size=(2000, sum(sizes)))
    p = stats.mann_whitney(scores, two_sets(*sizes))
    assert reference.kstest(p, "uniform").pvalue > 0.01
    assert abs(np.mean(p <= 0.05) - 0.05) < 0.015


def test_mann_whitney_keeps_its_level_with_heavy_ties():
    scores = np.random.default_rng(9).integers(0, 2, size=(3000, 60)).astype(float)
    assert np.mean(stats.mann_whitney(scores, two_sets(30, 30)) <= 0.05) <= 0.06


def test_mann_whitney_keeps_its_level_with_rare_words_in_unequal_sets():
    rng, n = np.random.default_rng(12), 3000
    is_a = two_sets(25, 1000)
    scores = (rng.random((n, 1025)) < 0.03).astype(float)
    p, q = stats.mann_whitney(scores, is_a), stats.mann_whitney(-scores, is_a)
    clusters = stats.clustered_rank_test(scores[:1000], is_a, np.arange(1025))
    for level in (0.05, 0.01, 0.002):
        allowed = level + 3 * math.sqrt(level / n)
        assert np.mean(p <= level) <= allowed
        assert np.mean(q <= level) <= allowed
        assert np.mean(clusters <= level) <= level + 3 * math.sqrt(level / 1000)
    # Scores without ties are tested as before.
    plain = rng.normal(size=(3, 1025))
    expected = reference.mannwhitneyu(
        plain[:, is_a], plain[:, ~is_a], alternative="greater", axis=1, method="asymptotic"
    )
    np.testing.assert_allclose(stats.mann_whitney(plain, is_a), expected.pvalue)


@given(scored_sets())
def test_mann_whitney_equals_scipy_row_by_row(case):
    scores, is_a = case
    for row, p in zip(scores, stats.mann_whitney(scores, is_a), strict=True):
        a, b = row[is_a & ~np.isnan(row)], row[~is_a & ~np.isnan(row)]
        if not (len(a) and len(b)):
            assert np.isnan(p)
        elif len({*a, *b}) == 1:
            assert p == 1
        else:
            expected = reference.mannwhitneyu(a, b, alternative="greater").pvalue
            assert p >= expected - 1e-12
            # Ties in sets of unequal size may have a skewed rank sum.
            if len(a) == len(b) or len({*a, *b}) == len(a) + len(b):
                assert p == pytest.approx(expected, abs=1e-12)


def test_mann_whitney_of_float32_is_computed_in_float64():
    scores = np.random.default_rng(10).normal(size=(3, 60)).astype(np.float32)
    exact = stats.mann_whitney(scores.astype(np.float64), two_sets(30, 30))
    np.testing.assert_array_equal(stats.mann_whitney(scores, two_sets(30, 30)), exact)


def test_sign_flip_is_uniform_on_pairs_without_a_difference():
    rng = np.random.default_rng(11)
    a, b, _ = pairs_by_prompt(rng, 1500, prompts=40, seeds=1, shift=0)
    p = stats.sign_flip(a - b, rng, n_resamples=999)
    assert reference.kstest(p, "uniform").pvalue > 0.01
    assert abs(np.mean(p <= 0.05) - 0.05) < 0.015
    # The unpaired test ignores the effect that the pairs share, and hardly ever rejects.
    unpaired = stats.mann_whitney(np.hstack([a, b]), two_sets(40, 40))
    assert np.mean(unpaired <= 0.05) < 0.02


def test_sign_flip_has_the_power_of_the_paired_t_test():
    rng = np.random.default_rng(12)
    differences = rng.normal(0.4, 1, size=(400, 40))
    found = np.mean(stats.sign_flip(differences, rng, n_resamples=999) <= 0.05)
    t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / math.sqrt(40))
    assert found == pytest.approx(np.mean(reference.t.sf(t, 39) <= 0.05), abs=0.03)


def test_sign_flip_by_hand():
    rng = np.random.default_rng(13)
    differences = [[1.0, 2, 3], [-1, -2, -3], [1, 2, -3], [0, 0, 0], [1, NAN, 2], [NAN] * 3]
    # Sums of all 8 patterns: 6 4 2 0 0 -2 -4 -6. One is ≥ 6, all are ≥ -6, five are ≥ 0. Without
    # the missing pair, one of 4 is ≥ 3.
    np.testing.assert_allclose(
        stats.sign_flip(differences, rng), [1 / 8, 1, 5 / 8, 1, 1 / 4, NAN], atol=1e-15
    )


def test_sign_flip_resampled_agrees_with_all_patterns_and_is_never_zero():
    rng = np.random.default_rng(14)
    differences = rng.normal(0.3, 1, size=(6, 12))
    exact = stats.sign_flip(differences, rng, n_resamples=4096)
    resampled = stats.sign_flip(differences, rng, n_resamples=4095)
    np.testing.assert_allclose(resampled, exact, atol=0.03)
    signed = reference.permutation_test(
        (differences[0],), lambda x, axis: x.mean(axis), permutation_type="samples",
        vectorized=True, n_resamples=5000, alternative="greater",
    )  # fmt: skip
    assert exact[0] == pytest.approx(signed.pvalue, abs=1e-12)
    assert stats.sign_flip(np.ones((1, 100)), rng, n_resamples=99) == 0.01


def test_sign_flip_rejects_infinite_differences():
    with pytest.raises(ValueError, match="finite"):
        stats.sign_flip([[np.inf, 1.0]], np.random.default_rng(0))


def test_sign_flip_memory_is_bounded():
    # All signs at once would take 64 MB, and more while they are drawn.
    import tracemalloc

    rng = np.random.default_rng(15)
    differences = rng.normal(size=(20, 4000))
    tracemalloc.start()
    stats.sign_flip(differences, rng, n_resamples=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 45e6


def test_results_do_not_depend_on_the_other_hypotheses():
    data = np.random.default_rng(16)
    scores = data.normal(size=(6, 60))
    # Rows that change which method scipy chooses for a matrix: ties, missing, constant.
    scores[1], scores[2, 5:30:3], scores[3] = np.round(scores[1]), NAN, 0.5
    scores[4, 5:] = NAN
    is_a = np.arange(60) % 2 == 0
    groups = np.arange(30) // 3
    functions = {
        "auroc": lambda s: stats.auroc(s, is_a),
        "delong": lambda s: stats.delong_interval(s, is_a),
        "mann_whitney": lambda s: stats.mann_whitney(s, is_a),
        "sign_flip": lambda s: stats.sign_flip(
            s[:, is_a] - s[:, ~is_a], np.random.default_rng(1), n_resamples=500
        ),
        "paired": lambda s: stats.paired_interval(
            s[:, is_a], s[:, ~is_a], groups, np.random.default_rng(1), n_resamples=200
        ),
    }
    for name, function in functions.items():
        alone = np.concatenate([function(scores[[row]]) for row in range(len(scores))])
        np.testing.assert_allclose(function(scores), alone, atol=1e-13, err_msg=name)


# --- many hypotheses ------------------------------------------------------------------------


def test_benjamini_hochberg_by_hand():
    p = [0.01, NAN, 0.04, 0.03, 0.005]
    # Sorted .005 .01 .03 .04, times 4 / rank: .02 .02 .04 .04; NaN is not counted as a test.
    np.testing.assert_allclose(stats.benjamini_hochberg(p), [0.02, NAN, 0.04, 0.04, 0.02])
    assert np.isnan(stats.benjamini_hochberg([NAN, NAN])).all()
    assert stats.benjamini_hochberg([]).shape == (0,)


@given(npst.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1) | st.just(NAN)))
def test_q_values_are_no_smaller_and_keep_the_order(p):
    q = stats.benjamini_hochberg(p)
    known = ~np.isnan(p)
    np.testing.assert_array_equal(np.isnan(q), ~known)
    order = np.argsort(p[known])
    assert (q[known] >= p[known] * (1 - 1e-12)).all()
    assert (np.diff(q[known][order]) >= -1e-15).all()


def test_benjamini_hochberg_controls_false_discoveries_among_mann_whitney_tests():
    rng = np.random.default_rng(17)
    is_a, real = two_sets(30, 30), np.arange(40) < 10
    shares = []
    for _ in range(100):
        scores = rng.normal(size=(40, 60)) + 1.0 * real[:, None] * is_a
        found = stats.benjamini_hochberg(stats.mann_whitney(scores, is_a)) <= 0.1
        shares.append((found & ~real).sum() / max(found.sum(), 1))
    # BH guarantees 0.1 x 30/40 on average; three standard errors above that.
    assert np.mean(shares) <= 0.075 + 3 * np.std(shares) / 10
    assert np.mean(shares) > 0.01


# --- redundancy -----------------------------------------------------------------------------


@settings(max_examples=25)
@given(npst.arrays(np.float64, (4, 12), elements=st.integers(0, 5).map(float)))
def test_spearman_equals_scipy(scores):
    scores[:, [2, 7]] = NAN
    ours = spearman(scores)
    for i in range(4):
        for j in range(4):
            both = scores[[i, j]][:, ~np.isnan(scores[0])]
            if (np.ptp(both, axis=1) == 0).any():
                assert np.isnan(ours[i, j])
            else:
                assert ours[i, j] == pytest.approx(reference.spearmanr(*both)[0], abs=1e-10)


def test_spearman_needs_images_in_common():
    scores = np.array([[1.0, 2, 3, 4, NAN, NAN], [NAN, NAN, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])
    correlation = spearman(scores)
    assert np.isnan(correlation[0, 1])
    assert correlation[0, 2] == pytest.approx(1)


def unrelated(rng: np.random.Generator, h: int) -> np.ndarray:
    return rng.normal(size=(h, 200))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a dog", "dogs"),
        ("the brick wall", "Brick walls"),
        ("A woman holding an umbrella", "women holding umbrellas"),
        ("close-up photos", "a close up photo"),
        ("dogs.", "the dog"),
        ("\N{DOG FACE}", " \N{DOG FACE}"),
    ],
)
def test_inflection_articles_and_case_are_ignored(text, same):
    scores = unrelated(np.random.default_rng(18), 2)
    assert stats.redundant(scores, [text, same], [0, 1]) == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a dog", "a cat"),
        ("a dog", "a black dog"),
        ("a dog on a bed", "a bed on a dog"),
        ("people", "no people"),
        ("glass", "grass"),
        ("\N{DOG FACE}", "\N{CAT FACE}"),
    ],
)
def test_different_words_are_different_hypotheses(text, other):
    scores = unrelated(np.random.default_rng(19), 2)
    assert stats.redundant(scores, [text, other], [0, 1]) == [[0], [1]]


def test_correlated_scores_are_one_difference():
    rng = np.random.default_rng(20)
    scores = unrelated(rng, 6)
    scores[3] = np.exp(scores[1])  # the same order: correlation 1
    scores[4] = -scores[1]
    scores[5] = scores[2] + 0.1 * rng.normal(size=200)
    scores[:, ::9] = NAN
    texts = ["dogs", "snow", "a car", "winter", "summer", "vehicles"]
    assert stats.redundant(scores, texts, [5, 3, 0, 1, 2, 4]) == [[5, 2], [3, 1], [0], [4]]
    assert stats.redundant(scores, texts, [1, 4], threshold=0.5) == [[1], [4]]
    assert stats.redundant(scores, texts, []) == []


def test_a_text_joins_a_group_by_the_words_of_any_member():
    scores = unrelated(np.random.default_rng(21), 3)
    scores[1] = scores[0]
    assert stats.redundant(scores, ["puppy", "a dog", "dogs"], [0, 1, 2]) == [[0, 1, 2]]


@settings(max_examples=50)
@given(st.permutations(range(8)), st.integers(0, 2**16))
def test_groups_are_a_partition_led_by_the_earliest(order, seed):
    scores = np.random.default_rng(seed).integers(0, 3, size=(8, 6)).astype(float)
    groups = stats.redundant(scores, [f"word{i}" for i in range(8)], order, threshold=0.6)
    assert sorted(i for group in groups for i in group) == list(range(8))
    place = {index: position for position, index in enumerate(order)}
    leaders = [place[group[0]] for group in groups]
    assert leaders == sorted(leaders)
    correlation = spearman(scores)
    for group in groups:
        assert [place[i] for i in group] == sorted(place[i] for i in group)
        assert all(correlation[group[0], i] >= 0.6 - 1e-9 for i in group[1:])
    for number, group in enumerate(groups, start=1):
        for later in groups[number:]:
            assert not correlation[group[0], later[0]] >= 0.6


@pytest.mark.parametrize("order", [[0, 0], [2], [-1]])
def test_an_invalid_order_is_rejected(order):
    with pytest.raises(ValueError, match="order"):
        stats.redundant(np.zeros((2, 3)), ["a", "b"], order)


# --- separability ---------------------------------------------------------------------------


def test_separability_of_noise_is_a_half_on_average():
    rng = np.random.default_rng(22)
    is_a = np.arange(60) % 3 == 0
    areas = [stats.separability(rng.normal(size=(60, 5)), is_a, rng) for _ in range(30)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)


def test_separability_finds_a_direction_and_reaches_one():
    rng = np.random.default_rng(23)
    is_a = np.arange(120) % 2 == 0
    features = rng.normal(size=(120, 40))
    features[:, 7] += 1.2 * is_a
    some = stats.separability(features, is_a, rng)
    assert 0.6 < some < 0.9
    features[:, 7] += 30.0 * is_a
    assert stats.separability(features, is_a, rng) > 0.97
    # One column, on any scale.
    assert stats.separability(1e-6 * features[:, [7]] + 5, is_a, rng) == 1.0


def test_separability_depends_on_the_generator_only():
    data = np.random.default_rng(24)
    features, is_a = data.normal(size=(50, 3)), np.arange(50) < 25
    first, again, other = (
        stats.separability(features, is_a, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_separability_ignores_unreadable_images_and_imputes_missing_values():
    rng = np.random.default_rng(25)
    is_a = np.arange(60) % 2 == 0
    features = np.stack([10.0 * is_a + rng.normal(size=60), rng.normal(size=60)], axis=1)
    features[:6] = NAN
    features[10:20, 1] = NAN
    features = np.hstack([features, np.full((60, 1), NAN)])
    assert stats.separability(features, is_a, rng) > 0.97


def test_separability_of_too_few_images_is_nan():
    rng = np.random.default_rng(26)
    is_a = two_sets(9, 40)
    assert math.isnan(stats.separability(rng.normal(size=(49, 2)), is_a, rng))
    assert not math.isnan(stats.separability(rng.normal(size=(49, 2)), is_a, rng, folds=4))
    assert math.isnan(stats.separability(np.empty((49, 0)), is_a, rng))
    assert math.isnan(stats.separability(np.full((49, 2), NAN), is_a, rng))


# --- power and proportions ------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(40, 40), (30, 120), (150, 150)])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_minimum_detectable_auroc_is_detected_four_times_in_five(sizes, alpha):
    n_a, n_b = sizes
    area = stats.minimum_detectable_auroc(n_a, n_b, alpha)
    scores = normal_scores(np.random.default_rng(27), 2000, n_a, n_b, area)
    found = np.mean(stats.mann_whitney(scores, two_sets(n_a, n_b)) <= alpha)
    assert found == pytest.approx(0.8, abs=0.05)


def test_minimum_detectable_auroc_by_hand_and_at_the_ends():
    # (1.6449 + 0.8416) / sqrt(12 * 50 * 50 / 100) = 2.4865 / 17.3205
    assert stats.minimum_detectable_auroc(50, 50, 0.05) == pytest.approx(0.64356, abs=1e-5)
    assert stats.minimum_detectable_auroc(2, 2, 0.01) == 1.0
    assert stats.minimum_detectable_auroc(0, 50, 0.05) == 1.0
    with pytest.raises(ValueError, match="alpha"):
        stats.minimum_detectable_auroc(50, 50, 0)


def test_wilson_against_published_values():
    # Newcombe 1998, table I, method 3.
    for k, n, low, high in [
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    ]:  # fmt: skip
        assert stats.wilson(k, n) == pytest.approx((low, high), abs=5e-5)
    assert stats.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0 <= k <= n"):
        stats.wilson(3, 2)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_proportion_and_is_symmetric(case):
    k, n = case
    low, high = stats.wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert stats.wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_importing_stats_loads_neither_torch_nor_sklearn():
    code = "import sys, visdiff.stats; sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
