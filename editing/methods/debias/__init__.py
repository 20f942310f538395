"""Debiasing as a control loop: draw, look, move the weights, solve again.

Which weights of its attributes' values bring a concept to the wanted ratios cannot be read off text
vectors: images have to be drawn and looked at. UCE (Gandikota et al. 2024, arXiv:2308.14761) draws
ten images of every concept in each of thirty rounds, with new seeds each time, and calls a concept
done when ten images happen to be balanced, which a perfectly balanced model achieves one time in
four. Here

- a concept's images have the same seeds in every round (common random numbers), so that what
  changes between rounds is the edit, and no other concept has them: seeds that happen to draw men
  would do so for all;
- a round stops drawing as soon as an interval says that a share is off (a sequential test, its
  level shared out over the looks), so that images are spent where the decision is hard;
- a concept is done when as many images as were allowed could not tell it from the wanted ratios;
  it is then frozen, costs nothing more, and stays in the one solve with the others;
- each concept's best iterate is kept, whatever the last one did;
- what weights do is learned from all images so far (`editing.methods.debias.response`), those of
  other concepts with the same attributes included, and from how near each attribute is, not only
  which is
  nearest: an attribute's weight moves others too, so that weight for whatever is rare, the
  published rule, need not lead anywhere. Each step starts at the iterate that was nearest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from editing.edit import Edit
from editing.generate.phrases import own_seed, phrase
from editing.methods import find
from editing.methods.closed_form import ClosedForm
from editing.methods.debias.history import Evaluation, History
from editing.methods.debias.response import identified
from editing.metrics.attributes import AttributeScorer
from editing.metrics.ratios import delta
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings, draw
from editing.pipelines.weights import weight_hash
from editing.requests import Request, checked
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.stats import clopper_pearson

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Control:
    """How the loop is run.

    Attributes:
        step: Share of the way to the weights that the response calls for, > 0.
        tolerance: A concept may be called done only within this of every wanted share.
        batch: Images between two looks, 1 or more.
        most: Images of a concept a round at most; a multiple of `batch` is used.
        rounds: Rounds at most.
        level: Of the sequential test, over all of its looks.
        template: Prompt, {} where the concept stands, with its article.
    """

    step: float = 1.0
    tolerance: float = 0.1
    batch: int = 10
    most: int = 60
    rounds: int = 12
    level: float = 0.9
    template: str = "{}"

    def __post_init__(self) -> None:
        sound = (
            self.step > 0 and self.tolerance > 0 and self.batch >= 1 and self.most >= self.batch
            and self.rounds >= 1 and 0 < self.level < 1 and "{}" in self.template
        )  # fmt: skip
        if not sound:
            raise InputError(
                "expected a step and a tolerance above 0, 1 image a look or more, at least one "
                f"look and one round, a level between 0 and 1 and {{}} in the template, got {self}."
            )


@dataclass(frozen=True)
class Debiased:
    """What the loop ends with.

    Attributes:
        edit: The edit with each concept's best weights.
        looks: The history, round after round.
        images: Images that were drawn in all.
        original_recipe: What the published loop draws until it stops at the earliest: ten of every
            concept in every round that this loop took.
    """

    edit: Edit
    looks: tuple[Evaluation, ...]
    images: int
    original_recipe: int = field(default=0)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Concepts that no round called done."""
        done = {look.concept for look in self.looks if look.done}
        return tuple(dict.fromkeys(x.concept for x in self.looks if x.concept not in done))

    def to_frame(self) -> "pd.DataFrame":
        """The history, one row an attribute, concept and round."""
        import pandas as pd

        rows = [
            {
                "round": look.round,
                "concept": look.concept,
                "attribute": attribute,
                "weight": look.weights[attribute],
                "count": count,
                "n": look.delta.n,
                "share": count / look.delta.n,
                "delta": look.delta.value,
                "done": look.done,
            }
            for look in self.looks
            for attribute, count in look.counts.items()
        ]
        return pd.DataFrame(rows)


