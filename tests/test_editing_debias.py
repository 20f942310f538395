"""Tests of the debiasing loop, on a model with a known response and on the miniature."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
from PIL import Image
from scipy.special import softmax

from editing.methods import debias as loop
from editing.methods.debias import Control, Debiased, crossed, debias
from editing.methods.debias.history import Evaluation, History
from editing.methods.debias.response import Response, fit_response
from editing.metrics.ratios import delta
from editing.pipelines.sampling import Settings
from editing.requests import Debias, Erase, Request
from visdiff.errors import InputError

HALVES = {"man": 0.5, "woman": 0.5}
TONES: list[str] = ["light", "medium-light", "medium", "medium-dark", "dark"]
FIFTHS = dict.fromkeys(TONES, 0.2)
#: Logits per unit of weight, roughly as measured on the bundled model: "medium" draws fewer people
#: of a medium tone than of a medium-dark one, and "dark" draws medium-dark half of the time.
TANGLED = [
    [2.0, -2.0, -3.0, -5.0, -2.0],
    [0.0, 1.0, -1.5, -2.5, -2.5],
    [-1.0, -1.0, 0.0, -2.5, -2.0],
    [-2.5, 1.0, 3.0, 3.0, 2.5],
    [0.0, -4.0, -1.0, 0.5, 3.0],
]


class FakeModel:
    """A model that shows attribute k with the probability softmax(bias + gain weights)_k.

    An image is its scores, logits with Gumbel noise, whose largest is distributed like that; equal
    seeds draw equal noise, common to all rounds as that of a diffusion model is.
    """

    def __init__(self, bias: dict[str, list[float]], gain: Any = 3.0) -> None:
        self.bias = bias
        k = len(next(iter(bias.values())))
        self.gain = np.asarray(gain) if np.ndim(gain) == 2 else gain * np.eye(k)
        self.drawn: list[tuple[str, int]] = []

    def draw(
        self, pipe: Any, edit: Any, prompts: list[str], seeds: list[int], *_: Any
    ) -> list[Image.Image]:
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            concept = prompt.removeprefix("a ")
            self.drawn.append((concept, seed))
            logits = np.array(self.bias[concept], float)
            if edit is not None:
                request = next(r for r in edit.requests if r.concept == concept)
                logits = logits + self.gain @ np.array(list(request.applied_weights.values()))
            scores = logits + np.random.default_rng(seed).gumbel(size=len(logits))
            images.append(Image.fromarray(scores[None].astype(np.float32)))
        return images

    @staticmethod
    def score(images: Iterable[Image.Image], concept: str, attributes: Sequence[str]) -> np.ndarray:
        return np.array([np.asarray(image)[0] for image in images])


def run(
    monkeypatch: pytest.MonkeyPatch,
    model: FakeModel,
    requests: list[Request],
    checkpoint: Path | None = None,
    **control: Any,
) -> Debiased:
    monkeypatch.setattr(loop, "_draw", model.draw)
    return debias(
        tiny.sd1(), requests, model.score,
        control=Control(**control), checkpoint=checkpoint, nearest=0,
    )  # fmt: skip


def test_concepts_reach_their_ratios_and_finished_ones_draw_no_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = FakeModel({"judge": [3.0, 0.0], "nurse": [-2.0, 0.0], "cook": [0.1, 0.0]})
    found = run(monkeypatch, model, [Debias(c, HALVES) for c in model.bias])
    assert not found.unfinished
    for concept in model.bias:
        mine = [evaluation for evaluation in found.evaluations if evaluation.concept == concept]
        assert [evaluation.done for evaluation in mine] == [False] * (len(mine) - 1) + [True]
        assert mine[-1].delta.value <= 0.2
        assert [evaluation.round for evaluation in mine] == list(range(len(mine))), (
            "no round after the last"
        )
    balanced = [evaluation for evaluation in found.evaluations if evaluation.concept == "cook"]
    assert len(balanced) == 1, "a concept that is balanced already is evaluated once"
    assert found.images == len(model.drawn)


def test_a_large_deviation_is_detected_from_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel({"judge": [9.0, 0.0]})
    found = run(monkeypatch, model, [Debias("judge", HALVES)], batch=10, most=100)
    assert found.evaluations[0].delta.n == 10
    assert found.evaluations[-1].delta.n == 100, "a decision in favour takes all images"


def test_every_round_draws_the_same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel({"judge": [1.2, 0.0], "cook": [-1.2, 0.0]})
    run(monkeypatch, model, [Debias(c, HALVES) for c in model.bias], batch=5, most=20)
    used = {c: {seed for d, seed in model.drawn if d == c} for c in model.bias}
    for concept, seeds in used.items():
        assert seeds <= set(range(min(seeds), min(seeds) + 20))
        assert model.drawn.count((concept, min(seeds))) > 1
    assert not used["judge"] & used["cook"], "concepts must not share seeds"


def test_five_attributes_and_crossings(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = crossed(HALVES, {"light skin": 0.4, "dark skin": 0.6})
    assert list(wanted) == [
        "man with light skin", "man with dark skin", "woman with light skin", "woman with dark skin"
    ]  # fmt: skip
    assert sum(wanted.values()) == pytest.approx(1)
    assert wanted["man with dark skin"] == pytest.approx(0.3)
    model = FakeModel({"judge": [2.0, 1.0, 0.0, -1.0]})
    found = run(monkeypatch, model, [Debias("judge", wanted)], most=80, rounds=25)
    assert not found.unfinished


def test_attributes_with_coupled_weights_reach_their_ratios(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published rule, more weight for whatever is rare, does not converge here."""
    rng = np.random.default_rng(1)
    prior = np.log([0.45, 0.25, 0.15, 0.1, 0.05])
    model = FakeModel({f"job{i}": list(prior + rng.normal(0, 0.5, 5)) for i in range(8)}, TANGLED)
    asked: list[Request] = [Debias(c, FIFTHS) for c in model.bias]
    found = run(
        monkeypatch, model, asked,
        batch=20, most=160, rounds=10, tolerance=0.06,
    )  # fmt: skip
    chosen = [r for r in found.edit.requests if isinstance(r, Debias)]
    off = [
        np.abs(softmax(model.bias[r.concept] + model.gain @ list(r.applied_weights.values())) - 0.2)
        for r in chosen
    ]
    assert np.mean(off) / 0.2 <= 0.3, "0.45 by that rule"


