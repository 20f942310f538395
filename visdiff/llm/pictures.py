"""Encoding of images for chat models."""

import io

from PIL import Image

from visdiff.llm import Picture


def encode_jpeg(image: Image.Image, side: int | None = None) -> Picture:
    """Encodes an image as JPEG, at a quality that keeps text legible.

    Args:
        image: The image; not modified.
        side: Maximum side length in pixels; larger images are downscaled, smaller ones unchanged.
    """
    image = image.convert("RGB")
    if side is not None:
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return Picture(buffer.getvalue(), "image/jpeg")
