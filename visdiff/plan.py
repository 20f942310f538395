"""What a comparison will do and cost, before it does it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from visdiff.config import Config
from visdiff.halves import align, cut, open_both


@dataclass(frozen=True)
class Plan:
    """Sizes and upper bounds of the work; what the cache holds already comes off.

    Attributes:
        n_a: Images of set A.
        n_b: Images of set B.
        captions: Images to caption at most (the discovery half).
        scored: Images to score (the other half).
        hypotheses: Most hypotheses, both directions, all rounds.
        paid_calls: Calls to a paid endpoint at most.
        double_dipped: Too few images for two halves: nothing can be confirmed.
    """

    n_a: int
    n_b: int
    captions: int
    scored: int
    hypotheses: int
    paid_calls: int
    double_dipped: bool

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self))

    def sentence(self) -> str:
        """The plan in one or two sentences."""
        text = (
            f"{self.n_a} images against {self.n_b}: {self.captions} to caption, {self.scored} to "
            f"score on at most {self.hypotheses} hypotheses, less what the cache holds; "
            f"{self.paid_calls} paid calls."
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
        InputError: A source, column or group does not exist, or a set is empty.
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
    scored = len(halves.scoring_a) + len(halves.scoring_b)
    captions = len(halves.discovery_a) + len(halves.discovery_b)
    if config.ranker.backend.startswith("captions") and not halves.double_dipped:
        captions += scored
    rounds = 3 if config.rounds == "auto" else config.rounds
    return Plan(
        n_a=sizes[0],
        n_b=sizes[1],
        captions=captions,
        scored=scored,
        hypotheses=2 * config.proposer.max_hypotheses * rounds,
        paid_calls=0,
        double_dipped=halves.double_dipped,
    )
