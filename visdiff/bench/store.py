"""The results of one run: a JSONL file with one line per pair, safe against interruption.

The first line is the header with the settings of the run. Every other line is the record of a pair;
the last record of a pair is valid. A line is flushed to disk before the next pair starts. When a
file is opened again, an incomplete last line is removed. Only one process can write a file at a
time (`sole_writer`); readers do not have to wait.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from visdiff.errors import InputError
from visdiff.files import append_line, explained, load_json, read_whole
from visdiff.results import to_plain

SCHEMA_VERSION = 1
#: Settings that do not change results: a run can be resumed with other values.
_NEUTRAL = frozenset({
    "device", "batch_size", "workers", "concurrency", "timeout", "max_retries", "max_calls",
    "max_cost", "prompt_price", "completion_price",
})  # fmt: skip
#: The first bytes of every results file.
_FIRST_BYTES = b'{"schema_version"'

Record = dict[str, Any]


@contextmanager
def sole_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Locks a file against other writing processes and threads while the block runs.

    Two runs on one file would compare the same pairs and truncate each other's incomplete lines.
    The lock is one of the operating system, on an empty file next to the target (``.NAME.lock``,
    which is not removed), so it is released when a process is killed.

    Args:
        path: The file or folder to lock; its parent folder is created if missing.

    Raises:
        InputError: Another process or thread has the lock, or the folder cannot be written to.
    """
    target = Path(path)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"Expected to be the only writer of {path}, got another run that is writing it; wait "
            f"until it has finished, or choose another path for the results of this run."
        ) from None
    except OSError as error:
        raise InputError(
            f"Expected a path that results can be written to, got {path} ({error.strerror}); "
            f"choose another."
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass
class Results:
    """The content of a results file.

    Attributes:
        path: The file.
        header: Benchmark, configuration, judge and settings of the run.
        records: The last record of each pair, by id, in the order in which pairs were started. Each
            has ``pair``, ``split`` and ``status`` ("done" or "failed"). Failed ones have
            ``reason``. Done ones have ``a``, ``b`` (the truth), ``hypotheses`` (each with ``text``,
            ``direction``, ``auroc``, ``confirmed``, ``score``, ``reason``), ``found`` and
            ``confirmed`` (total numbers, judged or not), ``tested`` (number of candidates, or None
            if unknown), ``n_a``, ``n_b``, ``missing``, ``unreadable`` and ``warnings``.
    """

    path: Path
    header: Record
    records: dict[str, Record]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a results file; an incomplete last line is ignored.

        Raises:
            InputError: The file does not exist, or is not a results file.
        """
        file = Path(path)
        try:
            data = read_whole(file)
        except OSError as error:
            raise InputError(
                f"Expected a results file of `visdiff bench run`, got {path} ({error.strerror}); "
                f"check the path."
            ) from error
        header, records, _ = _parse(data, file)
        if header is None:
            raise InputError(f"Expected a results file, got {path}, which is empty; run it first.")
        return cls(file, header, records)

    @classmethod
    def open(cls, path: str | os.PathLike[str], header: Mapping[str, Any]) -> Self:
        """Opens a results file to resume a run, or creates one; call it as `sole_writer`.

        Args:
            path: The file; its folder is created if missing.
            header: Settings of the run.

        Raises:
            InputError: The file has another run, is not a results file, or cannot be written.
        """
        file = Path(path)
        new_header: Record = {"schema_version": SCHEMA_VERSION, **to_plain(header)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            data = read_whole(file) if file.exists() else b""
            old_header, records, n_complete = _parse(data, file)
            if old_header is not None:
                _check_same(old_header, new_header, file)
            if n_complete < len(data):
                with file.open("r+b") as stream:
                    stream.truncate(n_complete)
            results = cls(file, old_header or new_header, records)
            if old_header is None:
                results._write(new_header)
        except OSError as error:
            raise InputError(
                f"Expected a file that results can be written to, got {path} ({error.strerror}); "
                f"choose another."
            ) from error
        return results

    def append(self, record: Mapping[str, Any]) -> None:
        """Appends a pair's record and flushes it to disk."""
        plain: Record = to_plain(record)
        self._write(plain)
        self.records[plain["pair"]] = plain

    @property
    def failed(self) -> dict[str, str]:
        """The pairs that failed, with the reason."""
        return {n: r["reason"] for n, r in self.records.items() if r["status"] == "failed"}

    @property
    def n_unscored(self) -> int:
        """Number of hypotheses without a verdict."""
        return sum(
            h["score"] is None for r in self.records.values() for h in r.get("hypotheses", ())
        )

    @property
    def n_missing(self) -> int:
        """Number of missing images in all pairs."""
        return sum(r.get("missing", 0) for r in self.records.values())

    def _write(self, line: Record) -> None:
        text = json.dumps(line, ensure_ascii=True, allow_nan=False)
        with explained("a file that results can be appended to", self.path):
            append_line(self.path, text.encode("ascii"))


def _parse(data: bytes, path: Path) -> tuple[Record | None, dict[str, Record], int]:
    """Returns the header, the records, and the number of bytes in complete lines."""
    n_complete = data.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(data[:n_complete].splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(load_json(line))
        except ValueError as error:
            raise InputError(
                f"Expected a results file of `visdiff bench run`, got {path}, whose line {number} "
                f"is not JSON; remove this line to run its pair again."
            ) from error
    if not lines:
        # An incomplete header has the first bytes of a header; any other file is not overwritten.
        if not (_FIRST_BYTES.startswith(data) or data.startswith(_FIRST_BYTES)):
            raise InputError(
                f"Expected a results file, got {path} with other content; choose another."
            )
        return None, {}, n_complete
    header, *rest = lines
    if not isinstance(header, dict) or "benchmark" not in header or "judge" not in header:
        raise InputError(
            f"Expected a results file of `visdiff bench run`, got {path}, which does not begin "
            f"with a run's settings; choose another file."
        )
    if header.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"Expected results of schema_version {SCHEMA_VERSION} in {path}, got "
            f"{header.get('schema_version')!r}; use the version of visdiff that wrote them."
        )
    if not all(isinstance(r, dict) and {"pair", "split", "status"} <= set(r) for r in rest):
        raise InputError(f"Expected one pair per line in {path}, got other lines; choose another.")
    return header, {record["pair"]: record for record in rest}, n_complete


def _check_same(old_header: Record, new_header: Record, path: Path) -> None:
    old, new = _flatten(old_header), _flatten(new_header)
    names = [name for name in {**old, **new} if old.get(name, ...) != new.get(name, ...)]
    if names:
        differences = "; ".join(
            f"{name} is {new.get(name)!r}, in the file {old.get(name)!r}" for name in names[:3]
        )
        more = f" and {len(names) - 3} more settings" if len(names) > 3 else ""
        raise InputError(
            f"Expected {path} to hold the same run, got another ({differences}{more}); choose "
            f"another results file for this run."
        )


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        inner: leaf
        for key, item in value.items()
        if key not in _NEUTRAL
        for inner, leaf in _flatten(item, f"{name}.{key}" if name else key).items()
    }
