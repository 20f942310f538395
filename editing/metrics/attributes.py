"""Attribute scorers: which of several attributes an image shows, for debiasing."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from editing.metrics.features import image_features
from visdiff.encoders import Encoder
from visdiff.encoders.zero_shot import cosines


class AttributeScorer(Protocol):
    """The interface of a scorer of image attributes."""

    def __call__(
        self, images: Iterable[Image.Image], concept: str, attributes: Sequence[str]
    ) -> np.ndarray:
        """Scores the attributes of each image; an image shows the one with the largest score.

        The margin between two scores measures how close an image is to showing the other attribute,
        so scores are cosines or logits, not classes.

        Args:
            images: n RGB images.
            concept: The concept of their prompts.
            attributes: k attributes.

        Returns:
            (n, k) finite floats in any unit.
        """
        ...


class ZeroShotScorer:
    """A zero-shot attribute scorer on an encoder of images and texts, as in UCE and TIME.

    Args:
        encoder: Such as `visdiff.encoders.open_clip.OpenClipEncoder`.
        template: Template of the texts with the fields {attribute} and {concept}. With the concept,
            the texts describe the image and differ only in the attribute.
        batch_size: Images per batch.
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
        """Returns the cosine of each RGB image and each attribute text, (n, k)."""
        texts = [self.template.format(attribute=a, concept=concept) for a in attributes]
        features = image_features(self.encoder, images, self.batch_size)
        return cosines(features, self.encoder.encode_texts(texts))


def zero_shot_scorer(model: str | None = None) -> ZeroShotScorer:
    """Returns the zero-shot scorer on a CLIP model.

    Args:
        model: An open_clip model as "MODEL:WEIGHTS" or "hf-hub:OWNER/NAME", a folder, or
            "miniature"; None for ViT-B-32.

    Raises:
        InputError: The model is unknown.
        MissingBackendError: Its weights are not available.
    """
    from visdiff.encoders.open_clip import OpenClipEncoder

    if model is None:
        return ZeroShotScorer(OpenClipEncoder())
    if model.startswith("hf-hub:"):
        return ZeroShotScorer(OpenClipEncoder(model, None))
    name, _, weights = model.partition(":")
    return ZeroShotScorer(OpenClipEncoder(name, weights or None))
