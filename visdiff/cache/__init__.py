"""A content-addressed store: what a model said about an image is computed once.

Text, JSON and arrays are rows of one SQLite database in WAL mode; large content is files beside
it, written to a temporary name and renamed. Rows carry a checksum, and a damaged one is a miss,
never an answer. Values are text, JSON or raw bytes with a type and a shape: nothing here can run
code.

A cache must never cost a run its results. When the disk is full or the folder cannot be written,
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
from visdiff.files import write_whole

logger = logging.getLogger(__name__)

Mode = Literal["rw", "ro", "refresh", "off", "replay"]
Value = str | dict[str, Any] | list[Any] | int | float | bool | np.ndarray
Parts = Mapping[str, Any]

# Variables in one query; every build of SQLite allows 999.
_CHUNK = 500
_SHOWN = 400
_WRITING = ("rw", "refresh")


class Cache:
    """A store that several threads and processes may use at once.

    Nothing is created or opened before the first use. Each process has its own connection, made
    anew after a fork.

    Attributes:
        directory: Where it lies.
        mode: See `__init__`.
        hits: Number of values found by `get` and `get_many` of this object.
        misses: Number of values that they did not find.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, mode: Mode = "rw") -> None:
        """Describe a cache.

        Args:
            directory: Its folder; by default ``$VISDIFF_CACHE_DIR``, else the user's cache folder.
            mode: "rw" reads and writes; "ro" only reads; "refresh" finds only what this object has
                written itself, so that everything is computed once more; "off" does neither;
                "replay" reads, and a miss is an error.

        Raises:
            InputError: The mode is none of these.
        """
        if mode not in get_args(Mode):
            raise InputError(
                f"expected a cache mode, got {mode!r}: use one of {', '.join(get_args(Mode))}."
            )
        self.directory = _default_directory() if directory is None else Path(directory)
        self.mode: Mode = mode
        self.hits = 0
        self.misses = 0
        self._fresh: set[str] = set()
        # What could not be written, by key. Stays empty on a healthy disk.
        self._memory: dict[str, Entry] = {}
        self._broken = False
        self._aside: Path | None = None
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
        # Sent to another process: the same place and mode, its own connection and counters.
        return Cache, (self.directory, self.mode)

    def __repr__(self) -> str:
        return f"Cache({str(self.directory)!r}, mode={self.mode!r})"

    def get(self, kind: str, parts: Parts) -> Any | None:
        """Return the value of a key, or None.

        Raises:
            CacheMissError: Mode is "replay" and there is none.
        """
        return self.get_many(kind, [parts])[0]

    def get_many(self, kind: str, parts: Sequence[Parts]) -> list[Any | None]:
        """Return the values of several keys, None where there is none.

        Args:
            kind: What the values are; see `visdiff.hashing.key`.
            parts: What each value depends on.

        Returns:
            One value a key, in order: text, JSON, or a new array of the stored type and shape.

        Raises:
            CacheMissError: Mode is "replay" and one is missing; the text names it.
            InputError: The database is damaged as a whole, or of another version.
        """
        keys = [hashing.key(kind, part) for part in parts]
        with self._guard():
            found = {} if self.mode == "off" else self._read(keys)
        values: list[Any | None] = [found.get(name) for name in keys]
        missing = [index for index, value in enumerate(values) if value is None]
        if missing and self.mode == "replay":
            first = hashing.canonical_json(parts[missing[0]])
            raise CacheMissError(
                f"expected a cached {kind} in {self.directory} (mode replay), got none for "
                f"{first[:_SHOWN]}{'…' if len(first) > _SHOWN else ''}: "
                f"run once with --cache rw, or restore the cache this run was made with."
            )
        with self._guard():
            self.hits += len(values) - len(missing)
            self.misses += len(missing)
        return values

    def put(self, kind: str, parts: Parts, value: Value) -> None:
        """Store a value; see `put_many`."""
        self.put_many(kind, [(parts, value)])

    def put_many(self, kind: str, items: Sequence[tuple[Parts, Value]]) -> None:
        """Store values, all in one transaction; a value under the same key is replaced.

        Modes "ro", "off" and "replay" store nothing. Failures, refusals and truncated replies are
        the caller's to leave out: they are not values.

        Raises:
            InputError: A value is None, an array of objects, or no JSON; nothing is stored then.
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
        """Return where the file of a key lies, or would lie; nothing is created.

        Args:
            kind: What it is: letters, digits, "-" and "_".
            parts: What it depends on.
            suffix: Such as ".png".

        Raises:
            InputError: The kind or suffix is no part of a file name.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", kind) or not re.fullmatch(r"\.[A-Za-z0-9]+", suffix):
            raise InputError(
                f"expected a kind of letters and digits and a suffix such as '.png', got {kind!r} "
                f"and {suffix!r}: rename them."
            )
        name = hashing.key(kind, parts)
        # 256 folders a kind: a million files in one folder is slow to list.
        shard = name.partition("-")[2][:2]
        return self.directory / "files" / kind / shard / f"{name}{suffix}"

    def write_file(self, kind: str, parts: Parts, suffix: str, data: bytes) -> Path:
        """Write the file of a key: whole or not at all, also when several processes write it.

        Returns:
            Its path: `path_for`, or in a temporary folder in modes that do not write and when the
            folder cannot be written.
        """
        path = self.path_for(kind, parts, suffix)
        if self.mode in _WRITING and not self._broken:
            try:
                write_whole(path, data)
                return path
            except OSError as error:
                self._give_up_writing(error)
        with self._guard():
            self._aside = self._aside or Path(tempfile.mkdtemp(prefix="visdiff-"))
        path = self._aside / path.name
        write_whole(path, data)
        return path

    def stats(self) -> dict[str, Any]:
        """Count what is stored.

        Returns:
            "directory", "entries", "bytes" (of values), "files", "file_bytes", and "kinds":
            entries and bytes by kind.
        """
        with self._guard():
            connection = self._connect()
            query = "SELECT kind, COUNT(*), SUM(LENGTH(value)) FROM entries GROUP BY kind"
            with self._damage():
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
        """Remove old entries and files, then those longest stored until the rest fits.

        Args:
            max_bytes: Values and files together are at most this large afterwards.
            older_than_days: What was stored longer ago than this goes.

        Returns:
            Number of entries and files removed.

        Raises:
            InputError: Neither limit is given, or the mode does not write.
        """
        if max_bytes is None and older_than_days is None:
            raise InputError("expected max_bytes or older_than_days, got neither: give a limit.")
        if self.mode not in _WRITING:
            raise InputError(f"expected a cache that writes, got mode {self.mode!r}: use mode rw.")
        with self._guard(), self._damage():
            connection = self._connect()
            query = "SELECT key, LENGTH(value), created FROM entries"
            rows = connection.execute(query).fetchall() if connection else []
            stored: list[tuple[str | Path, int, float]] = [*rows, *self._files()]
            # The newest first: it stays as long as there is room.
            stored.sort(key=lambda item: item[2], reverse=True)
            oldest = 0.0 if older_than_days is None else time.time() - older_than_days * 86_400
            total = 0
            gone: list[str | Path] = []
            for name, size, created in stored:
                total += size
                if created < oldest or (max_bytes is not None and total > max_bytes):
                    gone.append(name)
            names = [(name,) for name in gone if isinstance(name, str)]
            if connection and names:
                with cache_rows.transaction(connection):
                    connection.executemany("DELETE FROM entries WHERE key = ?", names)
                # Gives the space back; another process that is reading makes it impossible now.
                with suppress(sqlite3.OperationalError):
                    connection.execute("VACUUM")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for path in gone:
                if isinstance(path, Path):
                    path.unlink(missing_ok=True)
        return len(gone)

    def verify(self) -> list[str]:
        """Read everything and name what is damaged.

        Returns:
            Keys whose checksum, key or value does not hold, and names of empty files, sorted.

        Raises:
            InputError: The database is damaged as a whole.
        """
        bad = [path.name for path, size, _ in self._files() if size == 0]
        with self._guard(), self._damage():
            connection = self._connect()
            if connection is not None:
                state = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
                if state != "ok":
                    raise sqlite3.DatabaseError(state)
                for entry in self._entries(connection):
                    if not cache_rows.is_sound(entry):
                        bad.append(entry.key)
        return sorted(bad)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write every sound entry as one JSON object a line, sorted by key.

        A line has "key", "kind", "parts", "created" and "value"; of an array, also "dtype" and
        "shape", and the value is its bytes in hexadecimal.

        Returns:
            Number of lines.
        """
        lines: list[bytes] = []
        with self._guard(), self._damage():
            connection = self._connect()
            for entry in self._entries(connection) if connection else ():
                if not cache_rows.is_sound(entry):
                    continue
                lines.append(json.dumps(cache_rows.as_json(entry)).encode() + b"\n")
        write_whole(Path(path), b"".join(lines))
        return len(lines)

    def close(self) -> None:
        """Close this process's connection; a later use opens it again."""
        with self._guard():
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the lock of this process."""
        if self._pid != os.getpid():
            # After a fork the parent's connection must be neither used nor closed here, and its
            # lock may have been held by a thread that does not exist here.
            if self._connection is not None:
                self._inherited.append(self._connection)
            self._connection, self._lock, self._pid = None, threading.RLock(), os.getpid()
        with self._lock:
            yield

    @contextmanager
    def _damage(self) -> Iterator[None]:
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
                f"expected a sound cache in {self._database}, got {got} ({error}): run "
                f"`visdiff cache verify`, or move the file away and start with an empty cache."
            ) from error

    @property
    def _database(self) -> Path:
        return self.directory / "cache.sqlite"

    def _connect(self) -> sqlite3.Connection | None:
        """Return this process's connection; None when there is nothing that can be opened."""
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
                "the cache in %s cannot be written (%s): the run goes on, and what it computes is "
                "kept in memory only; free some space or set VISDIFF_CACHE_DIR",
                self.directory,
                error,
            )

    def _read(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the sound values among the keys."""
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
                    if cache_rows.is_sound(entry):
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
        """Go through the entries with the given keys, or through all, sorted by key."""
        where = "" if keys is None else f"WHERE key IN ({','.join('?' * len(keys))})"
        query = f"SELECT {COLUMNS} FROM entries {where} ORDER BY key"
        return map(Entry._make, connection.execute(query, keys or ()))

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Go through the content files: path, size and time of writing."""
        for folder, _, names in os.walk(self.directory / "files"):
            for name in names:
                path = Path(folder, name)
                # Another process may remove or rename it meanwhile.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield path, status.st_size, status.st_mtime


def _default_directory() -> Path:
    configured = os.environ.get("VISDIFF_CACHE_DIR")
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("visdiff", appauthor=False))
