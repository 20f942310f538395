"""Estimates of the size and the cost of one or several comparisons, before they run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visdiff.comparison.backends import Backends
from visdiff.comparison.rounds import MAX_ROUNDS
from visdiff.comparison.split import Halves, SplitPair, may_cross_fit, split_pair
from visdiff.config import Config
from visdiff.engine import Backend
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm.budget import Price


@dataclass(frozen=True)
class Plan:
    """Upper bounds of the work of a comparison, without regard to cached results.

    Attributes:
        n_a: Number of images of set A.
        n_b: Number of images of set B.
        captions: Largest number of images to caption.
        scored: Number of images to score (the scoring half, or all with cross-fitting).
        hypotheses: Largest number of hypotheses, over both directions and all rounds.
        paid_calls: Largest number of calls of the chat model, including the shuffled runs.
        double_dipped: Whether there are too few images for two halves, so that nothing can be
            confirmed.
        cost: Estimated cost of the calls in US dollars; None without prices.
        notes: Sentences about files that were left out of the sets and how the others were found.
        cross_fitted: Whether hypotheses are proposed from each half and tested on the other.
    """

    n_a: int
    n_b: int
    captions: int
    scored: int
    hypotheses: int
    paid_calls: int
    double_dipped: bool
    cost: float | None = None
    notes: tuple[str, ...] = ()
    cross_fitted: bool = False

    def to_json(self) -> str:
        """Returns the plan as JSON."""
        return json.dumps(asdict(self))

    def sentence(self) -> str:
        """Returns the plan in one or two sentences."""
        text = (
            f"{self.n_a} images against {self.n_b}: {self.captions} to caption, {self.scored} to "
            f"score on at most {self.hypotheses} hypotheses, less what the cache holds; "
            f"{_paid(self.paid_calls, self.cost)}"
        )
        if self.double_dipped:
            text += " Too few images for two halves: nothing can be confirmed."
        if self.cross_fitted:
            text += " Cross-fitted: each half is tested with the hypotheses of the other."
        return " ".join([text, *self.notes])


@dataclass(frozen=True)
class ManyPlan:
    """Upper bounds of the work of several comparisons with common models, cache and budget.

    Attributes:
        comparisons: Number of comparisons.
        images: Number of distinct images.
        captions: Largest number of distinct images to caption.
        scored: Number of images to score, summed over the comparisons: each has its own hypotheses.
        hypotheses: Largest number of hypotheses of all comparisons together.
        paid_calls: Largest number of calls of the chat model.
        double_dipped: Number of comparisons with too few images for two halves.
        classified: Number of images to classify before the sets are known, times the number of
            classifiers. The other numbers are then bounds for the largest possible sets.
        cost: Estimated cost of the calls in US dollars; None without prices.
        notes: Sentences about files that were left out of the sets and how the others were found.
    """

    comparisons: int
    images: int
    captions: int
    scored: int
    hypotheses: int
    paid_calls: int
    double_dipped: int = 0
    classified: int = 0
    cost: float | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the plan as JSON."""
        return json.dumps(asdict(self))

    def sentence(self) -> str:
        """Returns the plan in a few sentences."""
        text = f"{self.comparisons} comparisons of {self.images} images: "
        if self.classified:
            text = (
                f"{self.classified} images to classify before the sets are known; then at most "
                + text
            )
        text += (
            f"{self.captions} to caption, {self.scored} to score on at most {self.hypotheses} "
            "hypotheses in all, less what the cache holds; "
            f"{_paid(self.paid_calls, self.cost)}"
        )
        if self.double_dipped:
            text += (
                f" {self.double_dipped} of the comparisons have too few images for two halves: "
                "nothing can be confirmed there."
            )
        return " ".join([text, *self.notes])


def plan(pair: SplitPair, config: Config) -> Plan:
    """Estimates the work of a comparison without decoding images or loading models.

    Raises:
        InputError: A backend cannot be created from its settings.
    """
    backends, halves = Backends.of(config), pair.halves
    sizes = _Sizes.of(halves)
    work = _estimate(backends, config, sizes)
    return Plan(
        n_a=len(pair.set_a),
        n_b=len(pair.set_b),
        captions=work.captions,
        scored=sizes.scored,
        hypotheses=work.hypotheses,
        paid_calls=work.paid(config),
        double_dipped=halves.double_dipped,
        cost=work.cost(config),
        notes=tuple(dict.fromkeys([*pair.set_a.notes, *pair.set_b.notes])),
        cross_fitted=halves.first is not None,
    )


