"""What a comparison will do and cost, before it does it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visdiff.backends import Backends
from visdiff.config import Config
from visdiff.halves import align, cut, open_both
from visdiff.llm.budget import Price
from visdiff.rounds import MAX_ROUNDS

# Of a backend that does not say: a picture, a sentence, a caption.
_TOKENS_A_CALL = (1100, 60)


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
            f"{self.paid_calls} calls of the chat model"
            + ("." if self.cost is None else f", about US$ {self.cost:.2f}.")
        )
        if self.double_dipped:
            text += " Too few images for two halves: nothing can be confirmed."
        return text


def plan(
    a: Any,
    b: Any,
    config: Config,
    where_a: Mapping[str, Any] | None = None,
    where_b: Mapping[str, Any] | None = None,
) -> Plan:
    """Opens both sets and counts; decodes no image and loads no model.

    Raises:
        InputError: A source, column or group does not exist, a set is empty, or a backend cannot be
            had as it is configured.
    """
    set_a, set_b = open_both(a, b, where_a, where_b)
    sizes = len(set_a), len(set_b)
    if config.paired_by:
        set_a, set_b, _ = align(set_a, set_b, config.paired_by)
    settings = config.statistics
    halves = cut(
        set_a,
        set_b,
        fraction=settings.discovery_fraction,
        min_scored=settings.min_scored,
        paired_by=config.paired_by,
    )
    discovery = len(halves.discovery_a) + len(halves.discovery_b)
    scored = len(halves.scoring_a) + len(halves.scoring_b)
    backends = Backends.of(config)
    captions, reads = 0, backends.ranker.needs_captions
    if backends.proposer.needs_captions or (reads and config.rounds != 1):
        captions = discovery
    if reads and not (halves.double_dipped and captions):
        captions += scored
    rounds = MAX_ROUNDS if config.rounds == "auto" else config.rounds
    hypotheses = 2 * backends.proposer.max_hypotheses * rounds
    # By who asks: how often, and how many tokens each time.
    repeats = 1 + config.null_repeats
    asked = [(backends.proposer, backends.proposer.calls * rounds * repeats)]
    if getattr(backends.ranker, "asks", False):
        # Between rounds, what is new is also scored on the discovery half.
        images = scored + (discovery if rounds > 1 else 0)
        asked.append((backends.ranker, hypotheses * images * repeats))
    if getattr(backends.captioner, "asks", False):
        asked.append((backends.captioner, captions))
    calls = sum(n for _, n in asked)
    most = calls if config.llm.max_calls is None else min(calls, config.llm.max_calls)
    return Plan(
        n_a=sizes[0],
        n_b=sizes[1],
        captions=captions,
        scored=scored,
        hypotheses=hypotheses,
        paid_calls=most,
        double_dipped=halves.double_dipped,
        cost=_cost(config, asked, most / calls if calls else 1.0),
    )


def _cost(config: Config, asked: Sequence[tuple[Any, int]], share: float) -> float | None:
    prices = config.llm.prompt_price, config.llm.completion_price
    if prices[0] is None or prices[1] is None:
        return None
    price, cost = Price(prices[0], prices[1]), 0.0
    for backend, calls in asked:
        prompt, completion = getattr(backend, "tokens_a_call", _TOKENS_A_CALL)
        cost += price.of(prompt * calls, completion * calls)
    cost *= share
    return cost if config.llm.max_cost is None else min(cost, config.llm.max_cost)
