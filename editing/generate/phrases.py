"""A concept as a prompt names it, and the seeds of a prompt."""

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
    """Returns a concept as a prompt names it: "a church", "an owl", "van Gogh", "in the snow".

    A name (with a capital), a text with a determiner or that begins with a preposition, and what
    looks like a plural stay as they are.
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


def bare(concept: str) -> str:
    """Returns a concept without its determiner: "a castle" and "castle" are one."""
    first, _, rest = normal(concept).partition(" ")
    return rest if first in _DETERMINERS and rest else normal(concept)


def own_seed(prompt: str) -> int:
    """Returns a prompt's first seed, in [0, 2³¹): the same whatever it is asked beside."""
    return int(digest_bytes(prompt.encode())[:8], 16) >> 1
