"""Tests of the statistics: planted effects are confirmed, noise is not."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from visdiff import stats
from visdiff.comparison import findings
from visdiff.config import StatisticsConfig
from visdiff.results import Difference, Hypothesis, Rejected

SETTINGS = StatisticsConfig(permutations=1000, resamples=200)
N = 40
IS_A = np.arange(2 * N) < N
IDS = [f"a{i}" for i in range(N)] + [f"b{i}" for i in range(N)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def claims(*texts: str, direction: str = "A") -> list[Hypothesis]:
    return [Hypothesis(text, direction, "test") for text in texts]  # type: ignore[arg-type]


def shifted(by: float, seed: int = 0) -> np.ndarray:
    """Returns scores of one hypothesis, A's higher by this many standard deviations."""
    return rng(seed).normal(size=2 * N) + by * IS_A


def weakly_separating() -> np.ndarray:
    """Returns scores that separate the sets with a p-value of about 0.01."""
    spread = norm.ppf((np.arange(N) + 0.5) / N)
    return np.concatenate([spread + 0.55, spread])


def find(
    hypotheses: Sequence[Hypothesis],
    scores: Sequence[np.ndarray],
    *,
    groups: np.ndarray | None = None,
    may_confirm: bool = True,
    settings: StatisticsConfig = SETTINGS,
) -> tuple[tuple[Difference, ...], tuple[Rejected, ...]]:
    matrix = np.asarray(scores, dtype=np.float32).reshape(len(hypotheses), 2 * N)
    tests = findings.test_hypotheses(
        hypotheses, matrix, IS_A, settings, rng(), groups=groups, may_confirm=may_confirm
    )
    return findings.select(hypotheses, matrix, IS_A, IDS, tests, settings)


def test_a_planted_effect_is_confirmed_and_noise_is_not() -> None:
    noise = claims(*(f"noise {i}" for i in range(9)))
    differences, rejected = find(
        [*claims("planted"), *noise], [shifted(1.5), *(shifted(0, i) for i in range(1, 10))]
    )
    assert [d.text for d in differences if d.confirmed] == ["planted"]
    first = differences[0]
    assert first.ci_low < first.auroc < first.ci_high
    assert first.auroc > 0.75
    assert first.mean_a > first.mean_b
    assert (first.n_a, first.n_b, first.n_unscored) == (N, N, 0)
    # Every candidate is reported exactly once.
    reported = [t for d in differences for t in (d.text, *d.synonyms)] + [r.text for r in rejected]
    assert sorted(reported) == sorted(["planted", *(h.text for h in noise)])


def test_statistics_are_oriented_by_the_claim() -> None:
    hypotheses = [*claims("more in A"), *claims("more in B", direction="B")]
    differences, _ = find(hypotheses, [shifted(1.5, 1), shifted(-1.5, 2)])
    found = {d.text: d for d in differences}
    assert found.keys() == {"more in A", "more in B"}
    for d in found.values():
        assert d.confirmed
        assert d.ci_low > 0.5
    assert found["more in B"].mean_b > found["more in B"].mean_a


def test_swapping_the_sets_mirrors_the_findings() -> None:
    scores = np.stack([shifted(0.8, i) for i in range(4)])
    hypotheses = claims("one", "two", "three", "four")
    mirrored = claims("one", "two", "three", "four", direction="B")
    swapped = np.concatenate([scores[:, ~IS_A], scores[:, IS_A]], axis=1)
    there = findings.test_hypotheses(hypotheses, scores, IS_A, SETTINGS, rng())
    back = findings.test_hypotheses(mirrored, swapped, IS_A, SETTINGS, rng())
    np.testing.assert_allclose(there.auroc, back.auroc, rtol=1e-12)
    np.testing.assert_allclose(there.p_value, back.p_value, rtol=1e-9)
    np.testing.assert_allclose(there.interval, back.interval, rtol=1e-9)


def test_the_wrong_direction_is_rejected_with_a_reason() -> None:
    differences, rejected = find(claims("planted"), [shifted(-1.5)])
    assert not differences
    assert rejected[0].reason == "the scores point in the other direction"
    assert rejected[0].auroc is not None
    assert rejected[0].auroc < 0.5


def test_reasons_of_the_rejected() -> None:
    weak = StatisticsConfig(min_auroc=0.9)
    scores = np.where(IS_A, 1.0, 0.0)
    scores[np.r_[0:18, N : N + 18]] = 0.5
    _, rejected = find(claims("flat"), [np.zeros(2 * N)])
    assert rejected[0].reason == "the scores point in the other direction"
    _, rejected = find(claims("faint"), [shifted(0.15, 3)], settings=weak)
    assert "is below 0.9" in rejected[0].reason
    _, rejected = find(claims("unsure"), [shifted(0.25, 3)])
    assert rejected[0].reason.startswith("not significant: q = ")


