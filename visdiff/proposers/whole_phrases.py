"""Whole phrases in place of fragments: "with medium skin" for "medium", "pop art style" for "pop".

A phrase that is as frequent as the whole that contains it separates the sets as well, and so does a
noun that the captions always qualify. Neither says on its own what is in the images.
"""

from collections.abc import Iterable, Mapping, Sequence
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

    A fragment is replaced by the first of these that there is:

    1. the shortest of the most complete phrases that contain it and occur in nearly all of its
       captions ("medium" → "with medium skin");
    2. the whole phrase in it with the largest absolute z ("skin on the ocean" → "on the ocean");
    3. if it never begins a phrase ("skin"), the whole phrase that contains it with the largest
       absolute z.

    Other fragments are kept: "man" of "a man cook" and "a man judge" is all that these share.

    Args:
        phrases: Phrases of one direction.
        candidates: Words → phrase, all candidates of this direction.
        min_completeness: Least completeness of a whole phrase.
    """
    wholes = {k: p for k, p in candidates.items() if p.completeness >= min_completeness}
    containing: dict[tuple[str, ...], list[AnyPhrase]] = {}
    for longer in wholes.values():
        for part in parts_of(longer.keys):
            containing.setdefault(part, []).append(longer)
    found = []
    for phrase in phrases:
        if phrase.completeness < min_completeness:
            inside = [wholes[part] for part in parts_of(phrase.keys) if part in wholes]
            phrase = _whole(phrase, containing.get(phrase.keys, []), inside)
        found.append(phrase)
    return list({phrase.keys: phrase for phrase in found}.values())


def parts_of(keys: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Returns the proper contiguous parts of a phrase."""
    n = len(keys)
    return {keys[i:j] for i in range(n) for j in range(i + 1, n + 1)} - {keys}


def _whole(
    fragment: AnyPhrase, longer: Sequence[AnyPhrase], inside: Sequence[AnyPhrase]
) -> AnyPhrase:
    same = [w for w in longer if len(w.rows) >= MIN_CONTAINMENT * len(fragment.rows)]
    if same:
        return min(same, key=lambda w: (-round(w.completeness, 1), len(w.keys), w.keys))
    others = inside or (longer if fragment.starts <= _NEVER else [])
    return min(others, key=lambda w: (-round(abs(w.z), 1), len(w.keys), w.keys), default=fragment)
