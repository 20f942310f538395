"""Prompt phrases of concepts, and the first seed of a prompt."""

from editing.requests import normal
from visdiff.hashing import digest_bytes

_DETERMINERS = frozenset({
    "a", "an", "the", "some", "one", "two", "three", "my", "your", "his", "her", "its", "our",
    "their", "this", "that", "these", "those",
})  # fmt: skip
_OPENINGS = frozenset({
    "in", "on", "at", "by", "of", "with", "under", "against", "near", "from", "made", "photo",
    "picture",
})  # fmt: skip


def phrase(concept: str) -> str:
    """Returns a concept with its article: "a church", "an owl", "van Gogh", "in the snow".

    Names (with a capital letter), texts that begin with a determiner or a preposition, and apparent
    plurals are returned unchanged.
    """
    words = concept.split()
    if not words or concept != concept.casefold() or words[0] in _DETERMINERS | _OPENINGS:
        return concept
    if words[-1] == "style" or (words[-1].endswith("s") and not words[-1].endswith(("ss", "us"))):
        return concept
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {concept}"


def strip_determiner(concept: str) -> str:
    """Returns a concept in normal form without its determiner: "a castle" → "castle"."""
    first, _, rest = normal(concept).partition(" ")
    return rest if first in _DETERMINERS and rest else normal(concept)


def own_seed(prompt: str) -> int:
    """Returns the first seed of a prompt, in [0, 2³¹); it depends only on the text."""
    return int(digest_bytes(prompt.encode())[:8], 16) >> 1
