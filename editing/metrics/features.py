"""Image features from any encoder of `visdiff.encoders`, for the measures on arrays."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
from PIL import Image

from visdiff.encoders import Encoder
from visdiff.errors import InputError


def image_features(
    encoder: Encoder, images: Iterable[Image.Image], batch_size: int = 32
) -> np.ndarray:
    """Returns the features of images; holds only one batch of images in memory.

    Args:
        encoder: Such as `visdiff.encoders.open_clip.OpenClipEncoder`.
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
