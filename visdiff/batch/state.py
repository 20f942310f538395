"""The state of submitted batches: a folder that is consistent after an interruption at any point.

``batches.json`` lists the batches and the cache keys of their requests. Next to it, each batch has
a JSONL file with the parts of its cache keys, so that replies can be stored without creating the
requests again. The files contain digests of images but no images, and no API key.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from visdiff.errors import InputError, VisdiffError
from visdiff.files import load_json, read_whole, write_whole
from visdiff.hashing import canonical_json, key
from visdiff.llm.batch import Line
from visdiff.llm.cached import KIND

Status = Literal["planned", "submitted", "collected"]

_VERSION = 1
_FILE = "batches.json"
_LOCK = "lock.sqlite"


@dataclass
class Entry:
    """A batch.

    Attributes:
        name: Our name, stored in the batch's metadata on the server to find it again.
        endpoint: Address of the server, without credentials.
        model: Name of the model.
        keys: Cache keys of its replies.
        created: Time at which it was planned, seconds since 1970.
        status: "planned" until the server accepts it, then "submitted", and "collected" after its
            results were processed.
        batch: The server's id of the batch.
        replies: Number of replies, once collected.
        failures: Number of failures by kind, once collected.
    """

    name: str
    endpoint: str
    model: str
    keys: list[str]
    created: float
    status: Status = "planned"
    batch: str | None = None
    replies: int = 0
    failures: dict[str, int] = field(default_factory=dict)


class BatchState:
    """The batches of a folder.

    Attributes:
        folder: The folder; created by the first write.
        entries: The batches, in the order in which they were planned.
    """

    def __init__(self, folder: Path, entries: list[Entry]) -> None:
        """Uses `read` or `locked`."""
        self.folder = folder
        self.entries = entries

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads a folder; a missing folder has no batches.

        Raises:
            InputError: Its file is damaged, or has another version.
        """
        path = folder / _FILE
        try:
            data = load_json(read_whole(path))
            if data["version"] != _VERSION:
                raise InputError(
                    f"Expected batches of version {_VERSION} in {path}, got version "
                    f"{data['version']!r}; use the version of visdiff that wrote them."
                )
            entries = [Entry(**row) for row in data["batches"]]
        except FileNotFoundError:
            entries = []
        except InputError:
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"Expected the file of `visdiff batch` in {path}, got one that cannot be read "
                f"({type(error).__name__}); restore it, because submitted batches cannot be "
                "collected without it."
            ) from error
        return cls(folder, entries)

    @classmethod
    @contextmanager
    def locked(cls, folder: Path) -> Iterator[Self]:
        """Reads and locks a folder for one process; the lock ends with the process.

        Raises:
            InputError: Another process has the lock, or the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = sqlite3.connect(folder / _LOCK, timeout=1.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"Expected a folder for the batches' state, got {folder}, which cannot be written "
                f"({error}); choose another with --state."
            ) from error
        try:
            try:
                # The database is empty; only its lock is used, which ends with the process.
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                raise InputError(
                    f"Expected to be the only process that uses the batches in {folder}, got "
                    "another `visdiff batch`; wait until it is done."
                ) from error
            yield cls.read(folder)
        finally:
            lock.close()

    def pending_keys(self) -> set[str]:
        """Returns the keys of batches that are planned or submitted but not collected yet."""
        return {name for one in self.entries if one.status != "collected" for name in one.keys}

    def plan(self, endpoint: str, model: str, batch: Sequence[Line]) -> Entry:
        """Adds a batch and writes it to disk, before it is sent."""
        name = secrets.token_hex(8)
        entry = Entry(name, endpoint, model, [line.key for line in batch], time.time())
        text = "".join(canonical_json(line.parts) + "\n" for line in batch)
        self._write(self._parts_file(entry).name, text.encode("ascii"))
        self.entries.append(entry)
        self.write()
        return entry

    def drop(self, entry: Entry) -> None:
        """Removes a batch, so that its requests can be submitted again."""
        self.entries.remove(entry)
        self.write()
        self._parts_file(entry).unlink(missing_ok=True)

    def write(self) -> None:
        """Writes the batches atomically.

        Raises:
            VisdiffError: The file cannot be written. Batches on the server are found by their name.
        """
        data = {"version": _VERSION, "batches": [asdict(entry) for entry in self.entries]}
        self._write(_FILE, json.dumps(data).encode("ascii"))

    def parts(self, entry: Entry) -> dict[str, Mapping[str, Any]]:
        """Returns the parts of the cache keys of a batch, by key.

        Raises:
            VisdiffError: Its file is missing or damaged.
        """
        path = self._parts_file(entry)
        try:
            rows = [load_json(line) for line in read_whole(path).split(b"\n") if line]
            found = {key(KIND, row): row for row in rows}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise VisdiffError(
                f"Expected the requests of batch {entry.batch} in {path}, got a file that cannot "
                f"be read ({type(error).__name__}); restore it, or drop the batch with --forget."
            ) from error
        if set(found) != set(entry.keys):
            raise VisdiffError(
                f"Expected the {len(entry.keys)} requests of batch {entry.batch} in {path}, got "
                f"{len(found)} or others; restore it, or drop the batch with --forget."
            )
        return found

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self.folder / name, data)
        except OSError as error:
            raise VisdiffError(
                f"Expected to write {name} in {self.folder}, got an error ({error.strerror}); "
                "check the free space and run the same command again, nothing is lost."
            ) from error

    def _parts_file(self, entry: Entry) -> Path:
        return self.folder / f"{entry.name}.jsonl"
