"""Reading and writing files: atomic writes, and reads of regular files of a limited size only."""

import errno
import json
import os
import re
import stat
import tempfile
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from visdiff.errors import InputError

LIMIT_VARIABLE = "VISDIFF_MAX_FILE_MB"
"""Environment variable with the size in MB (10⁶ bytes) of the largest file that is read."""

_DEFAULT_LIMIT_MB = 2048
# EFBIG is what a limit of the file size (ulimit -f) gives in place of a full disk.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: As for `open_regular`.
    """
    with open_regular(path) as file:
        return read_rest(file)


def read_rest(file: BinaryIO) -> bytes:
    """Returns the rest of a file of `open_regular`.

    Raises:
        OSError: The file cannot be read, or is larger than the limit of `LIMIT_VARIABLE`.
    """
    limit = _limit()
    data = file.read(limit + 1)
    if len(data) > limit:
        # Files of /proc have no size.
        raise _too_large(file.name, limit)
    return data


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """Returns the text of a regular file in UTF-8, without a byte order mark.

    Args:
        path: The file.
        what: What the file is, with its article, for errors.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    with explained(what, Path(path), "check the path"):
        data = read_whole(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"Expected {what} in UTF-8, got {path} with other bytes ({error.reason}); save it as "
            "UTF-8."
        ) from error


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file for reading, and never waits for a pipe or a device.

    Raises:
        OSError: The file is missing or forbidden, is no regular file, or is larger than the limit
            of `LIMIT_VARIABLE`.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "no file")
            raise OSError(errno.EINVAL, f"it is {kind}, not a file with content", os.fspath(path))
        if status.st_size > _limit():
            raise _too_large(path, status.st_size)
        yield file


def load_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, not UTF-8, or nested deeper than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_toml(text: str) -> dict[str, Any]:
    """Returns the values of a TOML text.

    Raises:
        ValueError: The text is not TOML, or nested deeper than Python can read.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


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
            with _library_errors():
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


def append_line(path: Path, line: bytes) -> None:
    """Appends a line to a file and flushes it to disk.

    If that fails, what was written of the line is removed again.

    Args:
        path: The file; created if missing.
        line: The line, without its line break.

    Raises:
        OSError: The line cannot be written.
    """
    is_new = not path.exists()
    try:
        # Unbuffered, so that closing the file after an error writes nothing more.
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                rest = line + b"\n"
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(before)
                raise
    except OSError:
        if is_new:
            with suppress(OSError):
                path.unlink()
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

    Python represents file names that are not UTF-8 with lone surrogates. In JSON the escapes are
    those of JSON, so that reading the text gives the same names.
    """
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def explained(
    expected: str, path: Path, advice: str = "name another one or change its permissions"
) -> Iterator[None]:
    """Turns an OSError of the block, or a failed write of safetensors, into an InputError.

    Args:
        expected: What the path should have been, such as "a folder that can be written to".
        path: The path from the user.
        advice: What the user can do, unless the disk is full.

    Raises:
        InputError: The block raised an OSError.
    """
    try:
        with _library_errors():
            yield
    except OSError as error:
        if is_full(error):
            advice = "free space there, or name another disk"
        raise InputError(
            f"Expected {expected}, got {path} ({error.strerror or error}); {advice}."
        ) from error


def is_full(error: OSError) -> bool:
    """Returns whether a write failed because of a full disk, a quota or a limit of the size."""
    return error.errno in _FULL


def check_present(source: str) -> None:
    """Checks that there is something at the path of an image set, before anything is imported.

    Patterns and addresses are not checked here.

    Raises:
        InputError: There is nothing.
    """
    if "://" in source or any(c in source for c in "*?["):
        return
    if not os.path.exists(os.path.expanduser(source)):
        raise nothing_at(source)


def nothing_at(source: str) -> InputError:
    """Returns the error about the path of an image set where there is nothing."""
    return InputError(
        f"Expected a folder, a glob or a manifest, got {source!r}, where there is nothing; "
        f"check the path (the current folder is {os.getcwd()})."
    )


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


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "") or str(_DEFAULT_LIMIT_MB)
    try:
        megabytes = float(text)
        return int(megabytes * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"Expected a number of megabytes in {LIMIT_VARIABLE}, got {text!r}; correct it."
        ) from error


def _too_large(path: str | os.PathLike[str], size: int) -> OSError:
    reason = (
        f"it has {size / 1e6:,.0f} MB or more, and {LIMIT_VARIABLE} allows {_limit() / 1e6:,.0f}"
    )
    return OSError(errno.EOVERFLOW, reason, os.fspath(path))


@contextmanager
def _library_errors() -> Iterator[None]:
    """Turns the error by which safetensors reports a failed write into an OSError."""
    try:
        yield
    except Exception as error:
        number = re.search(r"\(os error ([0-9]+)\)", str(error))
        if number is not None:
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error
        raise
