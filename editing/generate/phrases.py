"""A concept as a prompt names it, and the seeds of a prompt."""

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
    """Returns a concept as a prompt names it: "a church", "an owl", "van Gogh", "in the snow".

    A name (with a capital), a text with a determiner or that begins with a preposition, and what
    looks like a plural stay as they are.
    """
    words = concept.split()
    if not words or concept != concept.casefold() or words[0] in _DETERMINERS | _OPENINGS:
        return concept
    if words[-1] == "style" or (words[-1].endswith("s") and not words[-1].endswith(("ss", "us"))):
        return concept
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {concept}"


def bare(concept: str) -> str:
    """Returns a concept without its determiner: "a castle" and "castle" are one."""
    first, _, rest = normal(concept).partition(" ")
    return rest if first in _DETERMINERS and rest else normal(concept)


def own_seed(prompt: str) -> int:
    """Returns a prompt's first seed, in [0, 2³¹): the same whatever it is asked beside."""
    return int(digest_bytes(prompt.encode())[:8], 16) >> 1