def debias(
    pipe: Any,
    requests: Sequence[Request],
    scorer: AttributeScorer,
    *,
    method: str = "uce",
    control: Control | None = None,
    settings: Settings | None = None,
    batch_size: int = 16,
    seed: int = 0,
    on_look: Callable[[Evaluation], None] | None = None,
    checkpoint: str | Path | None = None,
    about: str = "",
    **options: Any,
) -> Debiased:
    """Brings every debiased concept to its ratios; the pipeline is given back as it was.

    Args:
        pipe: The pipeline, or what `editing.pipelines.loading.load_pipeline` takes.
        requests: One or more `Debias`, beside any others, which every round meets too.
        scorer: Reads attributes off images.
        method: A closed form.
        control: How the loop is run.
        settings: How to sample.
        batch_size: Images a call of the pipeline; changes speed, not images.
        seed: Shifts the seeds of all concepts; which each has its words determine.
        on_look: Told after each concept of each round.
        checkpoint: A file that keeps each look. Where it exists, the loop goes on from it, to the
            same end as without a break; with more rounds, too.
        about: What else must be the same for that, such as the identity of the scorer.
        **options: The method's own settings.

    Raises:
        InputError: No concept is to be debiased, requests contradict each other, a setting is not
            sound, or the checkpoint is of another loop.
    """
    control, settings = control or Control(), settings or Settings()
    pipe = load_pipeline(pipe)
    asked = checked(requests)
    wanted = {r.concept: r for r in asked if r.ratios}
    if not wanted:
        raise InputError(
            "expected concepts to debias, got none: give Debias(concept, ratios), or use "
            "editing.fit for other requests."
        )
    history = History(None, "")
    if checkpoint is not None:
        within = {n: v for n, v in asdict(control).items() if n != "rounds"}
        described = [r.to_dict() for r in asked]
        depends = [weight_hash(pipe), described, method, within, asdict(settings),
                   batch_size, seed, about, repr(sorted(options.items()))]  # fmt: skip
        history = History(Path(checkpoint), digest_bytes(canonical_json(depends).encode()))
    weights = {c: np.zeros(len(r.ratios)) for c, r in wanted.items()}
    best: dict[str, Evaluation] = {}
    looks: list[Evaluation] = []
    edit = None
    for turn in range(control.rounds + 1):
        current = [_weighted(r, weights) for r in asked]
        if turn:
            edit = _solved(pipe, current, method, options, edit)
        active = [c for c in wanted if c not in best or not best[c].done]
        if not active:
            break
        for concept in active:
            request = wanted[concept]
            given = dict(zip(request.ratios, weights[concept].tolist(), strict=True))
            look = history.find(turn, concept, given)
            if look is None:
                look = _look(
                    pipe, edit, request, given, turn, scorer, control, settings, batch_size, seed
                )
                history.add(look)
            looks.append(look)
            if on_look is not None:
                on_look(look)
            if concept not in best or _better(look, best[concept]):
                best[concept] = look
        weights |= _moved(wanted, [c for c in active if not best[c].done], looks, control.step)
        weights |= {c: _weights(look) for c, look in best.items() if look.done}
    kept = {c: _weights(look) for c, look in best.items()}
    final = find(method).fit(pipe, [_weighted(r, kept) for r in asked], **options)
    rounds = 1 + max(look.round for look in looks)
    return Debiased(
        final, tuple(looks), sum(look.delta.n for look in looks), 10 * len(wanted) * rounds
    )


def crossed(*ratios: Mapping[str, float], pattern: str = "{} with {}") -> dict[str, float]:
    """Crosses attributes that are wanted independently: "man with dark skin" → 0.5 × 0.2.

    Args:
        *ratios: Attribute → wanted share, one mapping a kind of attribute.
        pattern: How the attributes of a crossing are said, {} for each.
    """
    return {
        pattern.format(*names): float(np.prod([r[n] for r, n in zip(ratios, names, strict=True)]))
        for names in product(*ratios)
    }


