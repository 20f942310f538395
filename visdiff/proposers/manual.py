"""The user's own hypotheses, to be tested like any other."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.errors import InputError
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Direction, Hypothesis

_PREFIX = re.compile(r"^([AB])\s*:\s*")


class ManualProposer(Proposer):
    """Proposes what it was given: a list in the configuration, a text file, or both.

    "A: a dog" claims that a dog is truer of set A, "B: a dog" of set B; "a dog" is tested in both
    directions. In a file, one hypothesis a line; blank lines and lines that begin with "#" are
    skipped.

    Args:
        hypotheses: The list.
        file: The text file, UTF-8; relative to the current folder.

    Raises:
        InputError: The file cannot be read, there is no hypothesis, or one is empty.
    """

    name = "manual"
    needs_captions = False

    def __init__(self, hypotheses: Sequence[str] = (), file: str | None = None) -> None:
        given = [*hypotheses]
        if file is not None:
            try:
                lines = Path(file).expanduser().read_text("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"expected a text file of hypotheses, one a line, got {file}, which cannot be "
                    f"read: {error}"
                ) from error
            given += [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not given:
            raise InputError(
                "expected hypotheses for the proposer 'manual', got none; give proposer.hypotheses "
                '(such as ["A: a dog", "at night"]) or proposer.file'
            )
        self._claims: dict[tuple[str, Direction], str] = {}
        directions: tuple[Direction, ...] = ("A", "B")
        for line in given:
            said = _PREFIX.match(line.strip())
            text = " ".join(_PREFIX.sub("", line.strip()).split())
            if not text:
                raise InputError(f'expected a hypothesis such as "A: a dog", got {line!r}')
            for direction in directions:
                if said is None or said[1] == direction:
                    self._claims.setdefault((text.casefold(), direction), text)
        of = [direction for _, direction in self._claims]
        self.max_hypotheses = max(of.count("A"), of.count("B"))

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend and every hypothesis."""
        claims = [f"{direction}: {text}" for (_, direction), text in self._claims.items()]
        return {"proposer": self.name, "hypotheses": claims}

    def propose(
        self, evidence: Evidence, *, rng: np.random.Generator | None = None, round: int = 1
    ) -> Proposals:
        """Return the hypotheses, whatever the evidence (see `visdiff.proposers.Proposer`)."""
        return Proposals(
            tuple(
                Hypothesis(text, direction, self.name, round)
                for (_, direction), text in self._claims.items()
            )
        )
