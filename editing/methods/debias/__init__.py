"""Debiasing as a control loop: draw images, classify them, update the weights, solve again.

The weights of the attributes' values that give a concept its wanted ratios cannot be derived from
text vectors; images have to be drawn and classified. UCE (Gandikota et al. 2024, arXiv:2308.14761)
draws ten images of every concept in each of thirty rounds, with new seeds each time, and regards a
concept as done when ten images happen to be balanced, which a perfectly balanced model achieves one
time in four. This loop differs as follows.

- The images of a concept have the same seeds in every round (common random numbers), so that only
  the edit changes between rounds. No two concepts share seeds: seeds that happen to draw men would
  do so for all concepts.
- A round stops drawing as soon as an interval shows that a share is off. This is a sequential test
  whose level is divided among its interim tests, so that images are spent where the decision is
  hard.
- A concept is done when the largest allowed number of images is consistent with the wanted ratios.
  Its weights are then frozen, it costs no more images, and it stays in the joint solve.
- The best iterate of each concept is kept, whatever the last one was.
- The effect of the weights is learned from all images so far (`editing.methods.debias.response`),
  including those of other concepts with the same attributes, and from the score of every attribute,
  not only from the highest one: the weight of one attribute moves the others too, so the published
  rule (more weight for whatever is rare) need not converge. Each step starts at the iterate nearest
  to the goal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from editing.edit import Edit
from editing.generate.phrases import own_seed, phrase
from editing.methods import find
from editing.methods.closed_form import ClosedForm
from editing.methods.debias.history import Evaluation, History
from editing.methods.debias.response import fit_response
from editing.methods.debias.result import Debiased
from editing.metrics.attributes import AttributeScorer, zero_shot_scorer
from editing.metrics.ratios import delta
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Sampler, Settings, draw
from editing.pipelines.weights import base_name, weight_hash
from editing.requests import Request, checked
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.stats import clopper_pearson


@dataclass(frozen=True)
class Control:
    """Settings of the loop.

    Attributes:
        step: Fraction of the step to the weights that the response predicts, > 0.
        tolerance: Largest deviation from any wanted share at which a concept can be done.
        batch: Images between two interim tests, 1 or more.
        most: Maximum images per concept and round, rounded down to a multiple of `batch`.
        rounds: Maximum number of rounds.
        level: Confidence level of the sequential test, over all of its interim tests.
        template: Prompt; {} is replaced by the concept with its article.
    """

    step: float = 1.0
    tolerance: float = 0.1
    batch: int = 10
    most: int = 60
    rounds: int = 12
    level: float = 0.9
    template: str = "{}"

    def __post_init__(self) -> None:
        valid = (
            self.step > 0 and self.tolerance > 0 and self.batch >= 1 and self.most >= self.batch
            and self.rounds >= 1 and 0 < self.level < 1 and "{}" in self.template
        )  # fmt: skip
        if not valid:
            raise InputError(
                "Expected a step and a tolerance above 0, a batch of 1 or more, most >= batch, one "
                f"round or more, a level between 0 and 1 and {{}} in the template, got {self}; "
                "correct the control."
            )


def debias(
    pipe: Any,
    requests: Sequence[Request],
    scorer: AttributeScorer | str | None = None,
    *,
    method: str = "uce",
    control: Control | None = None,
    settings: Settings | None = None,
    batch_size: int = 16,
    seed: int = 0,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    checkpoint: str | Path | None = None,
    about: str = "",
    **options: Any,
) -> Debiased:
    """Finds the weights that bring every debiased concept to its ratios.

    The pipeline is restored afterwards.

    Args:
        pipe: The pipeline, or what `editing.pipelines.loading.load_pipeline` accepts.
        requests: One or more `Debias`; any others are part of every solve too.
        scorer: Scores attributes of images; or a CLIP model that does so zero-shot, see
            `editing.metrics.attributes.zero_shot_scorer`. None for the miniature's CLIP if that is
            the pipeline, and for ViT-B-32 otherwise.
        method: Name of a closed-form method.
        control: Settings of the loop.
        settings: Sampling settings.
        batch_size: Images per call of the pipeline; affects speed only.
        seed: Offset of the seeds of all concepts; the words of a concept determine its own.
        on_evaluation: Called after each concept of each round.
        checkpoint: File that stores each evaluation. If it exists, the loop resumes from it, with
            the same result as without a break; `rounds` may have been raised.
        about: Anything else that must match for resuming, such as the identity of the scorer.
        **options: Settings of the method.

    Returns:
        The edit and the history.

    Raises:
        InputError: No request is a `Debias`, requests contradict each other, a setting is invalid,
            or the checkpoint belongs to another loop.
    """
    control, settings = control or Control(), settings or Settings()
    pipe = load_pipeline(pipe)
    requests = checked(requests)
    wanted = {r.concept: r for r in requests if r.ratios}
    if not wanted:
        raise InputError(
            "Expected concepts to debias, got none; add Debias(concept, ratios), or use "
            "editing.fit for other requests."
        )
    if scorer is None and base_name(pipe) == "miniature":
        scorer = "miniature"
    if scorer is None or isinstance(scorer, str):
        about = f"{about} {scorer}" if scorer else about
        scorer = zero_shot_scorer(scorer)
    history = History(None, "")
    if checkpoint is not None:
        control_key = {n: v for n, v in asdict(control).items() if n != "rounds"}
        request_dicts = [r.to_dict() for r in requests]
        dependencies = [
            weight_hash(pipe), request_dicts, method, control_key, asdict(settings),
            Sampler(pipe, settings, batch_size).identity, batch_size, seed, about,
            repr(sorted(options.items())),
        ]  # fmt: skip
        history = History(Path(checkpoint), digest_bytes(canonical_json(dependencies).encode()))
    weights = {c: np.zeros(len(r.ratios)) for c, r in wanted.items()}
    best: dict[str, Evaluation] = {}
    evaluations: list[Evaluation] = []
    edit = None
    for round_number in range(control.rounds + 1):
        current = [_with_weights(r, weights) for r in requests]
        if round_number:
            edit = _solve_round(pipe, current, method, options, edit)
        active = [c for c in wanted if c not in best or not best[c].done]
        if not active:
            break
        for concept in active:
            request = wanted[concept]
            current_weights = dict(zip(request.ratios, weights[concept].tolist(), strict=True))
            evaluation = history.find(round_number, concept, current_weights)
            if evaluation is None:
                evaluation = _evaluate(
                    pipe,
                    edit,
                    request,
                    current_weights,
                    round_number,
                    scorer,
                    control,
                    settings,
                    batch_size,
                    seed,
                )
                history.add(evaluation)
            evaluations.append(evaluation)
            if on_evaluation is not None:
                on_evaluation(evaluation)
            if concept not in best or _is_better(evaluation, best[concept]):
                best[concept] = evaluation
        weights |= _next_weights(
            wanted, [c for c in active if not best[c].done], evaluations, control.step
        )
        weights |= {c: _weights(evaluation) for c, evaluation in best.items() if evaluation.done}
    best_weights = {c: _weights(evaluation) for c, evaluation in best.items()}
    final = find(method).fit(pipe, [_with_weights(r, best_weights) for r in requests], **options)
    rounds = 1 + max(evaluation.round for evaluation in evaluations)
    return Debiased(
        final,
        tuple(evaluations),
        sum(evaluation.delta.n for evaluation in evaluations),
        10 * len(wanted) * rounds,
    )


def crossed(*ratios: Mapping[str, float], pattern: str = "{} with {}") -> dict[str, float]:
    """Returns the ratios of all combinations of independent attributes.

    For example "man with dark skin" → 0.5 × 0.2.

    Args:
        *ratios: Attribute → wanted share, one mapping per kind of attribute.
        pattern: Text of a combination, with one {} per kind of attribute.
    """
    return {
        pattern.format(*names): float(np.prod([r[n] for r, n in zip(ratios, names, strict=True)]))
        for names in product(*ratios)
    }


def _next_weights(
    wanted: Mapping[str, Request],
    concepts: Sequence[str],
    evaluations: Sequence[Evaluation],
    step: float,
) -> dict[str, np.ndarray]:
    """Returns the next weights of each concept.

    They are computed from all evaluations of concepts with the same attributes.
    """
    found: dict[str, np.ndarray] = {}
    for attributes in dict.fromkeys(tuple(wanted[c].ratios) for c in concepts):
        related = [
            evaluation for evaluation in evaluations if tuple(evaluation.counts) == attributes
        ]
        rows = {
            c: i for i, c in enumerate(dict.fromkeys(evaluation.concept for evaluation in related))
        }
        index = [rows[evaluation.concept] for evaluation in related]
        weights = np.array([_weights(evaluation) for evaluation in related])
        scores = [np.array(evaluation.scores) for evaluation in related]
        response = fit_response(index, weights, scores)
        for concept in (c for c in concepts if tuple(wanted[c].ratios) == attributes):
            goal = np.array(list(wanted[concept].ratios.values()))
            own = [i for i, row in enumerate(index) if row == rows[concept]]
            found[concept] = response.next_weights(
                rows[concept], weights[own], [scores[i] for i in own], goal, step
            )
    return found


def _weights(evaluation: Evaluation) -> np.ndarray:
    return np.array(list(evaluation.weights.values()))


def _with_weights(request: Request, weights: Mapping[str, np.ndarray]) -> Request:
    found = weights.get(request.concept)
    if found is None:
        return request
    return request.weighted(dict(zip(request.ratios, found.tolist(), strict=True)))


def _solve_round(
    pipe: Any,
    requests: Sequence[Request],
    method: str,
    options: Mapping[str, Any],
    before: Edit | None,
) -> Edit:
    """Returns the edit of a round; only what changed since the last round is encoded."""
    found = find(method)
    if before is None or not isinstance(found, ClosedForm):
        return found.fit(pipe, requests, **options)
    return found.amend(before, pipe, requests)


def _evaluate(
    pipe: Any,
    edit: Edit | None,
    request: Request,
    weights: Mapping[str, float],
    round_number: int,
    scorer: AttributeScorer,
    control: Control,
    settings: Settings,
    batch_size: int,
    seed: int,
) -> Evaluation:
    """Draws images of a concept until a share is off or the maximum is reached."""
    attributes = list(request.ratios)
    goal = np.array(list(request.ratios.values()))
    prompt = control.template.replace("{}", phrase(request.concept))
    scores, counts = [], np.zeros(len(attributes), dtype=int)
    most = control.most // control.batch
    first = seed + own_seed(prompt)
    for _ in range(most):
        seeds = [first + len(scores) + i for i in range(control.batch)]
        images = _draw(pipe, edit, [prompt] * len(seeds), seeds, settings, batch_size)
        batch_scores = np.asarray(scorer(images, request.concept, attributes), float)
        if (
            batch_scores.shape != (len(seeds), len(attributes))
            or not np.isfinite(batch_scores).all()
        ):
            raise InputError(
                f"Expected the scorer to score {len(attributes)} attributes of {len(seeds)} images "
                f"by finite numbers, got the shape {batch_scores.shape} or non-finite numbers; see "
                "editing.metrics.attributes.AttributeScorer."
            )
        # Rounded, so that a resumed loop continues with the same numbers and the file stays small.
        scores += np.round(batch_scores, 6).tolist()
        counts = np.bincount(np.argmax(scores, axis=1), minlength=len(attributes))
        # Bonferroni over interim tests and attributes.
        if _is_off(counts, goal, 1 - (1 - control.level) / (most * len(attributes))):
            break
    n = len(scores)
    close = bool((np.abs(counts / n - goal) <= control.tolerance).all())
    done = n == most * control.batch and close
    return Evaluation(
        round_number, request.concept, dict(weights),
        dict(zip(attributes, counts.tolist(), strict=True)),
        tuple(map(tuple, scores)), delta(counts, goal), done,
    )  # fmt: skip


def _draw(
    pipe: Any,
    edit: Edit | None,
    prompts: list[str],
    seeds: list[int],
    settings: Settings,
    batch_size: int,
) -> list[Image.Image]:
    if edit is None:
        pixels = draw(pipe, prompts, seeds, settings=settings, batch_size=batch_size)
    else:
        # The edit was fitted to this pipeline; hashing its weights takes longer than drawing.
        with edit.applied(pipe, force=True):
            pixels = draw(pipe, prompts, seeds, settings=settings, batch_size=batch_size)
    return [Image.fromarray(array) for array in pixels]


def _is_off(counts: np.ndarray, goal: np.ndarray, level: float) -> bool:
    """Returns whether the exact interval of any share excludes the wanted share."""
    low, high = clopper_pearson(counts, int(counts.sum()), level)
    return bool(((goal < low) | (goal > high)).any())


def _is_better(evaluation: Evaluation, other: Evaluation) -> bool:
    """Returns whether an evaluation is better than another.

    Upper ends of intervals are compared, because a small distance needs many images to be
    credible.
    """
    return (evaluation.done, -evaluation.delta.high) > (other.done, -other.delta.high)
