"""The connection of a process to a cache's database."""

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visdiff.cache.rows import connect
from visdiff.errors import InputError

logger = logging.getLogger(__name__)


class Database:
    """A database for several threads, opened at the first use and again after a fork.

    Args:
        path: The file.
        opens: Whether it is ever opened.
        writes: Whether it is written to, and created.

    Attributes:
        path: The file.
        writes: Whether it is written to; False after a failure.
    """

    def __init__(self, path: Path, *, opens: bool, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self._opens = opens
        self._connection: sqlite3.Connection | None = None
        self._inherited: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._lock = threading.RLock()

    def close(self) -> None:
        """Closes the connection of this process; the next use reopens it."""
        with self.guard():
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Holds the lock of this process; resets connection and lock after a fork."""
        if self._pid != os.getpid():
            # The child must neither use nor close the parent's connection, and the lock may be held
            # by a thread that does not exist in the child.
            if self._connection is not None:
                self._inherited.append(self._connection)
            self._connection, self._lock, self._pid = None, threading.RLock(), os.getpid()
        with self._lock:
            yield

    def connect(self) -> sqlite3.Connection | None:
        """Returns the connection of this process; None if the database cannot be opened.

        Raises:
            InputError: The file is damaged, or of another version.
        """
        if self._connection is None and self._opens:
            if self.writes:
                try:
                    self._connection = connect(self.path, writable=True)
                    return self._connection
                except (OSError, sqlite3.Error) as error:
                    self.raise_if_damaged(error)
                    self.give_up_writing(error)
            try:
                self._connection = connect(self.path, writable=False)
            except (OSError, sqlite3.Error) as error:
                self.raise_if_damaged(error)
                logger.warning("the cache in %s cannot be read (%s)", self.path.parent, error)
        return self._connection

    def give_up_writing(self, error: Exception) -> None:
        """Writes nothing any more, and warns of it once."""
        if self.writes:
            self.writes = False
            logger.warning(
                "the cache in %s cannot be written (%s): the run continues, and its results are "
                "kept in memory only; free some space or set VISDIFF_CACHE_DIR",
                self.path.parent,
                error,
            )

    @contextmanager
    def reporting_damage(self) -> Iterator[None]:
        """Converts database errors into InputError."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.raise_if_damaged(error, always=True)

    def raise_if_damaged(self, error: Exception, *, always: bool = False) -> None:
        """Raises an InputError for an error of a damaged database.

        Args:
            error: Any error of a use.
            always: Whether other errors of the database are raised too.
        """
        name = getattr(error, "sqlite_errorname", "")
        damaged = not name or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        if isinstance(error, sqlite3.Error) and (always or damaged):
            got = "a damaged file" if damaged else "one that cannot be used now"
            raise InputError(
                f"Expected an undamaged cache in {self.path}, got {got} ({error}); run "
                f"`visdiff cache verify`, or move the file away and start with an empty cache."
            ) from error
