"""Rankers: how well each hypothesis fits each image."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from visdiff.cache import Cache
from visdiff.imageset import ImageSet
from visdiff.results import Hypothesis


class Ranker(Protocol):
    """Scores images one by one; it never sees which set an image is of, and decides nothing.

    Every statistic is computed from the scores elsewhere, so that rankers compare. A backend's
    constructor takes the fields of the ranker's configuration as keywords and ignores those that
    mean nothing to it. Two more are there for those that want them: ``llm``, a function without
    arguments that returns the configured chat model, and ``captioner``, the run's. One that puts a
    question to the chat model for every hypothesis and image says so by an attribute ``asks``.
    """

    @property
    def needs_captions(self) -> bool:
        """Whether `score` reads captions."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What changes a score. JSON values."""
        ...

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None,
        cache: Cache,
        progress: bool = False,
    ) -> np.ndarray:
        """Score every hypothesis on every image.

        Args:
            hypotheses: h of them.
            images: n of them.
            captions: One an image, None where there is none; None when the run has no captions.
            cache: Where scores or vectors are kept.
            progress: Show a bar on stderr.

        Returns:
            float32 array, shape (h, n): higher means truer of the image, NaN means unscored.
        """
        ...
