"""A content-addressed store for the results of models, so that each is computed once.

Text, JSON and arrays are rows of one SQLite database in WAL mode. Large content is stored in files
next to it, written atomically. Each row has a checksum; a damaged row counts as a miss. Values are
text, JSON or raw bytes with a dtype and a shape, so reading a cache cannot execute code.

A cache failure never loses results of a run. If the disk is full or the folder cannot be written,
one warning is logged, and values are kept in memory for the rest of the run.
"""

import json
import logging
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from visdiff import hashing
from visdiff.cache import rows as cache_rows
from visdiff.cache.rows import COLUMNS, Entry
from visdiff.errors import CacheMissError, InputError
from visdiff.files import explained, write_whole

logger = logging.getLogger(__name__)

Mode = Literal["rw", "ro", "refresh", "off", "replay"]
Value = str | dict[str, Any] | list[Any] | int | float | bool | np.ndarray
Parts = Mapping[str, Any]

# Variables per query; every build of SQLite allows 999.
_CHUNK = 500
_MAX_MESSAGE = 400
_WRITING = ("rw", "refresh")


class Cache:
    """A cache for concurrent use by several threads and processes.

    Nothing is created or opened before the first use. Each process has its own connection, reopened
    after a fork.

    Attributes:
        directory: Folder of the cache.
        mode: See `__init__`.
        hits: Number of values that `get` and `get_many` of this object found.
        misses: Number of values that they did not find.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, mode: Mode = "rw") -> None:
        """Creates a cache.

        Args:
            directory: Folder of the cache; by default ``$VISDIFF_CACHE_DIR``, else the user's cache
                folder.
            mode: "rw" reads and writes; "ro" only reads; "refresh" writes, and reads only what this
                object has written, so that everything is recomputed; "off" does neither; "replay"
                only reads, and a miss is an error.

        Raises:
            InputError: The mode is unknown.
        """
        if mode not in get_args(Mode):
            raise InputError(
                f"Expected a cache mode, got {mode!r}; use one of {', '.join(get_args(Mode))}."
            )
        self.directory = _default_directory() if directory is None else Path(directory)
        self.mode: Mode = mode
        self.hits = 0
        self.misses = 0
        self._fresh: set[str] = set()
        # Values that could not be written, by key.
        self._memory: dict[str, Entry] = {}
        self._broken = False
        self._temporary: Path | None = None
        self._connection: sqlite3.Connection | None = None
        self._inherited: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # The other process gets the same folder and mode, and its own connection and counters.
        return Cache, (self.directory, self.mode)

    def __repr__(self) -> str:
        return f"Cache({str(self.directory)!r}, mode={self.mode!r})"

    def get(self, kind: str, parts: Parts) -> Any | None:
        """Returns the value of a key, or None if it is missing.

        Raises:
            CacheMissError: The mode is "replay" and the value is missing.
        """
        return self.get_many(kind, [parts])[0]

    def get_many(self, kind: str, parts: Sequence[Parts]) -> list[Any | None]:
        """Returns the values of several keys, None for missing ones.

        Args:
            kind: Kind of the values; see `visdiff.hashing.key`.
            parts: Key fields of each value.

        Returns:
            One value per key, in order: text, JSON, or a new array of the stored dtype and shape.

        Raises:
            CacheMissError: The mode is "replay" and a value is missing; the message names it.
            InputError: The database file is damaged, or of another version.
        """
        keys = [hashing.key(kind, part) for part in parts]
        with self._guard():
            found = {} if self.mode == "off" else self._read(keys)
        values: list[Any | None] = [found.get(name) for name in keys]
        missing = [index for index, value in enumerate(values) if value is None]
        if missing and self.mode == "replay":
            first = hashing.canonical_json(parts[missing[0]])
            raise CacheMissError(
                f"Expected a cached {kind} in {self.directory} (mode replay), got none for "
                f"{first[:_MAX_MESSAGE]}{'…' if len(first) > _MAX_MESSAGE else ''}; "
                f"run once with --cache rw, or restore the cache of the original run."
            )
        with self._guard():
            self.hits += len(values) - len(missing)
            self.misses += len(missing)
        return values

    def put(self, kind: str, parts: Parts, value: Value) -> None:
        """Stores a value; see `put_many`."""
        self.put_many(kind, [(parts, value)])

    def put_many(self, kind: str, items: Sequence[tuple[Parts, Value]]) -> None:
        """Stores values in one transaction; existing values are replaced.

        Modes "ro", "off" and "replay" store nothing. Callers must not pass failures, refusals or
        truncated replies.

        Raises:
            InputError: A value is None, an array of objects, or not JSON; nothing is stored.
        """
        rows = [cache_rows.encode(kind, dict(parts), value) for parts, value in items]
        if not rows or self.mode not in _WRITING:
            return
        with self._guard():
            if self.mode == "refresh":
                self._fresh.update(row.key for row in rows)
            connection = self._connect()
            if connection is not None and not self._broken:
                try:
                    with cache_rows.transaction(connection):
                        connection.executemany(
                            f"INSERT OR REPLACE INTO entries ({COLUMNS}) "
                            f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                            rows,
                        )
                    return
                except (OSError, sqlite3.Error) as error:
                    self._raise_if_damaged(error)
                    self._give_up_writing(error)
            self._memory.update((row.key, row) for row in rows)

    def path_for(self, kind: str, parts: Parts, suffix: str) -> Path:
        """Returns the path of a key's file, which need not exist; creates nothing.

        Args:
            kind: Kind of the content: letters, digits, "-" and "_".
            parts: Key fields.
            suffix: Suffix, such as ".png".

        Raises:
            InputError: The kind or suffix has other characters.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", kind) or not re.fullmatch(r"\.[A-Za-z0-9]+", suffix):
            raise InputError(
                f"Expected a kind of letters and digits and a suffix such as '.png', got {kind!r} "
                f"and {suffix!r}; rename them."
            )
        name = hashing.key(kind, parts)
        # 256 folders per kind, since a folder with a million files is slow to list.
        shard = name.partition("-")[2][:2]
        return self.directory / "files" / kind / shard / f"{name}{suffix}"

    def write_file(self, kind: str, parts: Parts, suffix: str, data: bytes) -> Path:
        """Writes the file of a key atomically, also when several processes write it.

        Returns:
            The path: `path_for`, or a path in a temporary folder if the mode does not write or the
            folder cannot be written.

        Raises:
            InputError: The temporary folder cannot be written either.
        """
        path = self.path_for(kind, parts, suffix)
        if self.mode in _WRITING and not self._broken:
            try:
                write_whole(path, data)
                return path
            except OSError as error:
                self._give_up_writing(error)
        temporary = Path(tempfile.gettempdir())
        with self._guard(), explained("a temporary folder that can be written to", temporary):
            self._temporary = self._temporary or Path(tempfile.mkdtemp(prefix="visdiff-"))
            path = self._temporary / path.name
            write_whole(path, data)
        return path

    def stats(self) -> dict[str, Any]:
        """Returns statistics of the cache.

        Returns:
            A dict with "directory", "entries", "bytes" (of values), "files", "file_bytes", and
            "kinds": entries and bytes by kind.
        """
        with self._guard():
            connection = self._connect()
            query = "SELECT kind, COUNT(*), SUM(LENGTH(value)) FROM entries GROUP BY kind"
            with self._report_damage():
                rows = connection.execute(query).fetchall() if connection else []
        kinds = {kind: {"entries": count, "bytes": size} for kind, count, size in rows}
        files = list(self._files())
        return {
            "directory": str(self.directory),
            "entries": sum(kind["entries"] for kind in kinds.values()),
            "bytes": sum(kind["bytes"] for kind in kinds.values()),
            "files": len(files),
            "file_bytes": sum(size for _, size, _ in files),
            "kinds": dict(sorted(kinds.items())),
        }

    def prune(self, max_bytes: int | None = None, older_than_days: float | None = None) -> int:
        """Removes entries and files by age, then the oldest ones until the size limit is met.

        Args:
            max_bytes: Maximum size of values and files together.
            older_than_days: Maximum age in days.

        Returns:
            Number of entries and files removed.

        Raises:
            InputError: Neither limit is given, or the mode does not write.
        """
        if max_bytes is None and older_than_days is None:
            raise InputError("Expected max_bytes or older_than_days, got neither; give a limit.")
        if self.mode not in _WRITING:
            raise InputError(f"Expected a cache that writes, got mode {self.mode!r}; use mode rw.")
        with self._guard(), self._report_damage():
            connection = self._connect()
            query = "SELECT key, LENGTH(value), created FROM entries"
            rows = connection.execute(query).fetchall() if connection else []
            stored: list[tuple[str | Path, int, float]] = [*rows, *self._files()]
            # Newest first: kept while there is room.
            stored.sort(key=lambda item: item[2], reverse=True)
            oldest = 0.0 if older_than_days is None else time.time() - older_than_days * 86_400
            total = 0
            removed: list[str | Path] = []
            for name, size, created in stored:
                total += size
                if created < oldest or (max_bytes is not None and total > max_bytes):
                    removed.append(name)
            names = [(name,) for name in removed if isinstance(name, str)]
            if connection and names:
                with cache_rows.transaction(connection):
                    connection.executemany("DELETE FROM entries WHERE key = ?", names)
                # Frees disk space; fails while another process is reading.
                with suppress(sqlite3.OperationalError):
                    connection.execute("VACUUM")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for path in removed:
                if isinstance(path, Path):
                    path.unlink(missing_ok=True)
        return len(removed)

    def verify(self) -> list[str]:
        """Checks all entries and files.

        Returns:
            Keys of damaged entries and names of empty files, sorted.

        Raises:
            InputError: The database file is damaged.
        """
        bad = [path.name for path, size, _ in self._files() if size == 0]
        with self._guard(), self._report_damage():
            connection = self._connect()
            if connection is not None:
                state = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
                if state != "ok":
                    raise sqlite3.DatabaseError(state)
                for entry in self._entries(connection):
                    if not cache_rows.is_undamaged(entry):
                        bad.append(entry.key)
        return sorted(bad)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Writes all undamaged entries as JSON lines, sorted by key.

        A line has "key", "kind", "parts", "created" and "value". A line of an array also has
        "dtype" and "shape", and its value is the bytes in hexadecimal.

        Returns:
            Number of lines.

        Raises:
            InputError: The file cannot be written, or the database is damaged.
        """
        count = 0

        def write(part: Path) -> None:
            nonlocal count
            with part.open("wb") as file:
                for entry in self._entries(connection) if connection else ():
                    if cache_rows.is_undamaged(entry):
                        file.write(json.dumps(cache_rows.as_json(entry)).encode() + b"\n")
                        count += 1

        with self._guard(), self._report_damage():
            connection = self._connect()
            with explained("a file that can be written", Path(path)):
                write_whole(Path(path), write)
        return count

    def close(self) -> None:
        """Closes the connection of this process; the next use reopens it."""
        with self._guard():
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Holds the lock of this process; resets connection and lock after a fork."""
        if self._pid != os.getpid():
            # The child must neither use nor close the parent's connection, and the lock may be held
            # by a thread that does not exist in the child.
            if self._connection is not None:
                self._inherited.append(self._connection)
            self._connection, self._lock, self._pid = None, threading.RLock(), os.getpid()
        with self._lock:
            yield

    @contextmanager
    def _report_damage(self) -> Iterator[None]:
        """Converts database errors into InputError."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._raise_if_damaged(error, always=True)

    def _raise_if_damaged(self, error: Exception, *, always: bool = False) -> None:
        name = getattr(error, "sqlite_errorname", "")
        damaged = not name or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        if isinstance(error, sqlite3.Error) and (always or damaged):
            got = "a damaged file" if damaged else "one that cannot be used now"
            raise InputError(
                f"Expected an undamaged cache in {self._database}, got {got} ({error}); run "
                f"`visdiff cache verify`, or move the file away and start with an empty cache."
            ) from error

    @property
    def _database(self) -> Path:
        return self.directory / "cache.sqlite"

    def _connect(self) -> sqlite3.Connection | None:
        """Returns the connection of this process; None if the database cannot be opened."""
        if self._connection is None and self.mode != "off":
            if self.mode in _WRITING and not self._broken:
                try:
                    self._connection = cache_rows.connect(self._database, writable=True)
                    return self._connection
                except (OSError, sqlite3.Error) as error:
                    self._raise_if_damaged(error)
                    self._give_up_writing(error)
            try:
                self._connection = cache_rows.connect(self._database, writable=False)
            except (OSError, sqlite3.Error) as error:
                self._raise_if_damaged(error)
                logger.warning("the cache in %s cannot be read (%s)", self.directory, error)
        return self._connection

    def _give_up_writing(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            logger.warning(
                "the cache in %s cannot be written (%s): the run continues, and its results are "
                "kept in memory only; free some space or set VISDIFF_CACHE_DIR",
                self.directory,
                error,
            )

    def _read(self, keys: Sequence[str]) -> dict[str, Any]:
        """Returns the undamaged values of the keys."""
        if self.mode == "refresh":
            keys = [name for name in keys if name in self._fresh]
        found = {
            name: cache_rows.decode(self._memory[name]) for name in keys if name in self._memory
        }
        wanted = list(dict.fromkeys(name for name in keys if name not in found))
        connection = self._connect() if wanted else None
        if connection is None:
            return found
        try:
            for start in range(0, len(wanted), _CHUNK):
                for entry in self._entries(connection, wanted[start : start + _CHUNK]):
                    if cache_rows.is_undamaged(entry):
                        found[entry.key] = cache_rows.decode(entry)
                    else:
                        logger.warning("cache entry %s is damaged and not used", entry.key)
        except sqlite3.Error as error:
            self._raise_if_damaged(error)
            logger.warning("the cache in %s cannot be read (%s)", self.directory, error)
        return found

    @staticmethod
    def _entries(
        connection: sqlite3.Connection, keys: Sequence[str] | None = None
    ) -> Iterator[Entry]:
        """Yields the entries of the keys, or all entries, sorted by key."""
        where = "" if keys is None else f"WHERE key IN ({','.join('?' * len(keys))})"
        query = f"SELECT {COLUMNS} FROM entries {where} ORDER BY key"
        return map(Entry._make, connection.execute(query, keys or ()))

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Yields path, size and modification time of each content file."""
        for folder, _, names in os.walk(self.directory / "files"):
            for name in names:
                path = Path(folder, name)
                # Another process may remove or rename it at the same time.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield path, status.st_size, status.st_mtime


def _default_directory() -> Path:
    configured = os.environ.get("VISDIFF_CACHE_DIR")
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("visdiff", appauthor=False))
