"""Whole phrases in place of fragments: "with medium skin" for "medium", "pop art style" for "pop".

A phrase that is as frequent as the whole that contains it separates the sets as well, and so does a
noun that the captions always qualify. Neither says on its own what is in the images.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import numpy as np

MIN_CONTAINMENT = 0.85
"""A phrase is a part of a longer one that occurs in at least this share of its captions."""

_NEVER = 0.1
"""Largest share of captions in which a noun that is always qualified begins a phrase."""


class Phrase(Protocol):
    """A phrase of captions; see `visdiff.proposers.ngrams`.

    Attributes:
        keys: Its words.
        rows: Sorted indices of the captions that contain it.
        z: Its log-odds z-score.
        starts: Share of its captions in which it starts a phrase.
    """

    keys: tuple[str, ...]
    rows: np.ndarray
    z: float
    starts: float

    @property
    def completeness(self) -> float:
        """0 … 2; a whole phrase has 2."""
        ...


AnyPhrase = TypeVar("AnyPhrase", bound=Phrase)


def whole_phrases(
    phrases: Iterable[AnyPhrase],
    candidates: Mapping[tuple[str, ...], AnyPhrase],
    min_completeness: float,
) -> list[AnyPhrase]:
    """Returns the phrases with fragments replaced by whole phrases, without repeats.

    The whole of a fragment is the shortest of the most complete phrases that contain it and occur
    in nearly all of its captions ("medium" → "with medium skin"). A fragment that never begins a
    phrase ("skin") is replaced by the whole phrase with the largest |z| if no phrase is that
    frequent. A fragment without such a phrase is kept: it may be all there is to see.

    Args:
        phrases: Phrases of one direction.
        candidates: Words → phrase, all candidates of this direction.
        min_completeness: Least completeness of a whole phrase.
    """
    containing: dict[tuple[str, ...], list[AnyPhrase]] = {}
    for longer in candidates.values():
        if longer.completeness >= min_completeness:
            for part in parts_of(longer.keys):
                containing.setdefault(part, []).append(longer)
    replaced = (
        phrase
        if phrase.completeness >= min_completeness
        else _whole(phrase, containing.get(phrase.keys, ()))
        for phrase in phrases
    )
    return list({phrase.keys: phrase for phrase in replaced}.values())


def parts_of(keys: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Returns the proper contiguous parts of a phrase."""
    n = len(keys)
    return {keys[i:j] for i in range(n) for j in range(i + 1, n + 1)} - {keys}


def _whole(fragment: AnyPhrase, wholes: Iterable[AnyPhrase]) -> AnyPhrase:
    wholes = list(wholes)
    same = [w for w in wholes if len(w.rows) >= MIN_CONTAINMENT * len(fragment.rows)]
    if same:
        return min(same, key=lambda w: (-round(w.completeness, 1), len(w.keys), w.keys))
    if wholes and fragment.starts <= _NEVER:
        return min(wholes, key=lambda w: (-round(abs(w.z), 1), len(w.keys), w.keys))
    return fragment
