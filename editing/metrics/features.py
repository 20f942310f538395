"""Features of images by any encoder of `visdiff.encoders`, for the measures on arrays."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
from PIL import Image

from visdiff.encoders import Encoder
from visdiff.errors import InputError


def image_features(
    encoder: Encoder, images: Iterable[Image.Image], batch_size: int = 32
) -> np.ndarray:
    """Encodes images, a batch at a time; no more than a batch is held.

    Args:
        encoder: Such as `visdiff.encoders.open_clip.OpenClipEncoder`.
        images: RGB images; an `visdiff.imageset.ImageSet` is one such iterable.
        batch_size: Images at once.

    Returns:
        float32 (n, d).

    Raises:
        InputError: There is no image, or the encoder has no features for one.
    """
    if batch_size < 1:
        raise InputError(f"expected a batch of 1 image or more, got {batch_size}.")
    rows: list[np.ndarray] = []
    rest = iter(images)
    while batch := list(islice(rest, batch_size)):
        for row in encoder([encoder.prepare(image) for image in batch]):
            if not isinstance(row, np.ndarray):
                reason = getattr(row, "reason", "it gave none")
                raise InputError(
                    f"expected features of image {len(rows) + 1}, got none ({reason}): leave it "
                    "out of both sets."
                )
            rows.append(row)
    if not rows:
        raise InputError("expected images to encode, got none.")
    return np.stack(rows)
