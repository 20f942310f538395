"""Rankers: how well each hypothesis fits each image."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from visdiff.encoders import Encoder
from visdiff.engine import Backend
from visdiff.imageset import ImageSet
from visdiff.results import Hypothesis


class Ranker(Backend, Protocol):
    """Scores images one by one; it never sees which set an image is of, and decides nothing.

    Every statistic is computed from the scores elsewhere, so that rankers compare. A backend
    inherits from this class, and its constructor takes exactly the settings of its table as
    keywords. It may also take any of ``device``, ``runtime`` (see `visdiff.engine.Runtime`),
    ``llm``, a function without arguments that returns the configured chat model, and ``captioner``,
    that of the run.

    Attributes:
        needs_captions: Whether `score` reads captions.
        has_features: Whether `features` returns vectors.
    """

    needs_captions: bool
    has_features: bool = False

    @property
    def encoder(self) -> Encoder | None:
        """The image-text encoder, which others may share; None where there is none."""
        return None

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Score every hypothesis on every image.

        Args:
            hypotheses: h of them.
            images: n of them.
            captions: One an image, None where there is none; None when the run has no captions.

        Returns:
            float32 array, shape (h, n): higher means truer of the image, NaN means unscored.
        """
        ...

    def features(self, images: ImageSet) -> np.ndarray | None:
        """Return image features, float32, (n, d), NaN rows for unreadable images; None for none."""
        return None
