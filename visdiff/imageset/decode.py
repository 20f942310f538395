"""Decoding of images, the same way in the whole package.

Models receive RGB images that are upright (EXIF orientation applied) and opaque (transparency
composited on white, as on a web page). A file that cannot be decoded completely is an error; a
truncated photo is never used.
"""

import contextlib
import io
import threading
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from visdiff.errors import UnreadableImageError

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"},
)
"""File name suffixes (lower case) of images in folders and globs."""

# Formats are restricted because Pillow would start Ghostscript for an EPS file named *.png. Photos
# crawled from the web are often WebP or AVIF files named *.jpg.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

# A Pillow image opened by the caller reads its file on first use, which is not thread-safe.
_LAZY_LOAD = threading.Lock()


def decode(data: bytes, label: str) -> Image.Image:
    """Decodes a file without converting the image.

    Args:
        data: The file's bytes.
        label: Name of the file in an error, usually its path.

    Returns:
        A loaded Pillow image of any mode, with `format`, `info` and (JPEG) `quantization`; the
        first frame of an animation. `to_rgb` converts it to the input of models.

    Raises:
        UnreadableImageError: The data is not an image, truncated, corrupt, or larger than Pillow
            allows.
    """
    if not data:
        raise unreadable_error(label, "an empty file (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        image.load()
    except UnidentifiedImageError as error:
        raise unreadable_error(label, "something that is no known image format") from error
    except Image.DecompressionBombError as error:
        raise unreadable_error(label, f"too many pixels to decode safely ({error})") from error
    # Pillow's plugins raise many types: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise unreadable_error(label, f"a damaged file ({_reason(error)})") from error
    return image


def to_rgb(image: Image.Image, label: str) -> Image.Image:
    """Converts an image to the input of models: RGB, upright, on white.

    Args:
        image: Any Pillow image; it is not changed.
        label: Name of the image in an error.

    Returns:
        A new image of mode "RGB".

    Raises:
        UnreadableImageError: The pixels cannot be loaded, or their range is undefined (32-bit
            integer and floating-point images).
    """
    try:
        with _LAZY_LOAD:
            image.load()
        # A photo with damaged EXIF data is used as it is.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise unreadable_error(
                label,
                f"pixels of type {image.mode!r}, whose range is not defined (save 8 or 16 bits)",
            )
        if image.mode.startswith("I;16"):
            # Pillow would clip to 255 and return white.
            image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    except UnreadableImageError:
        raise
    except Exception as error:
        raise unreadable_error(label, f"a damaged image ({_reason(error)})") from error


def unreadable_error(label: str, got: str) -> UnreadableImageError:
    """Returns the error for one image."""
    return UnreadableImageError(
        f"Expected a readable image at {label}, got {got}; replace or remove it."
    )


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