def plan_many(
    pairs: Sequence[tuple[ImageSet, ImageSet]],
    config: Config,
    held_out: Sequence[tuple[ImageSet, ImageSet]] = (),
) -> ManyPlan:
    """Estimates the work of several comparisons without decoding images or loading models.

    An image of several comparisons is captioned at most once. A pair that cannot be compared is
    not counted; the run reports the reason.

    Args:
        pairs: Set A and set B of each comparison.
        config: The configuration.
        held_out: For each pair, the held-out images on which its confirmed sentences are checked;
            empty without such a check.

    Raises:
        InputError: A backend cannot be created from its settings.
    """
    backends = Backends.of(config)
    works, scored, dipped = list[CallEstimate](), 0, 0
    everything, captioned = set[str](), set[str]()
    for k, (a, b) in enumerate(pairs):
        try:
            halves = split_pair(a, b, config).halves
        except InputError:
            continue
        sizes = _Sizes.of(halves)
        n_held_out = sum(len(images) for images in held_out[k]) if held_out else 0
        work = _estimate(backends, config, sizes, n_held_out)
        works.append(work)
        scored += sizes.scored + n_held_out
        dipped += halves.double_dipped
        everything |= _names(a) | _names(b)
        if work.captions_discovery:
            captioned |= _names(halves.discovery_a) | _names(halves.discovery_b)
        if work.captions_scoring:
            captioned |= _names(halves.scoring_a) | _names(halves.scoring_b)
        for images in held_out[k] if held_out else ():
            everything |= _names(images)
            captioned |= _names(images) if backends.ranker.needs_captions else set()
    together = sum_estimates(works, len(captioned), backends)
    return ManyPlan(
        comparisons=len(works),
        images=len(everything),
        captions=len(captioned),
        scored=scored,
        hypotheses=together.hypotheses,
        paid_calls=together.paid(config),
        double_dipped=dipped,
        cost=together.cost(config),
        notes=tuple(dict.fromkeys(note for pair in pairs for s in pair for note in s.notes)),
    )


def plan_unformed(
    n: int, slices: int, classified: int, held_out: float, config: Config
) -> ManyPlan:
    """Bounds the work of comparisons whose sets are not known yet, from the number of images.

    The bound assumes that every image belongs to one of the two sets, in the comparison of all
    images and in that of one slice, and that one of the sets is small enough for cross-fitting.

    Args:
        n: Number of images.
        slices: Number of slices (classes, values of a column) that are also compared; 0 for none.
        classified: Number of images to classify, times the number of classifiers.
        held_out: Fraction of the images that is held out to check the confirmed sentences.
        config: The configuration.

    Raises:
        InputError: A backend cannot be created from its settings.
    """
    backends = Backends.of(config)
    n_held_out = round(n * held_out)
    n_compared = n - n_held_out
    sizes = _Sizes(n_compared, n_compared, crossed=True)
    if not may_cross_fit(config):
        n_discovery = round(n_compared * config.statistics.discovery_fraction)
        sizes = _Sizes(n_discovery, n_compared - n_discovery)
    whole = _estimate(backends, config, sizes, n_held_out)
    # All slices together have as many images as the whole; calls per round are needed for each.
    works = [whole, whole] if slices else [whole]
    works += [_estimate(backends, config, _Sizes(0, 0))] * max(0, slices - 1)
    captions = whole.captions + (n_held_out if backends.ranker.needs_captions else 0)
    together = sum_estimates(works, captions, backends)
    return ManyPlan(
        comparisons=1 + slices,
        images=n,
        captions=captions,
        scored=(sizes.scored + n_held_out) * (2 if slices else 1),
        hypotheses=together.hypotheses,
        paid_calls=together.paid(config),
        classified=classified,
        cost=together.cost(config),
    )


