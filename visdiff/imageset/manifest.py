"""Tables of images: reading a manifest without altering its values, and filtering its rows.

Group names are often digits, versions or codes ("007", "1.10", "NA"). Type inference changes such
values, and a filter from YAML or TOML, where 7 is a number, then matches nothing. Text is therefore
converted to numbers only if this is lossless, and filters compare text first and numbers second.
"""

import difflib
import io
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visdiff.errors import InputError
from visdiff.files import explained, read_whole
from visdiff.imageset import texts

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson", ".parquet", ".tsv"})
"""File name suffixes (lower case) of manifests."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MAX_LISTED = 12
_WINDOWS_NOTE = "{} is not in UTF-8 and was read as Windows-1252."


def read_table(path: Path) -> pd.DataFrame:
    """Returns a CSV, TSV, Parquet or JSONL file as a table, one row an image.

    Text may be UTF-8, UTF-16 or Windows-1252, and separated by commas, semicolons, tabs or bars. In
    CSV and TSV an empty cell is missing, and nothing else is ("NA" and "None" are text); a column
    becomes integer or float only when every cell reads so and no two different texts become one
    number ("007", or "1.10" next to "1.1", stay text).

    Returns:
        The table. Its ``attrs["notes"]`` holds sentences about what was assumed.

    Raises:
        InputError: The file does not exist, is empty or cannot be parsed.
    """
    found, encoding = _read(path, "a manifest")
    if isinstance(found, list):
        if not found:
            raise InputError(
                f"Expected a manifest with a header and rows in {path}, got an empty file; "
                f"write at least a column `path` and one row."
            )
        table = texts.frame_of(found)
    elif encoding is None:
        table = found
    else:
        table = pd.DataFrame({name: _typed(column) for name, column in found.items()})
    table.attrs = {"notes": [_WINDOWS_NOTE.format(path)] if encoding == texts.WINDOWS else []}
    return table


def read_rows(path: Path, what: str) -> list[dict[str, Any]]:
    """Returns the rows of a CSV, TSV, Parquet or JSONL file; cells of CSV and TSV are text.

    Text may be encoded and separated as in `read_table`.

    Args:
        path: The file.
        what: What the file is, with its article, for errors.

    Returns:
        The rows, none for an empty file. A row of JSONL has its own keys; a missing cell of the
        other formats is NaN.

    Raises:
        InputError: The file does not exist or cannot be parsed.
    """
    found, encoding = _read(path, what)
    if encoding == texts.WINDOWS:
        logger.warning(_WINDOWS_NOTE.format(path))
    return found if isinstance(found, list) else found.to_dict("records")


def read_text(path: Path, what: str) -> str:
    """Returns the text of a file in an encoding of `read_table`.

    Args:
        path: The file.
        what: What the file is, with its article, for errors.

    Raises:
        InputError: The file does not exist or is not text.
    """
    with explained(what, path, "check the path"):
        data = read_whole(path)
    text, encoding = texts.decode_text(data, path)
    if encoding == texts.WINDOWS:
        logger.warning(_WINDOWS_NOTE.format(path))
    return text


def _read(path: Path, what: str) -> tuple[pd.DataFrame | list[dict[str, Any]], str | None]:
    """Returns the content of a table, and the encoding of its text, None for Parquet."""
    suffix = path.suffix.lower()
    with explained(what, path, "check the path"):
        data = read_whole(path)
    try:
        if suffix == ".parquet":
            return pd.read_parquet(io.BytesIO(data)), None
        text, encoding = texts.decode_text(data, path)
        if suffix in (".jsonl", ".ndjson"):
            return texts.read_json_lines(text, path), encoding
        return texts.read_delimited(text, suffix == ".tsv", path), encoding
    except InputError:
        raise
    except pd.errors.EmptyDataError:
        return [], None
    # pandas and pyarrow raise many types: ParserError, ArrowException, NotImplementedError, …
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Expected a {suffix.lstrip('.')} table in {path}, got one that cannot be read "
            f"({reason}); repair or export it again."
        ) from error


def select(frame: pd.DataFrame, where: Mapping[str, Any], label: str) -> np.ndarray:
    """Selects the rows that match all conditions.

    Args:
        frame: A table.
        where: Required value by column; a list means any of its values, None a missing cell. Values
            are compared as text (7 and "7", True and "true"), and if no text matches, as numbers (7
            and "007").
        label: Name of the table in an error.

    Returns:
        Positions of the rows, ascending.

    Raises:
        InputError: A column is unknown, or no row matches; the message lists the possible values.
    """
    rows = np.arange(len(frame))
    for column, wanted in where.items():
        check_columns(frame, [column], label)
        cells = frame[column].iloc[rows].tolist()
        rows = rows[_matches(cells, wanted)]
        if not rows.size:
            values = list(dict.fromkeys(map(text, cells)))
            close = difflib.get_close_matches(text(wanted), values, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"Expected rows with {column} = {wanted!r} in {label}, got none{hint}; "
                f"use one of {listed(values)}."
            )
    return rows


def check_columns(frame: pd.DataFrame, columns: list[str], label: str) -> None:
    """Raises InputError, with a list of the existing columns, if a column is missing."""
    known = [str(column) for column in frame.columns]
    for column in columns:
        if column not in known:
            close = difflib.get_close_matches(str(column), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"Expected a column {column!r} in {label}, got none{hint}; "
                f"its columns are {listed(known)}."
            )


def text(value: Any) -> str:
    """Converts a cell to text so that equal values of different types are equal ("1", 1 and 1.0).

    A missing cell is the empty string.
    """
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if pd.api.types.is_float(value):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def _matches(cells: list[Any], value: Any) -> np.ndarray:
    if isinstance(value, (list, tuple, set, frozenset)):
        keep = np.zeros(len(cells), dtype=bool)
        for item in value:
            keep |= _matches(cells, item)
        return keep
    texts = [text(cell) for cell in cells]
    # None is a missing cell, whose text is empty.
    value = text(value)
    exact = np.array([cell == value for cell in texts], dtype=bool)
    if exact.any():
        return exact
    if value.casefold() in ("true", "false"):
        return np.array([cell.casefold() == value.casefold() for cell in texts], dtype=bool)
    number = _number(value)
    if number is None:
        return exact
    return np.array([_number(cell) == number for cell in texts], dtype=bool)


def _number(value: str) -> float | None:
    return float(value) if _FLOAT.fullmatch(value) else None


def _typed(column: pd.Series) -> pd.Series:
    """Converts a column of text to numbers if this is lossless."""
    values = column.dropna()
    if values.empty:
        return column
    distinct = values.unique().tolist()
    if all(_INTEGER.fullmatch(value) for value in distinct):
        numbers = column.map(int, na_action="ignore")
        return numbers.astype("int64" if len(values) == len(column) else "Int64")
    if not all(_FLOAT.fullmatch(value) for value in distinct):
        return column
    # A leading zero marks a code, not a number ("007.5").
    is_code = any(re.match(r"-?0[0-9]", value) for value in distinct)
    if is_code or len({float(value) for value in distinct}) < len(distinct):
        return column
    return column.map(float, na_action="ignore").astype("float64")


def listed(values: list[str]) -> str:
    """Formats a list for an error message, truncated after a dozen values."""
    text = ", ".join(repr(value) for value in values[:_MAX_LISTED])
    more = len(values) - _MAX_LISTED
    return f"{text} and {more} more" if more > 0 else text
