"""A proposer of the user's own hypotheses, which are tested like all others."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.errors import InputError
from visdiff.files import read_text
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Direction, Hypothesis

_PREFIX = re.compile(r"^([AB])\s*:\s*")


class ManualProposer(Proposer):
    """A proposer of hypotheses from the configuration, a text file, or both.

    "A: a dog" is the hypothesis that "a dog" is truer of set A, "B: a dog" that it is truer of set
    B; "a dog" is tested in both directions. A file has one hypothesis per line; blank lines and
    lines that begin with "#" are skipped.

    Args:
        hypotheses: Hypotheses of the configuration.
        file: Text file, UTF-8; relative to the current folder.

    Raises:
        InputError: The file cannot be read, there is no hypothesis, or one is empty.
    """

    name = "manual"
    needs_captions = False

    def __init__(self, hypotheses: Sequence[str] = (), file: str | None = None) -> None:
        lines = [*hypotheses]
        if file is not None:
            text = read_text(Path(file).expanduser(), "a text file of hypotheses, one per line,")
            in_file = text.splitlines()
            lines += [x for x in in_file if x.strip() and not x.lstrip().startswith("#")]
        if not lines:
            raise InputError(
                "Expected hypotheses for the proposer 'manual', got none; set proposer.hypotheses "
                '(such as ["A: a dog", "at night"]) or proposer.file.'
            )
        self._claims: dict[tuple[str, Direction], str] = {}
        directions: tuple[Direction, ...] = ("A", "B")
        for line in lines:
            prefix = _PREFIX.match(line.strip())
            text = " ".join(_PREFIX.sub("", line.strip()).split())
            if not text:
                raise InputError(
                    f'Expected a hypothesis such as "A: a dog", got {line!r}; add its text.'
                )
            for direction in directions:
                if prefix is None or prefix[1] == direction:
                    self._claims.setdefault((text.casefold(), direction), text)
        claimed = [direction for _, direction in self._claims]
        self.max_hypotheses = max(claimed.count("A"), claimed.count("B"))

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend and all hypotheses."""
        claims = [f"{direction}: {text}" for (_, direction), text in self._claims.items()]
        return {"proposer": self.name, "hypotheses": claims}

    def propose(
        self, evidence: Evidence, *, rng: np.random.Generator | None = None, round: int = 1
    ) -> Proposals:
        """Returns the hypotheses (see `visdiff.proposers.Proposer`); only `round` is used."""
        return Proposals(
            tuple(
                Hypothesis(text, direction, self.name, round)
                for (_, direction), text in self._claims.items()
            )
        )
