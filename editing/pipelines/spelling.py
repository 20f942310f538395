"""Words of concepts that a model's tokenizer does not know and that resemble a known word."""

from collections.abc import Iterable
from typing import Any

from visdiff.spelling import suggestion
from visdiff.words import words


def misspellings(pipe: Any, texts: Iterable[str]) -> dict[str, str]:
    """Returns word → nearest known word, of words that are probably spelt wrong.

    Such a word is split into several tokens, so the model has no embedding of it, and is near a
    word of the concept bank. A name that is unknown but near no word is left alone.

    Args:
        pipe: The pipeline, with a tokenizer.
        texts: Concepts.
    """
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return {}
    found = {}
    for word in dict.fromkeys(w for text in texts for w in words(text)):
        if len(tokenizer.tokenize(word)) > 1 and (near := suggestion(word)):
            found[word] = near
    return found
