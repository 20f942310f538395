"""Rankers score how well each hypothesis fits each image."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from visdiff.encoders import Encoder
from visdiff.engine import Backend
from visdiff.imageset import ImageSet
from visdiff.results import Hypothesis


class Ranker(Backend, Protocol):
    """A model that scores images one by one, without knowing which set an image belongs to.

    All statistics are computed from the scores elsewhere, so that rankers can be compared. A
    backend inherits from this class, and its constructor takes exactly the settings of its
    configuration table as keywords. It may also take any of ``device``, ``runtime`` (see
    `visdiff.engine.Runtime`), ``llm``, a function without arguments that returns the configured
    chat model, and ``captioner``, the run's captioner.

    Attributes:
        needs_captions: Whether `score` reads captions.
        has_features: Whether `features` returns vectors.
    """

    needs_captions: bool
    has_features: bool = False

    @property
    def encoder(self) -> Encoder | None:
        """The image-text encoder, which other parts may share; None if there is none."""
        return None

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Returns the score of every hypothesis on every image.

        Args:
            hypotheses: h hypotheses.
            images: n images.
            captions: One per image, None for a missing one; None when the run has no captions.

        Returns:
            float32 array, shape (h, n): a higher score means a better fit, NaN means unscored.
        """
        ...

    def features(self, images: ImageSet) -> np.ndarray | None:
        """Returns image features, (n, d) float32, NaN rows for unreadable images; None if none."""
        return None
