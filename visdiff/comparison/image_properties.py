"""The trivial properties of one image: size, format, compression, brightness, colour."""

import base64
import math
from typing import Any

import numpy as np
from PIL import Image

from visdiff.imageset import decode
from visdiff.imageset.copies import small_copy

VERSION = 1
"""Part of the cache key of `measure`; increase it when a measurement changes."""

_SIDE = 64
# Channels that differ by at most this much (of 255) are grey: JPEG does not keep them equal.
_GREY = 4
# Sum of the luminance quantisation table at quality 50 (JPEG standard, ITU-T T.81, table K.1).
_STANDARD_SUM = 3688


def measure(data: bytes | None, image: Image.Image, label: str) -> dict[str, Any]:
    """Measures the trivial properties of one image.

    Args:
        data: Bytes of its file; None if there is no file.
        image: The image as stored in the file (`visdiff.imageset.ImageSet.raw`).
        label: Name of the image in error messages.

    Returns:
        JSON values: "pixels", "aspect" (upright width / height), "file_size" in bytes (or None),
        "format" (or None), "jpeg_quality" in 1 to 100 (or None), "brightness" in [0, 1] (Rec. 601
        luma), "colourfulness" (Hasler and Süsstrunk 2003, "Measuring colourfulness in natural
        images"), "greyscale", and "small_copy" (`visdiff.imageset.copies.small_copy` in base 64).

    Raises:
        UnreadableImageError: The pixels cannot be loaded.
    """
    rgb = decode.to_rgb(image, label)
    width, height = rgb.size
    # Only averages are used: a small copy has the same averages without the colour noise of JPEG.
    small = base64.b64encode(small_copy(rgb).tobytes()).decode("ascii")
    rgb.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(rgb, dtype=np.float64)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = math.hypot(red_green.std(), yellow_blue.std())
    offset = math.hypot(red_green.mean(), yellow_blue.mean())
    luma = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    return {
        "pixels": width * height,
        "aspect": width / height,
        "file_size": None if data is None else len(data),
        # MPO files of phones are JPEG files with a second image appended.
        "format": "JPEG" if image.format == "MPO" else image.format,
        "jpeg_quality": _jpeg_quality(image),
        "brightness": float(luma.mean()),
        "colourfulness": spread + 0.3 * offset,
        "greyscale": bool(np.ptp(pixels, axis=-1).max() <= _GREY),
        "small_copy": small,
    }


def _jpeg_quality(image: Image.Image) -> float | None:
    """Estimates the quality setting from the luminance quantisation, by the rule of libjpeg."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return None
    scale = 100 * sum(next(iter(tables.values()))) / _STANDARD_SUM
    quality = 5000 / scale if scale > 100 else 100 - scale / 2
    return float(min(100.0, max(1.0, quality)))