class ConstantScorer:
    """A scorer that returns the same answer for all images."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, images: Any, concept: str, attributes: Sequence[str]) -> np.ndarray:
        return self.answer


def draw_scores(rng: np.random.Generator, mean: Any, n: int) -> np.ndarray:
    """Returns scores around a mean, in cosines: small differences around a value common to all."""
    return 0.3 + 0.05 * (mean + rng.normal(0, 1, (n, len(mean)))) + rng.normal(0, 0.1, (n, 1))


def towards(
    response: Response, concept: int, weights: np.ndarray, scores: np.ndarray, goal: np.ndarray
) -> np.ndarray:
    """Returns the next weights after a single evaluation."""
    return response.next_weights(concept, weights[None], [scores], goal)


class LinearResponse(Response):
    """A known response of one concept: mean scores are a gain times weights."""

    def __init__(self, gain: np.ndarray, spread: float) -> None:
        k = len(gain)
        super().__init__(np.zeros(0, int), np.zeros((0, k)), np.zeros((0, k)), spread)
        object.__setattr__(self, "gain", gain)

    def means(self, concept: int, weights: np.ndarray) -> np.ndarray:
        return weights @ vars(self)["gain"].T


def test_a_linear_response_is_recovered() -> None:
    rng = np.random.default_rng(3)
    concepts, k, rounds = 6, 3, 12
    bias = rng.normal(0, 1, (concepts, k))
    gain = np.array([[4.0, -2.0, 0.0], [1.0, 2.0, -3.0], [-2.0, 1.0, 5.0]])
    index = np.tile(np.arange(concepts), rounds)
    weights = rng.normal(0, 0.3, (len(index), k))
    scores = [
        draw_scores(rng, bias[c] + gain @ w, 400) for c, w in zip(index, weights, strict=True)
    ]
    found = fit_response(index.tolist(), weights, scores)
    spread = 0.05 * np.sqrt(1 - 1 / k)
    assert found.spread == pytest.approx(spread, rel=0.02)
    unseen = rng.normal(0, 0.3, (20, k))
    for c in range(concepts):
        means = bias[c] + unseen @ gain.T
        means = means - means.mean(axis=1, keepdims=True)
        assert found.means(c, unseen) * found.spread / 0.05 == pytest.approx(means, abs=0.35)
    goal = np.array([0.5, 0.3, 0.2])
    for c in range(concepts):
        chosen = np.zeros(k)
        for _ in range(30):
            chosen = towards(
                found, c, chosen, draw_scores(rng, bias[c] + gain @ chosen, 1000), goal
            )
        winners = draw_scores(rng, bias[c] + gain @ chosen, 4000).argmax(axis=1)
        assert np.bincount(winners) / 4000 == pytest.approx(goal, abs=0.05)


def test_a_nonlinear_response_is_learned_and_shared() -> None:
    """A weight that saturates, in each of three concepts; the third has a single evaluation."""
    rng = np.random.default_rng(9)
    bias = np.array([[0.0, 0.0], [1.0, -1.0], [-1.0, 1.0]])

    def means(concept: int, weights: np.ndarray) -> np.ndarray:
        return bias[concept] + np.tanh(4 * weights)

    index = [0] * 12 + [1] * 12 + [2]
    along = np.concatenate([np.linspace(-0.8, 0.8, 12)] * 2 + [[0.0]])
    weights = np.stack([along, -along], axis=1)
    scores = [draw_scores(rng, means(c, w), 300) for c, w in zip(index, weights, strict=True)]
    found = fit_response(index, weights, scores)
    ends = np.array([[0.6, -0.6], [0.3, -0.3], [-0.6, 0.6]])
    for c, near in ((0, 0.15), (2, 0.4)):
        answer = found.means(c, ends) * found.spread / 0.05
        assert answer == pytest.approx(means(c, ends), abs=near)


def test_the_prior_response_raises_the_attribute_of_the_weight() -> None:
    rng = np.random.default_rng(10)
    found = fit_response([0], np.zeros((1, 3)), [draw_scores(rng, np.zeros(3), 50)])
    answer = found.means(0, np.array([[0.1, 0.0, 0.0]])) - found.means(0, np.zeros((1, 3)))
    assert answer.argmax() == 0
    assert answer.sum() == pytest.approx(0)


def test_the_scale_and_common_offset_of_scores_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    index, weights = [0, 1, 0, 1], rng.normal(0, 0.3, (4, 3))
    scores = [draw_scores(rng, rng.normal(0, 1, 3), 50) for _ in index]
    moved = [30 * s + rng.normal(0, 5, (50, 1)) for s in scores]
    goal = np.array([0.5, 0.3, 0.2])
    ways = [
        towards(fit_response(index, weights, each), 1, weights[3], each[3], goal)
        for each in (scores, moved)
    ]
    assert ways[0] == pytest.approx(ways[1], abs=1e-4)


def test_weights_stay_where_the_counts_are_right() -> None:
    """For skewed scores smooth shares differ from counts, and counts decide."""
    scores = np.array([[0.0, 0.01]] * 500 + [[1.0, 0.0]] * 500)
    found = LinearResponse(np.eye(2), 0.1)
    halves = np.full(2, 0.5)
    assert towards(found, 0, np.zeros(2), scores, halves) == pytest.approx(np.zeros(2), abs=0.01)


def test_weights_that_failed_are_not_tried_again() -> None:
    """An evaluation outweighs the response near its own weights."""
    rng = np.random.default_rng(8)
    found, halves = LinearResponse(np.eye(2) * 4, 1.0), np.full(2, 0.5)
    far, worse = (rng.normal([mean, 0.0], 1, (200, 2)) for mean in (2.0, 2.5))
    first = towards(found, 0, np.zeros(2), far, halves)
    tried = np.array([np.zeros(2), first])
    second = found.next_weights(0, tried, [far, worse], halves)
    assert np.abs(second - first).max() > 0.1


def test_an_attribute_that_does_not_respond_does_not_affect_the_others() -> None:
    """Its weight stays bounded although it stays rare, and the others are balanced."""
    rng = np.random.default_rng(6)
    gain = np.diag([4.0, 4.0, 0.02])
    found, chosen = LinearResponse(gain, 1.0), np.zeros(3)
    noise = rng.normal([2.0, 0.0, -3.0], 1, (4000, 3))
    for _ in range(30):
        chosen = towards(found, 0, chosen, noise + gain @ chosen, np.full(3, 1 / 3))
    shares = np.bincount((noise + gain @ chosen).argmax(axis=1), minlength=3) / 4000
    assert abs(chosen[2]) < 0.1
    assert shares[0] == pytest.approx(shares[1], abs=0.1)


def test_steps_are_bounded_and_scaled_by_the_step_size() -> None:
    rng = np.random.default_rng(7)
    found, goal = LinearResponse(np.eye(2) * 4, 1.0), np.array([0.01, 0.99])
    evaluation = rng.normal([2.0, -2.0], 1, (100, 2))
    moved = towards(found, 0, np.zeros(2), evaluation, goal)
    assert np.abs(moved).max() == pytest.approx(0.3)
    half = found.next_weights(0, np.zeros((1, 2)), [evaluation], goal, step=0.5)
    assert half == pytest.approx(moved / 2)


def test_the_best_iterate_is_kept_if_none_is_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the model does not respond to weights, the loop ends and keeps the best iterate."""
    model = FakeModel({"judge": [3.0, 0.0]}, gain=0.0)
    found = run(monkeypatch, model, [Debias("judge", HALVES), Erase("church")], rounds=3)
    assert found.unfinished == ("judge",)
    assert len(found.evaluations) == 4
    best = min(found.evaluations, key=lambda evaluation: evaluation.delta.high)
    kept = next(r for r in found.edit.requests if isinstance(r, Debias))
    assert dict(kept.weights or {}) == pytest.approx(dict(best.weights))
    assert Erase("church") in found.edit.requests


