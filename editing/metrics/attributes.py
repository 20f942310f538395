"""Which of several attributes an image shows: what a debiasing loop sees with."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from editing.metrics.features import image_features
from visdiff.encoders import Encoder
from visdiff.encoders.zero_shot import cosines


class AttributeScorer(Protocol):
    """Reads attributes off images."""

    def __call__(
        self, images: Iterable[Image.Image], concept: str, attributes: Sequence[str]
    ) -> np.ndarray:
        """Scores attributes: an image shows the one with the largest score.

        By how much one is ahead of the others says how far an image is from showing another:
        cosines or logits, not classes.

        Args:
            images: n RGB images.
            concept: What they were asked for as.
            attributes: k of them.

        Returns:
            Finite numbers in any unit, float (n, k).
        """
        ...


class ZeroShotScorer:
    """The attribute whose text is nearest in an encoder of images and texts, as in UCE and TIME.

    Args:
        encoder: Such as `visdiff.encoders.open_clip.OpenClipEncoder`.
        template: {attribute} and {concept} are put in; with the concept the texts say what the
            image does, and differ in the attribute alone.
        batch_size: Images at once.
    """

    def __init__(
        self, encoder: Encoder, template: str = "a {attribute} {concept}", batch_size: int = 32
    ) -> None:
        self.encoder = encoder
        self.template = template
        self.batch_size = batch_size

    def __call__(
        self, images: Iterable[Image.Image], concept: str, attributes: Sequence[str]
    ) -> np.ndarray:
        """Returns the cosine of each RGB image and each attribute's text, (n, k)."""
        texts = [self.template.format(attribute=a, concept=concept) for a in attributes]
        features = image_features(self.encoder, images, self.batch_size)
        return cosines(features, self.encoder.encode_texts(texts))
