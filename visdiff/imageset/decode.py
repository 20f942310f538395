"""Decoding of images, the same way in the whole package.

Models receive RGB images that are upright (EXIF orientation applied) and opaque (transparency
composited on white, as on a web page). A file that cannot be decoded completely is an error; a
truncated photo is never used.
"""

import contextlib
import io
import os
import threading
from functools import lru_cache
from importlib import import_module

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from visdiff.errors import UnreadableImageError
from visdiff.files import open_regular

# Pillow would start Ghostscript for EPS, draws WMF on Windows only, and identifies the others
# without decoding them.
_NOT_DECODED = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"})

# Formats that the first bytes identify beyond doubt.
_SIGNED = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PSD")

# Number of bytes that Pillow identifies a format by.
_HEAD = 16

HEIC = frozenset({".heic", ".heif", ".hif"})
"""Suffixes of the photos of phones that need the extra ``heif``."""

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

HEIC_ADVICE = "install pillow-heif (the extra visdiff[heif]) to read HEIC"

# A Pillow image opened by the caller reads its file on first use, which is not thread-safe.
_LAZY_LOAD = threading.Lock()


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """Returns the file name suffixes (lower case) of images in folders and globs.

    They are those that Pillow and its installed plugins decode, such as .png, .jpg, .jfif, .webp,
    .avif and .tif, and .heic with pillow-heif.
    """
    return frozenset(_format_of_suffix())


def is_image(path: str) -> bool:
    """Returns whether the first bytes of a file are those of an image; False if it is unreadable.

    Args:
        path: A file whose name has no suffix.
    """
    _format_of_suffix()
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    known = [Image.OPEN[name][1] for name in _SIGNED if name in Image.OPEN]
    # A plugin without a decoder returns a text in place of True.
    return any(accept is not None and accept(head) is True for accept in known)


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
        image = Image.open(io.BytesIO(data), formats=_formats(label))
        image.load()
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
            raise unreadable_error(label, "an HEIC photo", HEIC_ADVICE) from error
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


def unreadable_error(
    label: str, got: str, advice: str = "replace or remove it"
) -> UnreadableImageError:
    """Returns the error for one image."""
    return UnreadableImageError(f"Expected a readable image at {label}, got {got}; {advice}.")


@lru_cache(maxsize=1)
def _format_of_suffix() -> dict[str, str]:
    """Returns suffix → name of the format, after the plugins of Pillow are loaded."""
    Image.init()
    with contextlib.suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return {
        suffix: name
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_DECODED
    }


def _formats(label: str) -> list[str]:
    """Returns the formats to try. Photos crawled from the web are often WebP files named *.jpg."""
    by_suffix = _format_of_suffix()
    own = by_suffix.get(os.path.splitext(label)[1].lower())
    # A format without a signature would read noise, so only its suffix admits it.
    return [
        name
        for name in dict.fromkeys(by_suffix.values())
        if name == own or Image.OPEN[name][1] is not None
    ]


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
