"""Images as they are sent to chat models."""

import io

from PIL import Image

from visdiff.llm import Picture


def encoded(image: Image.Image, side: int | None = None) -> Picture:
    """Return an image as a JPEG: sharp enough for text, a fraction of a PNG's size.

    Args:
        image: It is not changed.
        side: Longest side in pixels; a larger image is shrunk in proportion, none is enlarged.
    """
    image = image.convert("RGB")
    if side is not None:
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return Picture(buffer.getvalue(), "image/jpeg")
