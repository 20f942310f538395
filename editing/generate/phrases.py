"""Prompt phrases of concepts, and the first seed of a prompt."""

import re

from editing.requests import normal
from visdiff.hashing import digest_bytes

_DETERMINERS = frozenset({
    "a", "an", "the", "some", "one", "two", "three", "my", "your", "his", "her", "its", "our",
    "their", "this", "that", "these", "those",
})  # fmt: skip
_VOWEL_SOUND = re.compile(r"[ai]|e(?!u)|o(?!ne\b)|u(?!ni|se|ti|k|-)", re.IGNORECASE)
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
    return with_article(concept)


def with_article(phrase: str) -> str:
    """Returns a noun phrase with "a" or "an", by the sound of its first letters: "a unicorn"."""
    return f"{'an' if _VOWEL_SOUND.match(phrase) else 'a'} {phrase}" if phrase else ""


def strip_determiner(concept: str) -> str:
    """Returns a concept in normal form without its determiner: "a castle" → "castle"."""
    first, _, rest = normal(concept).partition(" ")
    return rest if first in _DETERMINERS and rest else normal(concept)


def own_seed(prompt: str) -> int:
    """Returns the first seed of a prompt, in [0, 2³¹); it depends only on the text."""
    return int(digest_bytes(prompt.encode())[:8], 16) >> 1
