"""What has been submitted: a folder that survives a kill at any point.

``batches.json`` says which batches there are and which keys each holds; beside it lies, for each,
a JSONL file of what its requests' replies depend on, so that they can be stored without making the
requests again. Pictures are in neither (their digests are), nor is any key to an endpoint.
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
from visdiff.files import write_whole
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
        name: Ours; the server keeps it in the batch's metadata, where it is found again.
        endpoint: Shown address of the server.
        model: Asked for.
        keys: Of its requests' replies.
        created: When it was planned, seconds since 1970.
        status: "planned" before the server has said that it took it, "submitted" afterwards, and
            "collected" once its results are dealt with.
        batch: The server's id.
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
        folder: Where it lies; made by the first write.
        entries: In the order in which they were planned.
    """

    def __init__(self, folder: Path, entries: list[Entry]) -> None:
        """Use `read` or `locked`."""
        self.folder = folder
        self.entries = entries

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder; one that is not there holds nothing.

        Raises:
            InputError: Its file is damaged, or of another version.
        """
        path = folder / _FILE
        try:
            data = json.loads(path.read_bytes())
            if data["version"] != _VERSION:
                raise InputError(
                    f"expected batches of version {_VERSION} in {path}, got version "
                    f"{data['version']!r}: use the version of visdiff that wrote them."
                )
            entries = [Entry(**row) for row in data["batches"]]
        except FileNotFoundError:
            entries = []
        except InputError:
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"expected the file of `visdiff batch` in {path}, got one that cannot be read "
                f"({type(error).__name__}): restore it; without it, what is submitted is not "
                "collected."
            ) from error
        return cls(folder, entries)

    @classmethod
    @contextmanager
    def locked(cls, folder: Path) -> Iterator[Self]:
        """Read a folder for changing it, one process at a time; a killed one locks nothing.

        Raises:
            InputError: Another process is at it, or the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = sqlite3.connect(folder / _LOCK, timeout=1.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"expected a folder for the batches' state, got {folder}, which cannot be written "
                f"({error}): choose another with --state."
            ) from error
        try:
            try:
                # The database holds nothing: its lock ends with the process, on every system.
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                raise InputError(
                    f"expected to be alone at the batches in {folder}, got another `visdiff batch` "
                    "at work there: wait until it is done."
                ) from error
            yield cls.read(folder)
        finally:
            lock.close()

    def held(self) -> set[str]:
        """Return the keys of batches that are planned or submitted, and not collected yet."""
        return {name for one in self.entries if one.status != "collected" for name in one.keys}

    def plan(self, endpoint: str, model: str, batch: Sequence[Line]) -> Entry:
        """Add a batch before anything of it is sent; on the disk when this returns."""
        name = secrets.token_hex(8)
        entry = Entry(name, endpoint, model, [line.key for line in batch], time.time())
        text = "".join(canonical_json(line.parts) + "\n" for line in batch)
        self._write(self._parts_file(entry).name, text.encode("ascii"))
        self.entries.append(entry)
        self.write()
        return entry

    def drop(self, entry: Entry) -> None:
        """Forget a batch: its requests may be submitted again."""
        self.entries.remove(entry)
        self.write()
        self._parts_file(entry).unlink(missing_ok=True)

    def write(self) -> None:
        """Write the batches, whole or not at all.

        Raises:
            VisdiffError: It cannot be written. A batch that the server has is found again by name.
        """
        data = {"version": _VERSION, "batches": [asdict(entry) for entry in self.entries]}
        self._write(_FILE, json.dumps(data).encode("ascii"))

    def parts(self, entry: Entry) -> dict[str, Mapping[str, Any]]:
        """Return what the replies of a batch depend on, by key.

        Raises:
            VisdiffError: Its file is missing or damaged.
        """
        path = self._parts_file(entry)
        try:
            rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
            found = {key(KIND, row): row for row in rows}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise VisdiffError(
                f"expected the requests of batch {entry.batch} in {path}, got a file that cannot "
                f"be read ({type(error).__name__}): restore it, or give the batch up with --forget."
            ) from error
        if set(found) != set(entry.keys):
            raise VisdiffError(
                f"expected the {len(entry.keys)} requests of batch {entry.batch} in {path}, got "
                f"{len(found)} or others: restore it, or give the batch up with --forget."
            )
        return found

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self.folder / name, data)
        except OSError as error:
            raise VisdiffError(
                f"expected to write {name} in {self.folder}, got an error ({error.strerror}): free "
                "some space, and run the same command again; nothing is lost."
            ) from error

    def _parts_file(self, entry: Entry) -> Path:
        return self.folder / f"{entry.name}.jsonl"
