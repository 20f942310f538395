"""Generated images on disk: names, whole files only, and the manifest that lists them.

A file is named after everything that its image depends on, so a run finds what an earlier one has
made by looking at names alone. It is written under a hidden temporary name and renamed, so a name
without a leading dot never belongs to half a file.
"""

import errno
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
from visdiff.files import write_whole

MANIFEST = "manifest.jsonl"
"""Name of the manifest in a folder of generated images: `visdiff.imageset.ImageSet.open` reads it.

JSON lines and not CSV, in which the empty prompt would be a missing one.
"""

_SLUG_LENGTH = 48


def file_name(prompt: str, seed: int, key: str) -> str:
    """Names an image's file for people (start of the prompt, seed) and for certain (its key).

    Args:
        prompt: Any text.
        seed: 0 or more.
        key: As `visdiff.hashing.key` makes it; the last 16 of its characters are used.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-")
    return f"{slug or 'empty-prompt'}_{seed:04d}_{key[-16:]}.png"


def is_whole(path: Path) -> bool:
    """Whether a file is there and is a PNG whose every chunk is complete and has the right sum."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    # Pillow raises SyntaxError for a broken chunk, and OSError for most else.
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """Writes a file of the folder, whole or not at all.

    Raises:
        InputError: The disk is full, or the folder cannot be written to.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "a full disk" if full else f"an error ({error.strerror})"
        raise InputError(
            f"expected to write {path}, got {what}: {'free space' if full else 'repair that'} and "
            "run the same again; it goes on with the images that are missing."
        ) from error


def write_manifest(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes the manifest of a folder, whole or not at all; one JSON object a line.

    Returns:
        Its path.

    Raises:
        InputError: It cannot be written.
    """
    path = folder / MANIFEST
    text = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    _write(path, text.encode())
    return path


class ImageWriter:
    """Writes PNG files in one thread beside the computation, at most one batch behind.

    Compressing a 512 × 512 PNG takes tens of milliseconds in which the device would wait. As a
    context manager it ends with every file written; what could not be written is raised then, or
    by the next `write`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="image-writer")
        self._pending: list[Future[None]] = []

    def write(self, images: Mapping[Path, Image.Image]) -> None:
        """Waits for the batch before and starts writing this one.

        Raises:
            InputError: The batch before could not be written.
        """
        self.wait()
        self._pending = [self._pool.submit(_write_png, p, i) for p, i in images.items()]

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            InputError: Something could not be written; the rest was.
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
            # What ended the block is what the caller has to see.
            if error is None:
                raise
        finally:
            self._pool.shutdown()


def _write_png(path: Path, image: Image.Image) -> None:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    _write(path, buffer.getvalue())
