"""Thumbnails of the pages: how they are encoded and embedded."""

import base64
from io import BytesIO

from PIL import Image

PIXELATED_UP_TO = 96
"""Thumbnails up to this size in pixels are scaled up without smoothing, so drawings stay sharp."""

SIDE = 256
"""Longest side of a thumbnail in pixels; smaller images are not resized."""

_QUALITY = 82
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"


def thumbnail(image: Image.Image) -> bytes:
    """Returns a thumbnail: PNG for small drawings, otherwise JPEG, which is ten times smaller.

    Args:
        image: An image in the mode RGB; it is resized in place.
    """
    image.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    if max(image.size) <= PIXELATED_UP_TO:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def data_uri(data: bytes) -> str | None:
    """Returns a PNG or JPEG image as a data URI; None for other bytes."""
    kind = "png" if data.startswith(_PNG) else "jpeg" if data.startswith(_JPEG) else None
    return kind and f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def is_pixelated(data: bytes) -> bool:
    """Returns whether a thumbnail is a small PNG, which is scaled up without smoothing."""
    sides = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return data.startswith(_PNG) and max(sides) <= PIXELATED_UP_TO
