"""Files that are written whole: whoever reads one finds the old content or the new."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from visdiff.errors import InputError


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file under a temporary name in the same folder and renames it.

    Several processes may write the same file. When one fails, the file keeps its old content and
    nothing else is left in the folder.

    Args:
        path: Its folder is made, with its parents, when missing.
        content: The bytes, or a function that writes them to the path it is called with.

    Raises:
        OSError: The file cannot be written. `explained` makes a sentence of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that is only a suffix (".writing") is refused by torch.save.
    temporary = path.with_name(f".writing-{uuid.uuid4().hex}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        # Without it a power cut may leave an empty file under the new name.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_texts(folder: Path, files: Mapping[str, str]) -> None:
    """Writes text files, by name, into a folder that is made when missing.

    Raises:
        InputError: The folder cannot be written to.
    """
    with explained("a folder that can be written to", folder):
        for name, text in files.items():
            write_whole(folder / name, utf8(text))


def utf8(text: str) -> bytes:
    """Returns the text as UTF-8, with a backslash sequence for what UTF-8 cannot hold.

    File names that are not UTF-8 reach Python as lone surrogates.
    """
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def explained(
    expected: str, path: Path, advice: str = "name another one or change its permissions"
) -> Iterator[None]:
    """Turns an OSError of the block into an InputError.

    Args:
        expected: What the path should have been, such as "a folder that can be written to".
        path: The path that the user chose.
        advice: What to do about it.

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
    """Makes a folder and checks, before anything is computed, that it can be written to.

    Args:
        folder: The folder.
        what: What will be written there, for the error.

    Raises:
        InputError: It cannot be made or written to.
    """
    expected = f"a folder to write {what} to"
    with explained(expected, folder, "choose another with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