@dataclass(frozen=True)
class CallEstimate:
    """The work of a comparison: hypotheses, captions and calls of the chat model."""

    hypotheses: int
    captions: int
    captions_discovery: bool
    captions_scoring: bool
    # Backend and number of its calls; the captioner, if it uses the chat model, calls per image.
    other_calls: Sequence[tuple[Backend, int]]
    captioner: Backend

    @property
    def calls_by_backend(self) -> list[tuple[Backend, int]]:
        """Each backend that uses the chat model, and the number of its calls."""
        if self.captioner.asks:
            return [*self.other_calls, (self.captioner, self.captions)]
        return list(self.other_calls)

    @property
    def calls(self) -> int:
        """The number of calls of the chat model, without regard to the budget."""
        return sum(n for _, n in self.calls_by_backend)

    def paid(self, config: Config) -> int:
        """Returns the number of calls that the budget allows."""
        limit = config.llm.max_calls
        return self.calls if limit is None else min(self.calls, limit)

    def cost(self, config: Config) -> float | None:
        """Returns the cost of the calls in US dollars, at most the budget; None without prices."""
        prices = config.llm.prompt_price, config.llm.completion_price
        if prices[0] is None or prices[1] is None:
            return None
        price, cost = Price(prices[0], prices[1]), 0.0
        for backend, calls in self.calls_by_backend:
            prompt, completion = backend.tokens_a_call
            cost += price.cost_of(prompt * calls, completion * calls)
        cost *= self.paid(config) / self.calls if self.calls else 1.0
        return cost if config.llm.max_cost is None else min(cost, config.llm.max_cost)


@dataclass(frozen=True)
class _Sizes:
    """Numbers of images of both sets in each half, and whether the halves are the same images."""

    discovery: int
    scored: int
    double_dipped: bool = False
    crossed: bool = False

    @classmethod
    def of(cls, halves: Halves) -> "_Sizes":
        return cls(
            len(halves.discovery_a) + len(halves.discovery_b),
            len(halves.scoring_a) + len(halves.scoring_b),
            halves.double_dipped,
            halves.first is not None,
        )


def _estimate(
    backends: Backends, config: Config, sizes: _Sizes, n_held_out: int = 0
) -> CallEstimate:
    reads = backends.ranker.needs_captions
    discovery = backends.reads_discovery_captions(config)
    # The second ranker checks confirmed differences only; there are none if double-dipped.
    verifier = None if sizes.double_dipped else backends.verifier
    scoring = reads or (verifier is not None and verifier.needs_captions)
    captions = sizes.discovery if discovery else 0
    if scoring and not ((sizes.double_dipped or sizes.crossed) and captions):
        captions += sizes.scored
    rounds = MAX_ROUNDS if config.rounds == "auto" else config.rounds
    # Each half proposes; on average, a hypothesis is scored on half of the images then.
    folds = 2 if sizes.crossed else 1
    hypotheses = 2 * backends.proposer.max_hypotheses * rounds * folds
    repeats = 1 + config.null_repeats
    other_calls: list[tuple[Backend, int]] = [
        (proposer, proposer.calls * rounds * repeats * folds) for proposer in backends.proposers
    ]
    if backends.ranker.asks:
        # Between rounds, new hypotheses are also scored on the discovery half.
        images = (sizes.scored + (sizes.discovery if rounds > 1 else 0)) // folds
        other_calls.append((backends.ranker, hypotheses * (images * repeats + n_held_out)))
    if verifier is not None and verifier.asks:
        other_calls.append((verifier, hypotheses * sizes.scored))
    return CallEstimate(hypotheses, captions, discovery, scoring, other_calls, backends.captioner)


def sum_estimates(works: Sequence[CallEstimate], captions: int, backends: Backends) -> CallEstimate:
    """Returns the sum of several estimates, with a total number of images to caption."""
    return CallEstimate(
        sum(work.hypotheses for work in works),
        captions,
        any(work.captions_discovery for work in works),
        any(work.captions_scoring for work in works),
        [calls for work in works for calls in work.other_calls],
        backends.captioner,
    )


def _names(images: ImageSet) -> set[str]:
    """Returns a unique name of each image across sets: its file, or its source and id."""
    paths: Iterable[Any] = (images.path(i) for i in range(len(images)))
    return {
        f"{images.source} {name}" if path is None else str(path)
        for path, name in zip(paths, images.ids, strict=True)
    }


def _paid(calls: int, cost: float | None) -> str:
    text = f"{calls} calls of the chat model"
    return text + ("." if cost is None else f", about US$ {cost:.2f}.")
