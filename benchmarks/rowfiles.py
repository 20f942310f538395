"""Results as JSON lines: a row is written as soon as it is measured, so that a run continues."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file in order; none if it does not exist."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Appends a row to a file."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure_missing(
    file: Path,
    key: str,
    values: Sequence[T],
    measure: Callable[[T], Mapping[str, Any]],
    progress: str,
) -> list[dict[str, Any]]:
    """Measures what an interrupted run left out.

    Args:
        file: File of the rows; appended to after each measurement.
        key: Name of the column that tells the rows apart.
        values: What to measure, in order: the values of that column.
        measure: Value → the other columns of its row.
        progress: Description of the progress bar.

    Returns:
        The row of each value, in the given order.
    """
    done = {row[key]: row for row in read_rows(file)}
    for value in tqdm([v for v in values if v not in done], desc=progress):
        done[value] = {key: value, **measure(value)}
        append_row(file, done[value])
    return [done[value] for value in values]
