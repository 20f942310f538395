"""Atomic file writes: a reader finds either the old content or the new."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from visdiff.errors import InputError


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file atomically: under a temporary name in the same folder, then renamed.

    Several processes may write the same file. If a write fails, the file keeps its old content and
    the temporary file is removed.

    Args:
        path: Path of the file; missing parent folders are created.
        content: The bytes, or a function that writes them to the path that it receives.

    Raises:
        OSError: The file cannot be written. `explained` turns it into an InputError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch.save rejects a name that consists of a suffix only (".writing").
    temporary = path.with_name(f".writing-{uuid.uuid4().hex}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        # Without fsync, a power failure may leave an empty file under the new name.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_texts(folder: Path, files: Mapping[str, str]) -> None:
    """Writes text files, by name, into a folder, which is created if missing.

    Raises:
        InputError: The folder cannot be written to.
    """
    with explained("a folder that can be written to", folder):
        for name, text in files.items():
            write_whole(folder / name, utf8(text))


def utf8(text: str) -> bytes:
    """Returns the text as UTF-8, with backslash escapes for lone surrogates.

    Python represents file names that are not UTF-8 with lone surrogates.
    """
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def explained(
    expected: str, path: Path, advice: str = "name another one or change its permissions"
) -> Iterator[None]:
    """Turns an OSError of the block into an InputError.

    Args:
        expected: What the path should have been, such as "a folder that can be written to".
        path: The path from the user.
        advice: What the user can do.

    Raises:
        InputError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Expected {expected}, got {path} ({error.strerror or error}); {advice}."
        ) from error


def check_writable(folder: Path, what: str) -> None:
    """Creates a folder and checks, before a computation starts, that it can be written to.

    Args:
        folder: The folder.
        what: What will be written there, for the error message.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    expected = f"a folder to write {what} to"
    with explained(expected, folder, "choose another with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