def test_a_balanced_model_passes_as_often_as_the_level_says() -> None:
    """The sequential test rejects a balanced model in at most 1 − level of the runs."""
    rng = np.random.default_rng(5)
    goal = np.array([0.5, 0.5])
    evaluations, level = 6, 1 - 0.1 / (6 * 2)
    off = 0
    for _ in range(400):
        first = rng.random((evaluations, 10)) < 0.5
        totals = first.sum(axis=1).cumsum()
        counts = [np.array([k, 10 * (i + 1) - k]) for i, k in enumerate(totals)]
        off += any(loop._is_off(c, goal, level) for c in counts)
    assert off <= 0.1 * 400


def test_a_killed_loop_resumes_to_the_same_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = FakeModel({"judge": [3.0, 0.0], "cook": [1.0, 0.0]})
    monkeypatch.setattr(loop, "_draw", model.draw)
    asked: list[Request] = [Debias(c, HALVES) for c in model.bias]

    def go(file: Path | None, rounds: int = 8, stop_after: int | None = None) -> Debiased:
        evaluations: list[Evaluation] = []

        def stop_after_some(evaluation: Evaluation) -> None:
            evaluations.append(evaluation)
            if len(evaluations) == stop_after:
                raise KeyboardInterrupt

        return debias(
            tiny.sd1(), asked, model.score, control=Control(rounds=rounds),
            on_evaluation=stop_after_some, checkpoint=file, about="plant", nearest=0,
        )  # fmt: skip

    whole = go(None)
    assert len(whole.evaluations) > 3
    file = tmp_path / "new" / "history.jsonl"
    with pytest.raises(KeyboardInterrupt):
        go(file, stop_after=3)
    with file.open("a") as half:
        half.write('{"round": 1, "conc')
    model.drawn.clear()
    resumed = go(file)
    assert resumed.evaluations == whole.evaluations
    assert resumed.edit.digest == whole.edit.digest
    assert len(model.drawn) == sum(evaluation.delta.n for evaluation in whole.evaluations[3:])
    model.drawn.clear()
    go(file, rounds=9)
    assert not model.drawn, "more rounds must reuse the checkpoint"
    with pytest.raises(InputError, match="those of another one"):
        run(monkeypatch, model, asked, checkpoint=file)
    file.write_text("[]\n")
    with pytest.raises(InputError, match="the same loop"):
        go(file)
    file.write_text("nonsense\n")
    with pytest.raises(InputError, match="something else"):
        go(file)


