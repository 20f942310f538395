"""Generated images on disk: file names, atomic writes, and the manifest.

A file name identifies everything that the image depends on, so a run finds existing images by name
alone. Each file is written under a hidden temporary name and then renamed, so a name without a
leading dot never belongs to an incomplete file.
"""

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from visdiff.errors import InputError
from visdiff.files import is_full, utf8, write_whole

MANIFEST = "manifest.jsonl"
"""Name of the manifest in a folder of generated images; `visdiff.imageset.ImageSet.open` reads it.

JSON lines, since CSV cannot distinguish an empty prompt from a missing one.
"""

_SLUG_LENGTH = 48


def file_name(prompt: str, seed: int, key: str) -> str:
    """Returns the file name of an image: start of the prompt, seed, and end of its key.

    Args:
        prompt: Any text.
        seed: 0 or more.
        key: Key from `visdiff.hashing.key`; its last 16 characters are used.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-")
    return f"{slug or 'empty-prompt'}_{seed:04d}_{key[-16:]}.png"


def is_complete(path: Path) -> bool:
    """Returns whether a file is a PNG whose chunks are all complete with correct checksums."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    # Pillow raises SyntaxError for a broken chunk, OSError for most other damage.
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """Writes a file atomically.

    Raises:
        InputError: The disk is full, or the folder cannot be written to.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        full = is_full(error)
        what = "a full disk" if full else f"an error ({error.strerror})"
        raise InputError(
            f"Expected to write {path}, got {what}; {'free space' if full else 'correct it'} and "
            "run the same command again, which generates only the missing images."
        ) from error


def write_manifest(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes the manifest of a folder atomically, one JSON object per line.

    Returns:
        Path of the manifest.

    Raises:
        InputError: The manifest cannot be written.
    """
    path = folder / MANIFEST
    text = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    _write(path, utf8(text))
    return path


class ImageWriter:
    """A writer of PNG files in a background thread, at most one batch behind.

    Compressing a 512 × 512 PNG takes tens of milliseconds, during which the device would idle. On
    exit of the context manager all files are written. Errors are raised on exit or by the next
    `write`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="image-writer")
        self._pending: list[Future[None]] = []

    def write(self, images: Mapping[Path, Image.Image]) -> None:
        """Waits for the previous batch and starts writing this one.

        Raises:
            InputError: The previous batch could not be written.
        """
        self.wait()
        self._pending = [self._pool.submit(_write_png, p, i) for p, i in images.items()]

    def wait(self) -> None:
        """Waits until all files are written.

        Raises:
            InputError: A file could not be written; the others were.
        """
        pending, self._pending = self._pending, []
        errors = [error for future in pending if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except InputError:
            # An error raised inside the block takes precedence.
            if error is None:
                raise
        finally:
            self._pool.shutdown()


def _write_png(path: Path, image: Image.Image) -> None:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    _write(path, buffer.getvalue())
