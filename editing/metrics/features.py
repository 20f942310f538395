"""Image features from any encoder of `visdiff.encoders`, for the measures on arrays."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
from PIL import Image

from visdiff.errors import InputError


class ImageEncoder(Protocol):
    """The part of `visdiff.encoders.Encoder` that images need."""

    def prepare(self, image: Image.Image) -> Any:
        """Returns the network input of an RGB image."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Returns a float32 vector, or a refusal with a reason, per input."""
        ...


def image_features(
    encoder: ImageEncoder, images: Iterable[Image.Image], batch_size: int = 32
) -> np.ndarray:
    """Returns the features of images; holds only one batch of images in memory.

    Args:
        encoder: Such as `visdiff.encoders.open_clip.OpenClipEncoder`, or
            `editing.metrics.image_encoders.ImageFeatures`.
        images: RGB images; a `visdiff.imageset.ImageSet` is one such iterable.
        batch_size: Images per batch.

    Returns:
        float32 (n, d).

    Raises:
        InputError: There is no image, the encoder fails on an image, or the batch size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"Expected a batch of 1 image or more, got {batch_size}; use 32.")
    rows: list[np.ndarray] = []
    rest = iter(images)
    while batch := list(islice(rest, batch_size)):
        for row in encoder([encoder.prepare(image) for image in batch]):
            if not isinstance(row, np.ndarray):
                reason = getattr(row, "reason", "no reason given")
                raise InputError(
                    f"Expected features of image {len(rows) + 1}, got none ({reason}); leave it "
                    "out of both sets."
                )
            rows.append(row)
    if not rows:
        raise InputError("Expected images to encode, got none; give at least one.")
    return np.stack(rows)