def test_q_values_cover_candidates_that_are_then_discarded() -> None:
    alone, _ = find(claims("weak"), [weakly_separating()])
    assert alone[0].confirmed
    many = [*claims("weak"), *claims(*(f"noise {i}" for i in range(60)))]
    crowd, _ = find(many, [weakly_separating(), *(shifted(0, 100 + i) for i in range(60))])
    weak = next(d for d in crowd if d.text == "weak")
    assert weak.p_value == pytest.approx(alone[0].p_value)
    assert weak.q_value > alone[0].q_value
    assert not weak.confirmed
    # The q-value covers all candidates, including those of the other direction.
    both = [*many, *claims("noise", direction="B")]
    scores = np.stack([weakly_separating(), *(shifted(0, 100 + i) for i in range(61))])
    tests = findings.test_hypotheses(both, scores, IS_A, SETTINGS, rng())
    np.testing.assert_allclose(tests.q_value, stats.benjamini_hochberg(tests.p_value))


def test_promising_candidates_are_reported_as_unconfirmed() -> None:
    many = [*claims("weak"), *claims(*(f"noise {i}" for i in range(60)))]
    differences, _ = find(many, [weakly_separating(), *(shifted(0, 100 + i) for i in range(60))])
    weak = next(d for d in differences if d.text == "weak")
    assert weak.p_value < 0.05 < weak.q_value


def test_a_real_but_tiny_effect_is_not_confirmed() -> None:
    strict = StatisticsConfig(min_auroc=0.8)
    differences, _ = find(claims("small"), [shifted(0.9, 7)], settings=strict)
    assert 0.5 < differences[0].auroc < 0.8
    assert differences[0].q_value <= 0.05
    assert not differences[0].confirmed


def test_synonyms_are_grouped_by_scores_and_by_words() -> None:
    base = shifted(1.5, 1)
    hypotheses = claims("a brick wall", "masonry", "the brick walls", "a sunny day")
    # The third is a synonym with other scores; the last has another meaning.
    differences, _ = find(hypotheses, [base, base * 2 + 1, shifted(1.2, 2), shifted(1.5, 3)])
    groups = {frozenset([d.text, *d.synonyms]) for d in differences}
    assert groups == {
        frozenset(["a brick wall", "masonry", "the brick walls"]),
        frozenset(["a sunny day"]),
    }
    folded = next(d for d in differences if d.synonyms)
    # The best of a group represents it.
    assert folded.auroc == pytest.approx(stats.auroc(base.astype(np.float32)[None], IS_A)[0])


def in_captions(*rows: tuple[int, int]) -> list[np.ndarray]:
    """Returns binary scores of phrases, 1 for the images from a start to an end."""
    index = np.arange(2 * N)
    return [((index >= first) & (index < last)) * 1.0 for first, last in rows]


@pytest.mark.parametrize(
    ("texts", "images", "groups"),
    [
        # In other captions, but the same thing.
        (["snow", "in the snow", "snowy"], [(0, 12), (0, 8), (12, 24)], 1),
        (["a cell phone", "cell", "phone"], [(0, 14), (0, 15), (0, 22)], 1),
        (["a photo of a beach", "on the beach", "sandy beaches"], [(0, 9), (9, 30), (9, 20)], 2),
        # Red things and cars, some of them red cars.
        (["red", "car", "a red car"], [(0, 24), (16, 40), (16, 24)], 2),
        (["a man with a hat", "a man without a hat"], [(0, 12), (0, 11)], 2),
        (["party", "part"], [(0, 12), (12, 24)], 2),
        (["🔥", "🌊"], [(0, 12), (12, 24)], 2),
    ],
)
def test_phrases_of_one_thing_are_one_difference(
    texts: list[str], images: list[tuple[int, int]], groups: int
) -> None:
    settings = SETTINGS.model_copy(update={"redundant": 0.99})
    differences, rejected = find(claims(*texts), in_captions(*images), settings=settings)
    assert not rejected
    assert len(differences) == groups
    assert sorted(t for d in differences for t in (d.text, *d.synonyms)) == sorted(texts)


def test_opposite_claims_of_one_text_are_never_synonyms() -> None:
    hypotheses = [*claims("a cat"), *claims("a cat", direction="B")]
    differences, rejected = find(hypotheses, [shifted(1.5), shifted(1.5)])
    assert [(d.text, d.direction, d.synonyms) for d in differences] == [("a cat", "A", ())]
    assert [(r.text, r.direction) for r in rejected] == [("a cat", "B")]


def test_unscored_candidates_are_rejected_as_such() -> None:
    only_a = np.where(IS_A, 1.0, np.nan)
    hypotheses = claims("planted", "too long for the model", "half blind")
    differences, rejected = find(hypotheses, [shifted(1.5), np.full(2 * N, np.nan), only_a])
    assert [d.text for d in differences] == ["planted"]
    assert {r.text for r in rejected} == {"too long for the model", "half blind"}
    for r in rejected:
        assert (r.auroc, r.p_value, r.q_value) == (None, None, None)
        assert "scored" in r.reason
    # The correction excludes candidates that were not tested.
    assert differences[0].q_value == pytest.approx(differences[0].p_value)


