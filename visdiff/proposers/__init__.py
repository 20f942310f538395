"""Proposers: what might be truer of one set than of the other."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from visdiff.results import Hypothesis


class Proposer(Protocol):
    """Turns the captions of the discovery halves into hypotheses, in both directions at once.

    A backend's constructor takes the fields of the proposer's configuration as keywords and ignores
    those that mean nothing to it.
    """

    def propose(
        self,
        captions_a: Sequence[str],
        captions_b: Sequence[str],
        *,
        rng: np.random.Generator,
        round: int = 1,
    ) -> list[Hypothesis]:
        """Propose differences.

        Args:
            captions_a: Captions of set A's images; failures are left out by the caller.
            captions_b: Likewise for set B.
            rng: The only source of randomness.
            round: Number of the round, written into the hypotheses.

        Returns:
            Hypotheses, each direction's most promising first, no text twice in a direction; empty
            when there is nothing to propose.
        """
        ...
