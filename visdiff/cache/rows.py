"""Rows of the cache's database: encoding, checking and decoding; opening the database."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
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
    """A row of the database.

    Attributes:
        key: `visdiff.hashing.key` of kind and parts.
        kind: Kind of the value.
        parts: Key fields, as canonical JSON.
        type: "text", "json" or "array".
        dtype: NumPy dtype of an array with byte order, such as "<f4"; else None.
        shape: Shape of an array as JSON; else None.
        value: UTF-8 text, or an array's bytes in C order.
        checksum: Checksum of key, type, dtype, shape and value.
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


def select(connection: sqlite3.Connection, keys: Sequence[str] | None = None) -> Iterator[Entry]:
    """Returns the entries of the keys, or all entries, sorted by key."""
    where = "" if keys is None else f"WHERE key IN ({','.join('?' * len(keys))})"
    query = f"SELECT {COLUMNS} FROM entries {where} ORDER BY key"
    return map(Entry._make, connection.execute(query, keys or ()))


def encode(kind: str, parts: dict[str, Any], value: Any) -> Entry:
    """Returns the row of a value.

    Raises:
        InputError: The value is None, an array of objects, or not JSON.
    """
    key = hashing.key(kind, parts)
    if value is None:
        raise InputError(
            f"Expected a value to cache under {kind!r}, got None; do not cache failures."
        )
    dtype = shape = None
    if isinstance(value, str):
        sort, data = "text", str(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        # Objects need pickle, and structured dtypes cannot be restored from their text.
        if array.dtype.kind not in "biufcSUmM":
            raise InputError(
                f"Expected numbers or text in an array to cache, got {array.dtype}; convert it."
            )
        sort, dtype, data = "array", array.dtype.str, array.tobytes()
        shape = json.dumps(array.shape)
    else:
        sort, data = "json", hashing.canonical_json(value).encode("ascii")
    text = hashing.canonical_json(parts)
    checksum = _checksum(key, sort, dtype, shape, data)
    return Entry(key, kind, text, sort, dtype, shape, data, checksum, time.time())


def decode(entry: Entry) -> Any:
    """Returns the value of an undamaged row; an array is new and writable."""
    if entry.type == "text":
        return entry.value.decode("utf-8", "surrogatepass")
    if entry.type == "json":
        return json.loads(entry.value)
    shape = tuple(json.loads(entry.shape or "null"))
    return np.ndarray(shape, np.dtype(entry.dtype), buffer=bytearray(entry.value))


def as_json(entry: Entry) -> dict[str, Any]:
    """Returns an undamaged row as JSON; the value of an array is its bytes in hexadecimal."""
    row = {"key": entry.key, "kind": entry.kind, "parts": json.loads(entry.parts)}
    row["created"] = entry.created
    if entry.type == "array":
        shape = json.loads(entry.shape or "null")
        return {**row, "dtype": entry.dtype, "shape": shape, "value": entry.value.hex()}
    return {**row, "value": decode(entry)}


def is_undamaged(entry: Entry) -> bool:
    """Returns whether key, checksum and value of a row are intact."""
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
    """Opens the database.

    Args:
        path: The file; created if missing and `writable`.
        writable: Open for writing, in WAL mode.

    Returns:
        A connection in autocommit mode, or None if there is no file to read, or one without
        content.

    Raises:
        OSError, sqlite3.Error: It cannot be opened in this mode.
        InputError: It was written by another version of visdiff.
    """
    if writable:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _open(str(path))
        return _check_version(connection, path, create=True)
    if not path.exists():
        return None
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        return _check_version(_open(address), path, create=False)
    except sqlite3.OperationalError:
        # WAL creates its index next to the file. In a read-only folder there are no writers, so
        # the file can be opened as immutable.
        return _check_version(_open(f"{address}&immutable=1"), path, create=False)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Runs the block in one transaction; rolls back on errors."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite rolls back by itself when the disk is full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _open(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address,
        timeout=_TIMEOUT_S,
        isolation_level=None,
        # Cache holds a lock around every use.
        check_same_thread=False,
        uri=address.startswith("file:"),
    )
    # Damaged text is detected by its checksum and must not prevent reading other rows.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _check_version(
    connection: sqlite3.Connection, path: Path, *, create: bool
) -> sqlite3.Connection | None:
    try:
        if create:
            _create(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not create and version == 0 and _is_empty(connection):
            connection.close()
            return None
        if version != _VERSION:
            raise InputError(
                f"Expected a cache of format {_VERSION} in {path}, got format {version}; move it "
                f"away, or use the version of visdiff that wrote it."
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Returns whether a database has no table: a full disk or another process interrupted it."""
    return connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0


def _create(connection: sqlite3.Connection) -> None:
    # Switching to WAL needs an exclusive lock and, unlike other statements, does not wait for it.
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
    # A system crash may lose the last values, which are then recomputed, but not damage the file.
    connection.execute("PRAGMA synchronous=NORMAL")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        with transaction(connection):
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version={_VERSION}")


def _checksum(key: str, sort: str, dtype: str | None, shape: str | None, data: bytes) -> str:
    head = json.dumps([key, sort, dtype, shape]).encode()
    return hashlib.blake2b(head + b"\n" + data, digest_size=16).hexdigest()