def test_missing_scores_are_left_out_and_counted() -> None:
    scores = shifted(1.5)
    holes = scores.copy()
    holes[[0, 1, N]] = np.nan
    differences, _ = find(claims("planted"), [holes])
    d = differences[0]
    assert (d.n_a, d.n_b, d.n_unscored) == (N - 2, N - 1, 3)
    assert d.mean_a == pytest.approx(holes.astype(np.float32)[2:N].mean(), rel=1e-5)
    assert not {"a0", "a1", "b0"} & {*d.evidence_a, *d.evidence_b}


@pytest.mark.parametrize("direction", ["A", "B"])
def test_evidence_is_the_clearest_images_best_first(direction: str) -> None:
    rising = np.arange(2.0 * N)
    scores = np.concatenate([rising[N:], rising[:N]]) * (1 if direction == "A" else -1)
    differences, _ = find(claims("planted", direction=direction), [scores])
    # The highest scores in the claimed set, the lowest in the other.
    by_score = dict(zip(IDS, scores, strict=True))
    claimed, other = ("a", "b") if direction == "A" else ("b", "a")
    best = sorted((i for i in IDS if i[0] == claimed), key=lambda i: -by_score[i])
    worst = sorted((i for i in IDS if i[0] == other), key=lambda i: by_score[i])
    d = differences[0]
    shown = {"a": d.evidence_a, "b": d.evidence_b}
    assert list(shown[claimed]) == best[: len(shown[claimed])]
    assert list(shown[other]) == worst[: len(shown[other])]
    assert len(d.evidence_a) == len(d.evidence_b) >= 3


def test_double_dipping_confirms_nothing() -> None:
    differences, _ = find(claims("planted"), [shifted(3)], may_confirm=False)
    assert differences[0].p_value < 1e-6
    assert not differences[0].confirmed


def test_the_order_of_the_candidates_does_not_matter() -> None:
    hypotheses = [*claims(*"abcdef"), *claims(*"ghij", direction="B")]
    scores = np.stack([shifted(0.2 * (i - 4), i) for i in range(10)])
    scores[3] = np.nan
    scores[5] = scores[4] * 3
    groups = np.repeat(np.arange(10), 4)
    for kind in (None, groups):
        there = find(hypotheses, list(scores), groups=kind)
        order = rng(3).permutation(10)
        back = find([hypotheses[i] for i in order], list(scores[order]), groups=kind)
        assert {(d.text, d.direction): d for d in there[0] if not d.synonyms} == {
            (d.text, d.direction): d for d in back[0] if not d.synonyms
        }
        assert {frozenset([d.text, *d.synonyms]) for d in there[0]} == {
            frozenset([d.text, *d.synonyms]) for d in back[0]
        }
        assert {r.text: r for r in there[1]} == {r.text: r for r in back[1]}


def test_no_candidates() -> None:
    assert find([], []) == ((), ())


def test_pairs_reveal_a_shift_that_the_spread_between_prompts_hides() -> None:
    # Prompts differ a lot, the two images of one prompt a little: the pair cancels the prompt.
    between = rng(1).normal(scale=5, size=N)
    a = between + 0.4 + rng(2).normal(scale=0.3, size=N)
    b = between + rng(3).normal(scale=0.3, size=N)
    scores = np.concatenate([a, b])
    # A within-pair shift changes the AUROC of the pooled images little, so the threshold is low.
    easy = SETTINGS.model_copy(update={"min_auroc": 0.5})
    unpaired, _ = find(claims("planted"), [scores], settings=easy)
    paired, _ = find(claims("planted"), [scores], settings=easy, groups=np.arange(N))
    assert not unpaired
    assert paired[0].confirmed
    assert paired[0].p_value < 0.01
    assert paired[0].ci_low <= paired[0].auroc <= paired[0].ci_high


def false_runs(paired: bool, runs: int, hypotheses: int) -> int:
    """Returns the number of runs on null data that confirm at least one difference."""
    half = claims(*(f"h{i}" for i in range(hypotheses // 2)))
    both = [*half, *(Hypothesis(f"g{i}", "B", "test") for i in range(hypotheses // 2))]
    quick = StatisticsConfig(permutations=400, resamples=100, min_auroc=0.5)
    groups = np.repeat(np.arange(N // 4), 4) if paired else None
    count = 0
    for run in range(runs):
        draw = rng(1000 + run)
        # Scores of different hypotheses are correlated; pairs share their prompt.
        scores = draw.normal(size=(len(both), 2 * N)) + draw.normal(size=2 * N)
        if paired:
            scores += np.tile(draw.normal(scale=2, size=N), 2)
        tests = findings.test_hypotheses(both, scores, IS_A, quick, draw, groups=groups)
        count += bool(tests.confirmed.any())
    return count


@pytest.mark.parametrize("paired", [False, True])
def test_null_runs_confirm_something_in_at_most_five_percent(paired: bool) -> None:
    runs = 200
    count = false_runs(paired, runs, hypotheses=6)
    # Three standard errors of a count at exactly 5 %.
    assert count <= 0.05 * runs + 3 * (0.05 * 0.95 * runs) ** 0.5
