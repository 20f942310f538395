"""Suggestions for words that are spelt wrong, from the words of the banks of `concepts`."""

import difflib
import functools
from importlib import resources

from visdiff.words import words

#: Least similarity (difflib's ratio) of a word and its suggestion.
_LIKENESS = 0.8
_SHORTEST = 4


@functools.cache
def _known() -> frozenset[str]:
    folder = resources.files("visdiff") / "proposers" / "banks"
    files = [file for file in folder.iterdir() if file.name.endswith(".txt")]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    return frozenset(w for line in lines if not line.startswith("#") for w in words(line))


def suggestion(word: str) -> str | None:
    """Returns the known word that is nearest to an unknown one; None if none is near.

    Args:
        word: A lower-case word.
    """
    if len(word) < _SHORTEST or not word.isalpha() or word in _known():
        return None
    # In order, so that of equally near words always the same one is returned.
    near = difflib.get_close_matches(word, sorted(_known()), n=1, cutoff=_LIKENESS)
    if not near or word in (f"{near[0]}s", f"{near[0]}es") or near[0] in (f"{word}s", f"{word}es"):
        return None
    return near[0]
