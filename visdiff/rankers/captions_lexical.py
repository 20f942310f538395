"""Rank by whether an image's caption says the hypothesis; no model, no key, no network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.rankers import Ranker
from visdiff.results import Hypothesis
from visdiff.words import STOP_WORDS, base_forms, words


class CaptionsLexicalRanker(Ranker):
    """Scores a hypothesis on an image by how much of it the caption says, in [0, 1].

    With the k content words of the hypothesis (its words but articles, prepositions and the like;
    all of them when nothing else is left) and inflections folded (plural, -ing, -ed), the score is

    - 1 when the caption has them all, in this order and next to each other but for stop words,
    - (k - ½)/k when it has them all, but scattered: "a red car near a dog" does not say "red dog",
    - the share of them that it has otherwise.

    NaN where there is no caption.
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
        """Score captions (see `visdiff.rankers.Ranker`); no image is opened.

        Raises:
            InputError: There are no captions, or not one an image.
        """
        if captions is None or len(captions) != len(images):
            got = "none" if captions is None else str(len(captions))
            raise InputError(
                f"the ranker {self.name!r} expected one caption for each of {len(images)} images, "
                "got "
                f"{got}; choose a captioner, or a ranker that looks at images"
            )
        phrases = [_content(h.text) for h in hypotheses]
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        by_caption: dict[str, np.ndarray] = {}
        for column, caption in enumerate(captions):
            if caption is None or not caption.strip():
                continue
            if caption not in by_caption:
                said = _Caption(caption)
                by_caption[caption] = np.array([said.says(p) for p in phrases], np.float32)
            scores[:, column] = by_caption[caption]
        return scores


class _Caption:
    """A caption's words, ready to be asked about."""

    def __init__(self, text: str) -> None:
        everything = [(word, base_forms(word)) for word in words(text)]
        self.all = [forms for _, forms in everything]
        self.content = [forms for word, forms in everything if word not in STOP_WORDS]
        self.forms = frozenset[str]().union(*self.all)

    def says(self, phrase: list[frozenset[str]]) -> float:
        k = len(phrase)
        if not k:
            return float("nan")
        present = sum(not forms.isdisjoint(self.forms) for forms in phrase)
        if present < k:
            return present / k
        if k == 1 or _contiguous(phrase, self.content) or _contiguous(phrase, self.all):
            return 1.0
        return (k - 0.5) / k


def _content(text: str) -> list[frozenset[str]]:
    everything = words(text)
    content = [word for word in everything if word not in STOP_WORDS]
    return [base_forms(word) for word in content or everything]


def _contiguous(phrase: list[frozenset[str]], said: list[frozenset[str]]) -> bool:
    k = len(phrase)
    return any(
        all(not p.isdisjoint(w) for p, w in zip(phrase, said[start : start + k], strict=True))
        for start in range(len(said) - k + 1)
    )
