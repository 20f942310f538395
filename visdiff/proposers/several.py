"""Several proposers as one: their hypotheses are tested together, with one correction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Hypothesis
from visdiff.words import same_words


class SeveralProposers(Proposer):
    """The proposers of a run with more than one.

    A hypothesis with the same words as an earlier one in its direction is dropped: it would be
    tested twice.

    Args:
        proposers: Two or more; hypotheses of the first come first.
    """

    name = "several"

    def __init__(self, proposers: Sequence[Proposer]) -> None:
        self.proposers = tuple(proposers)
        self.needs_captions = any(p.needs_captions for p in proposers)
        self.needs_pairs = any(p.needs_pairs for p in proposers)
        self.max_hypotheses = sum(p.max_hypotheses for p in proposers)
        self.calls = sum(p.calls for p in proposers)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identities of all proposers."""
        return {"proposer": self.name, "proposers": [dict(p.identity) for p in self.proposers]}

    @property
    def prompts(self) -> Mapping[str, str]:
        """The prompts of all proposers."""
        return {name: digest for p in self.proposers for name, digest in p.prompts.items()}

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Returns the hypotheses of all proposers (see `visdiff.proposers.Proposer`)."""
        found = Proposals()
        for proposer in self.proposers:
            found += proposer.propose(evidence, rng=rng, round=round)
        kept: list[Hypothesis] = []
        for h in found.hypotheses:
            if not any(h.direction == k.direction and same_words(h.text, k.text) for k in kept):
                kept.append(h)
        return replace(found, hypotheses=tuple(kept))
