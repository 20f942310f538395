"""The results of one run: a JSONL file that grows by a line a pair and survives a kill.

The first line says what was run; every other line is one pair, and the last line of a pair counts.
A line is written whole and flushed to the disk before the next pair is begun. What a kill leaves of
a line is cut off when the file is opened again. One process writes a file at a time, see
`sole_writer`; readers need not wait.
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
from visdiff.results import to_plain

SCHEMA_VERSION = 1
#: Settings that change no result: a run may go on with others.
_NEUTRAL = frozenset({
    "device", "batch_size", "workers", "concurrency", "timeout", "max_retries", "max_calls",
    "max_cost", "prompt_price", "completion_price",
})  # fmt: skip
#: What every results file begins with.
_BEGINNING = b'{"schema_version"'

Record = dict[str, Any]


@contextmanager
def sole_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep every other process, and other threads, from writing a file while the block runs.

    Two runs of one file would begin the same pairs and cut off each other's unfinished lines. The
    lock is the operating system's, on an empty file beside it (``.NAME.lock``, which stays), so
    that a killed process leaves none behind.

    Args:
        path: What is to be written, a file or a folder; its folder is made when missing.

    Raises:
        InputError: Somebody else holds it, or its folder cannot be written to.
    """
    target = Path(path)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"expected to be the only one that writes {path}, got another run that is writing it: "
            f"wait for that one, or choose another place for this one's results."
        ) from None
    except OSError as error:
        raise InputError(
            f"expected a place to write results to, got {path}: {error.strerror}; choose another."
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass
class Results:
    """What a results file holds.

    Attributes:
        path: The file.
        header: Benchmark, configuration, judge and settings of the run.
        records: The last record of each pair, by id, in the order in which pairs were begun. Each
            has ``pair``, ``split``, ``status`` ("done" or "failed"); a failed one ``reason``; a
            done one ``a``, ``b`` (the truth), ``hypotheses`` (each ``text``, ``direction``,
            ``auroc``, ``confirmed``, ``score``, ``reason``), ``found`` and ``confirmed`` (how many
            in all, judged or not), ``tested`` (how many candidates that took, None when the system
            does not say), ``n_a``, ``n_b``, ``missing``, ``unreadable``, ``warnings``.
    """

    path: Path
    header: Record
    records: dict[str, Record]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a results file; a line that a kill cut off is left out.

        Raises:
            InputError: There is no such file, or it is no results file.
        """
        file = Path(path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InputError(
                f"expected a results file of `visdiff bench run`, got {path}: {error.strerror}."
            ) from error
        header, records, _ = _parsed(data, file)
        if header is None:
            raise InputError(f"expected a results file, got {path}, which is empty: run it first.")
        return cls(file, header, records)

    @classmethod
    def open(cls, path: str | os.PathLike[str], header: Mapping[str, Any]) -> Self:
        """Open a results file to go on with, or begin one, as its `sole_writer`.

        Args:
            path: The file; its folder is made when missing.
            header: What is to be run.

        Raises:
            InputError: The file holds another run, is no results file, or cannot be written.
        """
        file = Path(path)
        wanted: Record = {"schema_version": SCHEMA_VERSION, **to_plain(header)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            data = file.read_bytes() if file.exists() else b""
            found, records, whole = _parsed(data, file)
            if found is not None:
                _check_same(found, wanted, file)
            if whole < len(data):
                with file.open("r+b") as cut:
                    cut.truncate(whole)
            results = cls(file, found or wanted, records)
            if found is None:
                results._write(wanted)
        except OSError as error:
            raise InputError(
                f"expected a file to write results to, got {path}: {error.strerror}; choose "
                f"another."
            ) from error
        return results

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a pair's record, on the disk when this returns."""
        plain: Record = to_plain(record)
        self._write(plain)
        self.records[plain["pair"]] = plain

    @property
    def failed(self) -> dict[str, str]:
        """The pairs that failed, with the reason."""
        return {n: r["reason"] for n, r in self.records.items() if r["status"] == "failed"}

    @property
    def n_unscored(self) -> int:
        """Hypotheses without a verdict."""
        return sum(
            h["score"] is None for r in self.records.values() for h in r.get("hypotheses", ())
        )

    @property
    def n_missing(self) -> int:
        """Images that the pairs name and that were not there."""
        return sum(r.get("missing", 0) for r in self.records.values())

    def _write(self, line: Record) -> None:
        text = json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(text.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())


def _parsed(data: bytes, path: Path) -> tuple[Record | None, dict[str, Record], int]:
    """Return header, records, and how many bytes are whole lines."""
    whole = data.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise InputError(
                f"expected a results file of `visdiff bench run`, got {path}, whose line {number} "
                f"is not JSON: remove that line, and its pair is run again."
            ) from error
    if not lines:
        # A header that a kill cut off starts like one; another file without a line end does not.
        if not (_BEGINNING.startswith(data) or data.startswith(_BEGINNING)):
            raise InputError(f"expected a results file, got {path}, which is none: choose another.")
        return None, {}, whole
    header, *rest = lines
    if not isinstance(header, dict) or "benchmark" not in header or "judge" not in header:
        raise InputError(
            f"expected a results file of `visdiff bench run`, got {path}, which does not begin "
            f"with a run's settings: choose another file."
        )
    if header.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"expected results of schema_version {SCHEMA_VERSION} in {path}, got "
            f"{header.get('schema_version')!r}: use the version of visdiff that wrote them."
        )
    if not all(isinstance(r, dict) and {"pair", "split", "status"} <= set(r) for r in rest):
        raise InputError(f"expected one pair a line in {path}, got other lines: choose another.")
    return header, {record["pair"]: record for record in rest}, whole


def _check_same(found: Record, wanted: Record, path: Path) -> None:
    old, new = _flat(found), _flat(wanted)
    names = [name for name in {**old, **new} if old.get(name, ...) != new.get(name, ...)]
    if names:
        shown = "; ".join(
            f"{name} is {new.get(name)!r}, there {old.get(name)!r}" for name in names[:3]
        )
        more = f" and {len(names) - 3} more settings" if len(names) > 3 else ""
        raise InputError(
            f"expected {path} to hold the same run, got another ({shown}{more}): choose another "
            f"results file, one a run."
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        inner: leaf
        for key, item in value.items()
        if key not in _NEUTRAL
        for inner, leaf in _flat(item, f"{name}.{key}" if name else key).items()
    }