def _moved(
    wanted: Mapping[str, Request], concepts: Sequence[str], looks: Sequence[Evaluation], step: float
) -> dict[str, np.ndarray]:
    """Concept → its next weights, from all looks at concepts with the same attributes."""
    found: dict[str, np.ndarray] = {}
    for attributes in dict.fromkeys(tuple(wanted[c].ratios) for c in concepts):
        kin = [look for look in looks if tuple(look.counts) == attributes]
        rows = {c: i for i, c in enumerate(dict.fromkeys(look.concept for look in kin))}
        index = [rows[look.concept] for look in kin]
        weights = np.array([_weights(look) for look in kin])
        scores = [np.array(look.scores) for look in kin]
        response = identified(index, weights, scores)
        for concept in (c for c in concepts if tuple(wanted[c].ratios) == attributes):
            goal = np.array(list(wanted[concept].ratios.values()))
            own = [i for i, row in enumerate(index) if row == rows[concept]]
            found[concept] = response.towards(
                rows[concept], weights[own], [scores[i] for i in own], goal, step
            )
    return found


def _weights(look: Evaluation) -> np.ndarray:
    return np.array(list(look.weights.values()))


def _weighted(request: Request, weights: Mapping[str, np.ndarray]) -> Request:
    found = weights.get(request.concept)
    if found is None:
        return request
    return request.weighted(dict(zip(request.ratios, found.tolist(), strict=True)))


def _solved(
    pipe: Any,
    requests: Sequence[Request],
    method: str,
    options: Mapping[str, Any],
    before: Edit | None,
) -> Edit:
    """Solves for a round; what is the same in all of them is read from the text encoder once."""
    found = find(method)
    if before is None or not isinstance(found, ClosedForm):
        return found.fit(pipe, requests, **options)
    return found.amended(before, pipe, requests)


def _look(
    pipe: Any,
    edit: Edit | None,
    request: Request,
    weights: Mapping[str, float],
    turn: int,
    scorer: AttributeScorer,
    control: Control,
    settings: Settings,
    batch_size: int,
    seed: int,
) -> Evaluation:
    """Draws a concept's images until they tell, or until there are as many as allowed."""
    attributes = list(request.ratios)
    goal = np.array(list(request.ratios.values()))
    prompt = control.template.replace("{}", phrase(request.concept))
    scores, counts = [], np.zeros(len(attributes), dtype=int)
    most = control.most // control.batch
    first = seed + own_seed(prompt)
    for _ in range(most):
        seeds = [first + len(scores) + i for i in range(control.batch)]
        images = _draw(pipe, edit, [prompt] * len(seeds), seeds, settings, batch_size)
        seen = np.asarray(scorer(images, request.concept, attributes), float)
        if seen.shape != (len(seeds), len(attributes)) or not np.isfinite(seen).all():
            raise InputError(
                f"expected the scorer to score {len(attributes)} attributes of {len(seeds)} images "
                f"by finite numbers, got the shape {seen.shape} or others: see "
                "editing.metrics.attributes.AttributeScorer."
            )
        # Few digits, so that a checkpoint holds what the loop goes on with, and is not large.
        scores += np.round(seen, 6).tolist()
        counts = np.bincount(np.argmax(scores, axis=1), minlength=len(attributes))
        # Bonferroni over looks and attributes.
        if _off(counts, goal, 1 - (1 - control.level) / (most * len(attributes))):
            break
    n = len(scores)
    close = bool((np.abs(counts / n - goal) <= control.tolerance).all())
    done = n == most * control.batch and close
    return Evaluation(
        turn, request.concept, dict(weights), dict(zip(attributes, counts.tolist(), strict=True)),
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
        # Of this very pipeline: hashing all weights at each look would take longer than drawing.
        with edit.applied(pipe, force=True):
            pixels = draw(pipe, prompts, seeds, settings=settings, batch_size=batch_size)
    return [Image.fromarray(array) for array in pixels]


def _off(counts: np.ndarray, goal: np.ndarray, level: float) -> bool:
    """Whether an exact interval of a share leaves out what is wanted."""
    low, high = clopper_pearson(counts, int(counts.sum()), level)
    return bool(((goal < low) | (goal > high)).any())


def _better(look: Evaluation, other: Evaluation) -> bool:
    """More images are a better reason to believe a small distance: the upper ends are compared."""
    return (look.done, -look.delta.high) > (other.done, -other.delta.high)
