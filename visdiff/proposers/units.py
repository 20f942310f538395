"""Captions as units: words and compound prepositions, in segments that a phrase lies within."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from visdiff.words import ARTICLES, STOP_WORDS, singulars

_COMPOUND_TEXT = (
    "in front of|on top of|at the top of|in the middle of|in the center of|in the centre of|"
    "on the side of|at the edge of|next to|close to|out of|covered in|covered with|surrounded by|"
    "made of|filled with"
)
# First word → compound prepositions, the longest first.
_COMPOUND: dict[str, list[tuple[str, ...]]] = {}
for _phrase in sorted(_COMPOUND_TEXT.split("|"), key=len, reverse=True):
    _COMPOUND.setdefault(_phrase.split()[0], []).append(tuple(_phrase.split()))
_SIMPLE_TEXT = """
above across against along among around at behind below beneath beside between beyond by during from
in inside into near off on onto outside over through to toward towards under underneath upon with
within without
"""
_PREPOSITIONS = frozenset(_SIMPLE_TEXT.split()) | frozenset(_COMPOUND_TEXT.split("|"))
# Words that join two parts of a phrase, but cannot begin one.
_LINKS = frozenset({"of", "and", "or", "for", "as"})
_EDGE = re.compile(r"^[\"'“”‘’(\[]+|[\"'“”‘’)\].,;:!?…]+$")
_STOPS = re.compile(r"[.,;:!?…)\]]$")


@dataclass(frozen=True)
class Unit:
    """A word or a compound preposition, with the article before it."""

    text: str  # as written
    key: str  # lower case, singular if the captions have the singular too
    article: str  # as written, "" if there is none
    role: Literal["content", "preposition", "link"]
    first: bool  # first word of a sentence, whose capital letter is not informative


def units_of(caption: str) -> list[list[Unit]]:
    """Returns the segments of a caption; a phrase lies within one segment."""
    segments: list[list[Unit]] = [[]]
    tokens = caption.split()
    lower = [token.lower() for token in tokens]
    article, first, i = "", True, 0
    while i < len(tokens):
        compounds = _COMPOUND.get(lower[i], ())
        size = next((len(c) for c in compounds if tuple(lower[i : i + len(c)]) == c), 1)
        raw = " ".join(tokens[i : i + size])
        word = _EDGE.sub("", raw)
        key = word.lower()
        i += size
        if key in ARTICLES:
            article = word
        elif key in _PREPOSITIONS or key in _LINKS or (key and key not in STOP_WORDS):
            role: Literal["content", "preposition", "link"] = (
                "preposition" if key in _PREPOSITIONS else "link" if key in _LINKS else "content"
            )
            segments[-1].append(Unit(word, key, article, role, first))
            article, first = "", False
        else:
            # A verb like "is", a pronoun or punctuation separates phrases.
            segments.append([])
            article, first = "", False
        if _STOPS.search(raw):
            segments.append([])
            article, first = "", raw[-1] in ".!?"
    return [segment for segment in segments if segment]


def with_singulars(captions: list[list[list[Unit]]]) -> list[list[list[Unit]]]:
    """Returns the captions with the key of a plural replaced by its singular.

    The singular has to occur in the captions: without a dictionary, "glasses" and "tennis" could
    be plurals.
    """
    units = [u for caption in captions for segment in caption for u in segment]
    found = Counter(u.key for u in units if u.role == "content")
    keys = {
        key: min(known, key=lambda s: (-found[s], s))
        for key in found
        if (known := [s for s in singulars(key) if s in found])
    }
    return [
        [[replace(u, key=keys.get(u.key, u.key)) for u in segment] for segment in caption]
        for caption in captions
    ]


def text_of(units: list[Unit]) -> str:
    """Returns a phrase as written, without a capital letter at the start of a sentence."""
    out: list[str] = []
    for index, unit in enumerate(units):
        if unit.article:
            out.append(unit.article.lower())
        plain = unit.text[:1].isupper() and unit.text[1:] == unit.text[1:].lower()
        out.append(unit.text.lower() if plain and unit.first and not index else unit.text)
    return " ".join(out)
