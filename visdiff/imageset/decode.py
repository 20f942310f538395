"""Bytes to pixels, under one policy for the whole package.

What a model sees is RGB, upright (EXIF orientation applied) and opaque (transparency composited on
white, since that is what a page or a slide would show). What cannot be decoded in full is an error:
a half-grey truncated photo must not pass for an image.
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
"""File names (lower case) that are taken for images in folders and globs."""

# Content is trusted less than a name: Pillow would also start Ghostscript for an EPS in disguise.
# Photos crawled from the web are often WebP or AVIF under the name of a JPEG.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

# A Pillow image that somebody else opened reads its file on first use, which is not thread-safe.
_LAZY_LOAD = threading.Lock()


def decode(data: bytes, label: str) -> Image.Image:
    """Decode a whole file, and leave the image as it is stored.

    Args:
        data: The file's bytes.
        label: How to name the file in an error: its path.

    Returns:
        A loaded Pillow image of any mode, with `format`, `info` and (JPEG) `quantization`; the
        first frame of an animation. `to_rgb` makes it what models see.

    Raises:
        UnreadableImageError: No image, truncated, corrupt, or larger than Pillow allows.
    """
    if not data:
        raise unreadable(label, "an empty file (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        image.load()
    except UnidentifiedImageError as error:
        raise unreadable(label, "something that is no known image format") from error
    except Image.DecompressionBombError as error:
        raise unreadable(label, f"too many pixels to decode safely ({error})") from error
    # Pillow's plugins raise whatever their parsing runs into: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise unreadable(label, f"a damaged file ({_reason(error)})") from error
    return image


def to_rgb(image: Image.Image, label: str) -> Image.Image:
    """Make what a model sees of an image: RGB, upright, on white.

    Args:
        image: Any Pillow image; it is not changed.
        label: How to name it in an error.

    Returns:
        A new image of mode "RGB".

    Raises:
        UnreadableImageError: The pixels cannot be loaded, or have no agreed range (32-bit integer
            and floating-point images).
    """
    try:
        with _LAZY_LOAD:
            image.load()
        # Orientation is a hint; a photo with damaged EXIF is still a photo.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise unreadable(
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
        raise unreadable(label, f"a damaged image ({_reason(error)})") from error


def unreadable(label: str, got: str) -> UnreadableImageError:
    """Make the error for one image."""
    return UnreadableImageError(
        f"expected a readable image at {label}, got {got}: replace it or leave it out."
    )


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
