"""What a comparison, or many, will do and cost, before it does it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visdiff.comparison.backends import Backends
from visdiff.comparison.rounds import MAX_ROUNDS
from visdiff.comparison.split import Halves, SplitPair, split_pair
from visdiff.config import Config
from visdiff.engine import Backend
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm.budget import Price


@dataclass(frozen=True)
class Plan:
    """Sizes and upper bounds of the work; what the cache holds already comes off.

    Attributes:
        n_a: Images of set A.
        n_b: Images of set B.
        captions: Images to caption at most (the discovery half).
        scored: Images to score (the other half).
        hypotheses: Most hypotheses, both directions, all rounds.
        paid_calls: Questions to the chat model at most, those of the shuffled runs included.
        double_dipped: Too few images for two halves: nothing can be confirmed.
        cost: US dollars for those questions, roughly; None where no price is given.
    """

    n_a: int
    n_b: int
    captions: int
    scored: int
    hypotheses: int
    paid_calls: int
    double_dipped: bool
    cost: float | None = None

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self))

    def sentence(self) -> str:
        """The plan in one or two sentences."""
        text = (
            f"{self.n_a} images against {self.n_b}: {self.captions} to caption, {self.scored} to "
            f"score on at most {self.hypotheses} hypotheses, less what the cache holds; "
            f"{_paid(self.paid_calls, self.cost)}"
        )
        if self.double_dipped:
            text += " Too few images for two halves: nothing can be confirmed."
        return text


@dataclass(frozen=True)
class ManyPlan:
    """The same for several comparisons that share their models, their cache and their budget.

    Attributes:
        comparisons: How many.
        images: Distinct images in them.
        captions: Distinct images to caption at most.
        scored: Images to score, over all comparisons: each has hypotheses of its own.
        hypotheses: Most hypotheses of all comparisons together.
        paid_calls: Questions to the chat model at most.
        double_dipped: Comparisons with too few images for two halves.
        classified: Images that a classifier has to be run on before the sets are known, times the
            classifiers; the numbers above are then those of the largest sets that can come of it.
        cost: US dollars for those questions, roughly; None where no price is given.
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

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self))

    def sentence(self) -> str:
        """The plan in a few sentences."""
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
        return text


def plan(pair: SplitPair, config: Config) -> Plan:
    """Counts what a comparison takes; decodes no image and loads no model.

    Raises:
        InputError: A backend cannot be had as it is configured.
    """
    backends, halves = Backends.of(config), pair.halves
    n_discovery, n_scored = _sizes(halves)
    work = _estimate(backends, config, n_discovery, n_scored, halves.double_dipped)
    return Plan(
        n_a=len(pair.set_a),
        n_b=len(pair.set_b),
        captions=work.captions,
        scored=n_scored,
        hypotheses=work.hypotheses,
        paid_calls=work.paid(config),
        double_dipped=halves.double_dipped,
        cost=work.cost(config),
    )


def plan_many(
    pairs: Sequence[tuple[ImageSet, ImageSet]],
    config: Config,
    held_out: Sequence[tuple[ImageSet, ImageSet]] = (),
) -> ManyPlan:
    """Counts what comparing several pairs of sets takes; decodes no image and loads no model.

    An image that is in several comparisons is captioned once, if at all. A pair that cannot be
    compared takes nothing: the run says why.

    Args:
        pairs: Set A and set B of each comparison.
        config: The configuration.
        held_out: For each pair, the images that its confirmed sentences are checked on in the end;
            empty when there is no such check.

    Raises:
        InputError: A backend cannot be had as it is configured.
    """
    backends = Backends.of(config)
    works, scored, dipped = list[CallEstimate](), 0, 0
    everything, captioned = set[str](), set[str]()
    for k, (a, b) in enumerate(pairs):
        try:
            halves = split_pair(a, b, config).halves
        except InputError:
            continue
        n_discovery, n_scored = _sizes(halves)
        n_held_out = sum(len(images) for images in held_out[k]) if held_out else 0
        work = _estimate(backends, config, n_discovery, n_scored, halves.double_dipped, n_held_out)
        works.append(work)
        scored += n_scored + n_held_out
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
    )


