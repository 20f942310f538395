"""Text tables as spreadsheets and other tools write them: encoding, separator and rows."""

import codecs
import csv
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd

from visdiff.errors import InputError
from visdiff.files import load_json
from visdiff.imageset import columns

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SEPARATORS = (",", ";", "\t", "|")
_KNOWN = frozenset({*columns.PATH, *columns.PROMPT, *columns.SEED, "id", "caption", "group_name"})
# A line of Excel that names the separator.
_SEP_LINE = re.compile(r'"?sep=(?P<separator>[,;\t|])"?\r?\n')


WINDOWS = "cp1252"
"""Encoding that is assumed for a text that is in none of the Unicode encodings."""


def decode_text(data: bytes, path: Path) -> tuple[str, str]:
    """Returns the text of a file in UTF-8, UTF-16 or UTF-32, or else in Windows-1252.

    UTF-16 without a byte order mark is recognised. Bytes that are not UTF-8 in a text that also has
    other UTF-8 sequences become lone surrogates, as in Python's file names.

    Args:
        data: The bytes.
        path: Name of the file for errors.

    Returns:
        The text and its encoding.

    Raises:
        InputError: The data is not text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            break
    else:
        text, encoding = _decode_unmarked(data)
    if "\0" in text:
        kind = "an Excel workbook or another archive" if data.startswith(b"PK") else "binary data"
        raise InputError(f"Expected text in {path}, got {kind}; export it as CSV in UTF-8.")
    return text, encoding


def read_delimited(text: str, tabs: bool, path: Path) -> pd.DataFrame:
    """Returns the rows of a CSV or TSV text; all cells are text, and an empty one is missing.

    Args:
        text: The text; the separator is the one that gives the known columns, or the most.
        tabs: Whether the separator is a tab if the header does not decide.
        path: Name of the file for errors.

    Raises:
        InputError: A row has more cells than the header.
        ValueError: The text cannot be parsed.
    """
    separator = "\t" if tabs else ","
    if named := _SEP_LINE.match(text):
        separator, text = named["separator"], text[named.end() :]
    else:
        separator = _separator(text, separator)
    data = io.BytesIO(text.encode("utf-8", "surrogateescape"))
    plain = not _has_surrogates(text)
    options: dict[str, Any] = {
        "sep": separator,
        # Strings of Arrow cannot hold lone surrogates.
        "dtype": str if plain else object,
        "keep_default_na": False,
        "na_values": [""],
        "encoding": "utf-8",
        "encoding_errors": "surrogateescape",
    }
    table = pd.read_csv(data, **options)
    if isinstance(table.index, pd.RangeIndex):
        return table
    # pandas takes the first cells of rows that are longer than the header as an index.
    extra = table.iloc[:, -table.index.nlevels :]
    if not extra.isna().to_numpy().all():
        raise InputError(
            f"Expected as many cells in each row of {path} as in its header ({table.shape[1]}), "
            "got more; name every column, or put cells with separators in quotes."
        )
    data.seek(0)
    return pd.read_csv(data, index_col=False, **options)


def read_json_lines(text: str, path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL text; blank lines are skipped.

    Args:
        text: The text.
        path: Name of the file for errors.

    Raises:
        InputError: A line is not a JSON object.
    """
    rows: list[dict[str, Any]] = []
    # Not splitlines: JSON strings may hold other line separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = load_json(line)
        except ValueError as error:
            reason = str(error).partition(": line ")[0]
            raise InputError(
                f"Expected one JSON object a line in {path}, got line {number} that does not "
                f"parse ({reason}); repair that line."
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"Expected one JSON object a line in {path}, got {type(row).__name__} in line "
                f'{number}; write it as {{"name": value}}.'
            )
        rows.append(row)
    return rows


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns rows as a table, also if their texts have lone surrogates."""
    try:
        return pd.DataFrame(rows)
    except UnicodeEncodeError:
        return pd.DataFrame(rows, dtype=object)


def _decode_unmarked(data: bytes) -> tuple[str, str]:
    start = data[:4096]
    # In UTF-16, every other byte of ASCII text is zero.
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if len(start) > 3 and zeros.count(0) > 0.6 * len(zeros) and not start.startswith(b"PK"):
            return data.decode(encoding, "replace"), encoding
    text = data.decode("utf-8", "surrogateescape")
    if _has_surrogates(text) and all(ord(c) < 128 or _is_surrogate(c) for c in text):
        return data.decode(WINDOWS, "surrogateescape"), WINDOWS
    return text, "utf-8"


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _separator(text: str, usual: str) -> str:
    header = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")

    def score(separator: str) -> tuple[bool, int, bool]:
        try:
            names = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:
            return False, 0, False
        known = any(name.strip().lower() in _KNOWN for name in names)
        return known, len(names), separator == usual

    return max(_SEPARATORS, key=score)
