"""Rows of the cache's database: how values are written, checked and read, and how it is opened."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from visdiff import hashing
from visdiff.errors import InputError

COLUMNS = "key, kind, parts, type, dtype, shape, value, checksum, created"
"""Order of the fields of `Entry`, for queries."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    parts TEXT NOT NULL,
    type TEXT NOT NULL,
    dtype TEXT,
    shape TEXT,
    value BLOB NOT NULL,
    checksum TEXT NOT NULL,
    created REAL NOT NULL
)
"""
_TIMEOUT_S = 60.0


class Entry(NamedTuple):
    """One row.

    Attributes:
        key: `visdiff.hashing.key` of kind and parts.
        kind: What the value is.
        parts: What it depends on, canonical JSON.
        type: "text", "json" or "array".
        dtype: Of an array, numpy's text with byte order, such as "<f4".
        shape: Of an array, JSON.
        value: UTF-8 text, or an array's bytes in C order.
        checksum: Of key, type, dtype, shape and value.
        created: Seconds since 1970.
    """

    key: str
    kind: str
    parts: str
    type: str
    dtype: str | None
    shape: str | None
    value: bytes
    checksum: str
    created: float


def encode(kind: str, parts: dict[str, Any], value: Any) -> Entry:
    """Make the row of a value.

    Raises:
        InputError: The value is None, an array of objects, or no JSON.
    """
    key = hashing.key(kind, parts)
    if value is None:
        raise InputError(
            f"expected a value to cache under {kind!r}, got None: leave failures out of the cache."
        )
    dtype = shape = None
    if isinstance(value, str):
        sort, data = "text", str(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        # Objects would need pickle; structured and extension types do not survive as text.
        if array.dtype.kind not in "biufcSUmM":
            raise InputError(
                f"expected numbers or text in an array to cache, got {array.dtype}: convert it."
            )
        sort, dtype, data = "array", array.dtype.str, array.tobytes()
        shape = json.dumps(array.shape)
    else:
        sort, data = "json", hashing.canonical_json(value).encode("ascii")
    text = hashing.canonical_json(parts)
    checksum = _checksum(key, sort, dtype, shape, data)
    return Entry(key, kind, text, sort, dtype, shape, data, checksum, time.time())


def decode(entry: Entry) -> Any:
    """Return the value of a sound row; an array is new and writable."""
    if entry.type == "text":
        return entry.value.decode("utf-8", "surrogatepass")
    if entry.type == "json":
        return json.loads(entry.value)
    shape = tuple(json.loads(entry.shape or "null"))
    return np.ndarray(shape, np.dtype(entry.dtype), buffer=bytearray(entry.value))


def as_json(entry: Entry) -> dict[str, Any]:
    """Return a sound row as JSON; an array's value is its bytes in hexadecimal."""
    row = {"key": entry.key, "kind": entry.kind, "parts": json.loads(entry.parts)}
    row["created"] = entry.created
    if entry.type == "array":
        shape = json.loads(entry.shape or "null")
        return {**row, "dtype": entry.dtype, "shape": shape, "value": entry.value.hex()}
    return {**row, "value": decode(entry)}


def is_sound(entry: Entry) -> bool:
    """Tell whether a row is what was written: its key, checksum and value hold."""
    try:
        data = bytes(entry.value)
        checksum = _checksum(entry.key, entry.type, entry.dtype, entry.shape, data)
        if (
            checksum != entry.checksum
            or hashing.key(entry.kind, json.loads(entry.parts)) != entry.key
        ):
            return False
        decode(entry)
    except (TypeError, ValueError, AttributeError, RecursionError):
        return False
    return True


def connect(path: Path, *, writable: bool) -> sqlite3.Connection | None:
    """Open the database.

    Args:
        path: The file; with `writable` it is made when it is missing.
        writable: Open for writing, in WAL mode.

    Returns:
        A connection in autocommit mode, or None when there is no file to read.

    Raises:
        OSError, sqlite3.Error: It cannot be opened so.
        InputError: Another version of visdiff made it.
    """
    if writable:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _open(str(path))
        return _checked(connection, path, create=True)
    if not path.exists():
        return None
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        return _checked(_open(address), path, create=False)
    except sqlite3.OperationalError:
        # WAL wants to make its index beside the file; in a folder that is read-only for us, nobody
        # writes, and the file can be read as it is.
        return _checked(_open(f"{address}&immutable=1"), path, create=False)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _open(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address,
        timeout=_TIMEOUT_S,
        isolation_level=None,
        # The cache holds a lock around every use.
        check_same_thread=False,
        uri=address.startswith("file:"),
    )
    # Damaged text is found by its checksum; it must not keep sound rows from being read.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _checked(connection: sqlite3.Connection, path: Path, *, create: bool) -> sqlite3.Connection:
    try:
        if create:
            _create(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise InputError(
                f"expected a cache of format {_VERSION} in {path}, got format {version}: move it "
                f"away, or use the version of visdiff that made it."
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    # Going over to WAL takes the file for oneself and, unlike other statements, does not wait.
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    # A crash of the machine may lose the last values, never damage the file; they are recomputed.
    connection.execute("PRAGMA synchronous=NORMAL")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        with transaction(connection):
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version={_VERSION}")


def _checksum(key: str, sort: str, dtype: str | None, shape: str | None, data: bytes) -> str:
    head = json.dumps([key, sort, dtype, shape]).encode()
    return hashlib.blake2b(head + b"\n" + data, digest_size=16).hexdigest()