def test_history_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel({"judge": [1.0, 0.0]})
    found = run(monkeypatch, model, [Debias("judge", HALVES)])
    frame = found.to_frame()
    assert len(frame) == 2 * len(found.evaluations)
    totals: Any = frame.groupby("round")["share"].sum()
    assert totals.to_numpy() == pytest.approx(1.0)


def test_history_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from editing.methods.debias.plot import plot, save

    model = FakeModel({"judge": [3.0, 0.0], "cook": [0.1, 0.0]})
    found = run(monkeypatch, model, [Debias(c, HALVES) for c in model.bias])
    drawn = plot(found).axes[0].get_lines()
    lines = {str(line.get_label()): line for line in drawn}
    lines = {label: line for label, line in lines.items() if not label.startswith("_")}
    assert set(lines) == {"judge", "cook"}
    deltas = [
        evaluation.delta.value for evaluation in found.evaluations if evaluation.concept == "judge"
    ]
    assert np.asarray(lines["judge"].get_ydata()).tolist() == deltas
    assert save(found, tmp_path / "new" / "history.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match="a format of figures such as svg"):
        save(found, tmp_path / "history.nonsense")
    with pytest.raises(InputError, match=r"such as history\.svg"):
        save(found, tmp_path / "history")


def test_invalid_input_is_an_error() -> None:
    with pytest.raises(InputError, match="concepts to debias, got none"):
        debias(tiny.sd1(), [Erase("church")], FakeModel.score)
    few = Settings(steps=1)
    for nonsense in ([0, 1], np.full((10, 2), np.nan)):
        with pytest.raises(InputError, match="score 2 attributes of 10 images by finite numbers"):
            debias(tiny.sd1(), [Debias("judge", HALVES)], ConstantScorer(nonsense), settings=few)
    with pytest.raises(InputError, match="a step and a tolerance above 0"):
        Control(step=0)


@pytest.mark.slow
def test_an_earlier_evaluation_is_found_in_another_order_of_the_attributes(tmp_path: Path) -> None:
    asked = Debias("judge", HALVES)
    assert hash(asked) == hash(Debias("judge", dict(reversed(HALVES.items()))))
    file = tmp_path / "history.jsonl"
    counts = {"man": 2, "woman": 1}
    scores = ((3.0, 1.0), (3.0, 2.0), (0.0, 1.0))
    weights = {"man": 0.0, "woman": 0.25}
    made = Evaluation(1, "judge", weights, counts, scores, delta([2, 1], [0.5, 0.5]), False)
    History(file, "x").add(made)
    found = History(file, "x").find(1, "judge", {"woman": 0.25, "man": 0.0})
    assert found is not None
    assert list(found.counts.items()) == [("woman", 1), ("man", 2)]
    assert list(found.weights) == ["woman", "man"]
    assert found.scores[0] == (1.0, 3.0)
    assert History(file, "x").find(1, "judge", {"woman": 0.0, "man": 0.25}) is None
    assert History(file, "x").find(1, "judge", {"woman": 0.0}) is None


def test_on_the_miniature_a_biased_profession_is_balanced() -> None:
    from editing.pipelines.loading import load_pipeline

    pipe = load_pipeline("miniature")
    control = Control(most=40, rounds=8, tolerance=0.15)
    # Without a scorer, the miniature's own CLIP scores.
    found = debias(
        pipe, [Debias("firefighter", HALVES)],
        control=control, settings=Settings(6, 5.0, scheduler="DPMSolverMultistep"), nearest=0,
    )  # fmt: skip
    first, last = (
        found.evaluations[0].delta,
        min(found.evaluations, key=lambda x: (not x.done, x.delta.high)),
    )
    assert first.value > 0.5, "the world draws firefighters as men"
    assert last.delta.value <= 0.3
