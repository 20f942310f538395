"""Human judges: a blinded CSV sheet to fill in, and a reader that validates it.

A sheet has one row per distinct claim, in random order. It does not contain the system that made a
claim, its rank, or which set is A: the set that a claim is about always comes first. People fill in
the column ``rating`` by the paper's rubric:

- 2: the claim states the difference of the first set from the second;
- 1: it is truer of the first set, but broader or narrower than the true difference;
- 0: it is not truer of the first set, or misses the difference.

An empty rating has no score. Rows may be sorted, removed and commented on, but not edited: the
column ``item`` is a digest of the row's texts.
"""

import codecs
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.errors import InputError
from visdiff.files import explained, read_text, utf8, write_whole
from visdiff.judges import Claim, Verdict

COLUMNS = ("item", "first_set", "second_set", "claim", "rating", "comment")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
RATINGS: Mapping[str, float] = {"0": 0.0, "1": 0.5, "2": 1.0}


def item(claim: Claim) -> str:
    """Returns a digest of a claim's texts, 12 hexadecimal characters."""
    return _item(claim.own, claim.other, claim.text)


def write_sheet(
    claims: Sequence[Claim], path: str | os.PathLike[str], rng: np.random.Generator
) -> int:
    """Writes the sheet to fill in; repeated claims get one row.

    Args:
        claims: Claims about any pairs, by any systems.
        path: A new CSV file, written as UTF-8 with a byte order mark for spreadsheets.
        rng: Random generator for the order of the rows.

    Returns:
        The number of rows.

    Raises:
        InputError: The file exists (it may hold ratings), or cannot be written.
    """
    rows = list({item(claim): claim for claim in claims}.values())
    path = Path(path)
    if os.path.lexists(path):
        raise InputError(
            f"Expected a new file for the sheet, got {path}, which exists and may hold ratings; "
            f"choose another name or move it away."
        )
    sheet = io.StringIO(newline="")
    writer = csv.writer(sheet)
    writer.writerow(COLUMNS)
    for index in rng.permutation(len(rows)):
        claim = rows[index]
        texts = map(_cell, (claim.own, claim.other, claim.text))
        writer.writerow([item(claim), *texts, "", ""])
    with explained("a writable path for the sheet", path, "choose another"):
        write_whole(path, codecs.BOM_UTF8 + utf8(sheet.getvalue()))
    return len(rows)


def read_sheet(path: str | os.PathLike[str]) -> dict[str, Verdict]:
    """Returns the verdicts of a filled-in sheet by item, unrated rows included.

    Raises:
        InputError: The sheet or a column is missing, a row was edited, a rating is not 0, 1 or 2,
            or two rows of one claim have different ratings.
    """
    verdicts: dict[str, Verdict] = {}
    for number, row in _rows(Path(path)):
        name = (row["item"] or "").strip()
        texts = [_text(row[column]) for column in ("first_set", "second_set", "claim")]
        if name != _item(*texts):
            raise InputError(
                f"Expected row {number} of {path} as it was written, got one whose texts do not "
                f"fit its item {name!r}; restore the row, and fill in only rating and comment."
            )
        rating = (row["rating"] or "").strip()
        # Spreadsheets write 2 as 2.0 in numeric columns.
        rating = rating.removesuffix(".0").removesuffix(",0")
        if rating and rating not in RATINGS:
            raise InputError(
                f"Expected a rating of 0, 1 or 2 (or none) in row {number} of {path}, got "
                f"{rating!r}; correct it."
            )
        comment = (row.get("comment") or "").strip()
        verdict = Verdict(RATINGS[rating], comment) if rating else Verdict(None, "not rated")
        known = verdicts.get(name)
        if known is not None and None not in (known.score, verdict.score):
            if known.score != verdict.score:
                raise InputError(
                    f"Expected one rating per claim in {path}, got two for {row['claim']!r} (row "
                    f"{number} is the second); keep one (two people need two sheets)."
                )
        elif known is None or known.score is None:
            verdicts[name] = verdict
    return verdicts


class HumanJudge:
    """A judge that looks up verdicts in a filled-in sheet; missing claims have no score."""

    def __init__(self, sheet: str | os.PathLike[str] | None = None, **_: Any) -> None:
        """Reads the sheet.

        Args:
            sheet: A sheet of `write_sheet`, filled in.
            **_: Other settings, ignored.

        Raises:
            InputError: There is no sheet, or it is invalid (`read_sheet`).
        """
        if sheet is None:
            raise InputError(
                "Expected a filled-in sheet for the human judge, got none; write one with "
                "`visdiff bench score RESULTS --write-sheet sheet.csv`, have it filled in, and "
                "pass it with --sheet."
            )
        self._verdicts = read_sheet(sheet)
        ratings = sorted((name, verdict.score) for name, verdict in self._verdicts.items()
                         if verdict.score is not None)  # fmt: skip
        self._digest = hashlib.sha256(json.dumps(ratings).encode()).hexdigest()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The digest of the ratings."""
        return {"judge": "human", "ratings_sha256": self._digest}

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        """Looks up every claim (see `visdiff.judges.Judge.judge`)."""
        missing = Verdict(None, "not in the sheet")
        return [self._verdicts.get(item(claim), missing) for claim in claims]


def _cell(text: str) -> str:
    """Returns a text as a cell that no spreadsheet runs as a formula.

    https://owasp.org/www-community/attacks/CSV_Injection: claims are written by a language model.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _text(cell: str) -> str:
    """Returns the text of a cell that `_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _item(own: str, other: str, text: str) -> str:
    parts = json.dumps([own, other, text], ensure_ascii=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields row numbers, as in a spreadsheet, and rows; detects comma, semicolon or tab."""
    sheet = io.StringIO(read_text(path, "a filled-in sheet"), newline="")
    header = sheet.readline()
    delimiter = max(",;\t", key=header.count)
    sheet.seek(0)
    reader = csv.DictReader(sheet, delimiter=delimiter)
    try:
        for column in COLUMNS[:-1]:
            if column not in (reader.fieldnames or ()):
                raise InputError(
                    f"Expected a column {column!r} in {path}, got {reader.fieldnames}; use a "
                    f"sheet that write_sheet wrote, saved as CSV with all its columns."
                )
        # The header is row 1.
        yield from enumerate(reader, start=2)
    except csv.Error as error:
        raise InputError(
            f"Expected a sheet in UTF-8 CSV at {path}, got a file that cannot be read ({error}); "
            f"save it as CSV UTF-8."
        ) from error