def plan_unformed(
    n: int, slices: int, classified: int, held_out: float, config: Config
) -> ManyPlan:
    """Bounds what comparisons of sets take that are not formed yet, from their images alone.

    Every image is taken to end in one of the two sets, of the whole and of one slice.

    Args:
        n: Images.
        slices: Slices (classes, values of a column) that are compared as well; 0 for none.
        classified: Images to classify, times the classifiers.
        held_out: Share of the images that the confirmed sentences are checked on in the end.
        config: The configuration.

    Raises:
        InputError: A backend cannot be had as it is configured.
    """
    backends = Backends.of(config)
    n_held_out = round(n * held_out)
    n_discovery = round((n - n_held_out) * config.statistics.discovery_fraction)
    n_scored = n - n_held_out - n_discovery
    whole = _estimate(backends, config, n_discovery, n_scored, False, n_held_out)
    # All slices together have the images of the whole; what is asked once a round is asked of each.
    works = [whole, whole] if slices else [whole]
    works += [_estimate(backends, config, 0, 0, False)] * max(0, slices - 1)
    captions = whole.captions + (n_held_out if backends.ranker.needs_captions else 0)
    together = sum_estimates(works, captions, backends)
    return ManyPlan(
        comparisons=1 + slices,
        images=n,
        captions=captions,
        scored=(n_scored + n_held_out) * (2 if slices else 1),
        hypotheses=together.hypotheses,
        paid_calls=together.paid(config),
        classified=classified,
        cost=together.cost(config),
    )


@dataclass(frozen=True)
class CallEstimate:
    """What a comparison asks of its models."""

    hypotheses: int
    captions: int
    captions_discovery: bool
    captions_scoring: bool
    # By who asks: how often; and the captioner, which asks once an image.
    asked: Sequence[tuple[Backend, int]]
    captioner: Backend

    @property
    def questions(self) -> list[tuple[Backend, int]]:
        """By who asks the chat model: how often."""
        if self.captioner.asks:
            return [*self.asked, (self.captioner, self.captions)]
        return list(self.asked)

    @property
    def calls(self) -> int:
        """Questions to the chat model, whatever may be spent."""
        return sum(n for _, n in self.questions)

    def paid(self, config: Config) -> int:
        """Questions that the budget allows."""
        limit = config.llm.max_calls
        return self.calls if limit is None else min(self.calls, limit)

    def cost(self, config: Config) -> float | None:
        """US dollars for them, no more than the budget; None without a price."""
        prices = config.llm.prompt_price, config.llm.completion_price
        if prices[0] is None or prices[1] is None:
            return None
        price, cost = Price(prices[0], prices[1]), 0.0
        for backend, calls in self.questions:
            prompt, completion = backend.tokens_a_call
            cost += price.cost_of(prompt * calls, completion * calls)
        cost *= self.paid(config) / self.calls if self.calls else 1.0
        return cost if config.llm.max_cost is None else min(cost, config.llm.max_cost)


def _estimate(
    backends: Backends,
    config: Config,
    n_discovery: int,
    n_scored: int,
    double_dipped: bool,
    n_held_out: int = 0,
) -> CallEstimate:
    reads = backends.ranker.needs_captions
    discovery = backends.reads_discovery_captions(config)
    # The second ranker checks only what is confirmed, which is nothing when double-dipped.
    verifier = None if double_dipped else backends.verifier
    scoring = reads or (verifier is not None and verifier.needs_captions)
    captions = n_discovery if discovery else 0
    if scoring and not (double_dipped and captions):
        captions += n_scored
    rounds = MAX_ROUNDS if config.rounds == "auto" else config.rounds
    hypotheses = 2 * backends.proposer.max_hypotheses * rounds
    repeats = 1 + config.null_repeats
    calls = backends.proposer.calls * rounds * repeats
    asked: list[tuple[Backend, int]] = [(backends.proposer, calls)]
    if backends.ranker.asks:
        # Between rounds, what is new is also scored on the discovery half.
        images = n_scored + (n_discovery if rounds > 1 else 0)
        asked.append((backends.ranker, hypotheses * (images * repeats + n_held_out)))
    if verifier is not None and verifier.asks:
        asked.append((verifier, hypotheses * n_scored))
    return CallEstimate(hypotheses, captions, discovery, scoring, asked, backends.captioner)


def sum_estimates(works: Sequence[CallEstimate], captions: int, backends: Backends) -> CallEstimate:
    """Several comparisons as one, in which so many images are captioned."""
    return CallEstimate(
        sum(work.hypotheses for work in works),
        captions,
        any(work.captions_discovery for work in works),
        any(work.captions_scoring for work in works),
        [asked for work in works for asked in work.asked],
        backends.captioner,
    )


def _sizes(halves: Halves) -> tuple[int, int]:
    return (
        len(halves.discovery_a) + len(halves.discovery_b),
        len(halves.scoring_a) + len(halves.scoring_b),
    )


def _names(images: ImageSet) -> set[str]:
    """What tells an image from others of other sets: its file, or its id in this set."""
    paths: Iterable[Any] = (images.path(i) for i in range(len(images)))
    return {
        f"{images.source} {name}" if path is None else str(path)
        for path, name in zip(paths, images.ids, strict=True)
    }


def _paid(calls: int, cost: float | None) -> str:
    text = f"{calls} calls of the chat model"
    return text + ("." if cost is None else f", about US$ {cost:.2f}.")
