"""The cache: values of models by key, in memory for as long as they cannot be written."""

import json
import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from visdiff import hashing
from visdiff.cache import rows as cache_rows
from visdiff.cache.database import Database
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

    Nothing is created or opened before the first use. Each process has its own connection.

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
        self._temporary: Path | None = None
        self._database = Database(
            self.directory / "cache.sqlite", opens=mode != "off", writes=mode in _WRITING
        )

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
        with self._database.guard():
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
        with self._database.guard():
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
        with self._database.guard():
            if self.mode == "refresh":
                self._fresh.update(row.key for row in rows)
            connection = self._database.connect()
            if connection is not None and self._database.writes:
                try:
                    with cache_rows.transaction(connection):
                        connection.executemany(
                            f"INSERT OR REPLACE INTO entries ({COLUMNS}) "
                            f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                            rows,
                        )
                    return
                except (OSError, sqlite3.Error) as error:
                    self._database.raise_if_damaged(error)
                    self._database.give_up_writing(error)
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
        if self._database.writes:
            try:
                write_whole(path, data)
                return path
            except OSError as error:
                self._database.give_up_writing(error)
        temporary = Path(tempfile.gettempdir())
        with (
            self._database.guard(),
            explained("a temporary folder that can be written to", temporary),
        ):
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
        with self._database.guard():
            connection = self._database.connect()
            query = "SELECT kind, COUNT(*), SUM(LENGTH(value)) FROM entries GROUP BY kind"
            with self._database.reporting_damage():
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
        with self._database.guard(), self._database.reporting_damage():
            connection = self._database.connect()
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
        with self._database.guard(), self._database.reporting_damage():
            connection = self._database.connect()
            if connection is not None:
                state = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
                if state != "ok":
                    raise sqlite3.DatabaseError(state)
                for entry in cache_rows.select(connection):
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
                for entry in cache_rows.select(connection) if connection else ():
                    if cache_rows.is_undamaged(entry):
                        file.write(json.dumps(cache_rows.as_json(entry)).encode() + b"\n")
                        count += 1

        with self._database.guard(), self._database.reporting_damage():
            connection = self._database.connect()
            with explained("a file that can be written", Path(path)):
                write_whole(Path(path), write)
        return count

    def close(self) -> None:
        """Closes the connection of this process; the next use reopens it."""
        self._database.close()

    def _read(self, keys: Sequence[str]) -> dict[str, Any]:
        """Returns the undamaged values of the keys."""
        if self.mode == "refresh":
            keys = [name for name in keys if name in self._fresh]
        found = {
            name: cache_rows.decode(self._memory[name]) for name in keys if name in self._memory
        }
        wanted = list(dict.fromkeys(name for name in keys if name not in found))
        connection = self._database.connect() if wanted else None
        if connection is None:
            return found
        try:
            for start in range(0, len(wanted), _CHUNK):
                for entry in cache_rows.select(connection, wanted[start : start + _CHUNK]):
                    if cache_rows.is_undamaged(entry):
                        found[entry.key] = cache_rows.decode(entry)
                    else:
                        logger.warning("cache entry %s is damaged and not used", entry.key)
        except sqlite3.Error as error:
            self._database.raise_if_damaged(error)
            logger.warning("the cache in %s cannot be read (%s)", self.directory, error)
        return found

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
