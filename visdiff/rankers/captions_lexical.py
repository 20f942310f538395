"""A ranker that matches words of captions; it needs no model, no API key and no network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.rankers import Ranker
from visdiff.results import Hypothesis
from visdiff.words import STOP_WORDS, base_forms, words


class CaptionsLexicalRanker(Ranker):
    """A ranker that scores a hypothesis by the share of its words in the caption, in [0, 1].

    The content words of a hypothesis are its k words without stop words (articles, prepositions and
    the like), or all words if only stop words remain. Inflections (plural, -ing, -ed) are ignored.
    The score is

    - 1 if the caption contains all of them in this order, separated by stop words at most,
    - (k - ½)/k if it contains all of them elsewhere: "a red car near a dog" is not a "red dog",
    - otherwise the share of them that it contains.

    The score is NaN for a missing caption.
    """

    name = "captions-lexical"
    needs_captions = True

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend and the version of its rule."""
        return {"ranker": self.name, "version": 1}

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Returns scores of captions (see `visdiff.rankers.Ranker`); no image is opened.

        Raises:
            InputError: There are no captions, or not one per image.
        """
        if captions is None or len(captions) != len(images):
            got = "none" if captions is None else str(len(captions))
            raise InputError(
                f"Expected one caption for each of {len(images)} images for the ranker "
                f"{self.name!r}, got {got}; choose a captioner, or a ranker that reads images."
            )
        phrases = [_content_words(h.text) for h in hypotheses]
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        by_caption: dict[str, np.ndarray] = {}
        for column, caption in enumerate(captions):
            if caption is None or not caption.strip():
                continue
            if caption not in by_caption:
                parsed = _Caption(caption)
                by_caption[caption] = np.array([parsed.match(p) for p in phrases], np.float32)
            scores[:, column] = by_caption[caption]
        return scores


class _Caption:
    """The base forms of a caption's words, parsed once for all hypotheses."""

    def __init__(self, text: str) -> None:
        tokens = [(word, base_forms(word)) for word in words(text)]
        self.all = [forms for _, forms in tokens]
        self.content = [forms for word, forms in tokens if word not in STOP_WORDS]
        self.forms = frozenset[str]().union(*self.all)

    def match(self, phrase: list[frozenset[str]]) -> float:
        """Returns the score of a phrase, given as the base forms of its content words."""
        k = len(phrase)
        if not k:
            return float("nan")
        present = sum(not forms.isdisjoint(self.forms) for forms in phrase)
        if present < k:
            return present / k
        if k == 1 or _contiguous(phrase, self.content) or _contiguous(phrase, self.all):
            return 1.0
        return (k - 0.5) / k


def _content_words(text: str) -> list[frozenset[str]]:
    tokens = words(text)
    content = [word for word in tokens if word not in STOP_WORDS]
    return [base_forms(word) for word in content or tokens]


def _contiguous(phrase: list[frozenset[str]], caption: list[frozenset[str]]) -> bool:
    k = len(phrase)
    return any(
        all(not p.isdisjoint(w) for p, w in zip(phrase, caption[start : start + k], strict=True))
        for start in range(len(caption) - k + 1)
    )
