"""People as judges: a blinded CSV to fill in, and the same CSV read back with checks.

A sheet has one row a different claim, in an order drawn by the caller's generator. It does not say
which system made a claim, how that system ranked it, or which set is A: the set that a claim is
about always comes first. People fill in the column ``rating`` by the paper's rubric:

- 2: the claim says what sets the first set apart from the second;
- 1: it is truer of the first set, but broader or narrower than the real difference;
- 0: it is not truer of the first set, or misses the difference.

A rating left empty is unscored. Rows may be sorted, left out and commented on, but not rewritten:
the column ``item`` names a row by its content.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.errors import InputError
from visdiff.judges import Claim, Verdict

COLUMNS = ("item", "first_set", "second_set", "claim", "rating", "comment")
RATINGS: Mapping[str, float] = {"0": 0.0, "1": 0.5, "2": 1.0}


def item(claim: Claim) -> str:
    """Name a claim by its content: 12 hexadecimal characters."""
    return _item(claim.own, claim.other, claim.text)


def write_sheet(
    claims: Sequence[Claim], path: str | os.PathLike[str], rng: np.random.Generator
) -> int:
    """Write the sheet that people fill in, a claim that occurs more than once only once.

    Args:
        claims: What is to be judged, of any pairs and systems.
        path: A new CSV file; UTF-8 with a mark, so that spreadsheets read it right.
        rng: Draws the order of the rows.

    Returns:
        The number of rows.

    Raises:
        InputError: There is such a file already (it may hold ratings), or it cannot be written.
    """
    rows = list({item(claim): claim for claim in claims}.values())
    try:
        with open(path, "x", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for index in rng.permutation(len(rows)):
                claim = rows[index]
                writer.writerow([item(claim), claim.own, claim.other, claim.text, "", ""])
    except FileExistsError as error:
        raise InputError(
            f"expected a new file for the sheet, got {path}, which exists and may hold ratings: "
            f"choose another name or move it away."
        ) from error
    except OSError as error:
        raise InputError(
            f"expected a place to write the sheet to, got {path}: {error.strerror}."
        ) from error
    return len(rows)


def read_sheet(path: str | os.PathLike[str]) -> dict[str, Verdict]:
    """Read a filled-in sheet: item → verdict, unrated rows included.

    Raises:
        InputError: There is no such sheet, a column is missing, a row was rewritten, or a rating
            is none of 0, 1 and 2 or differs between two rows of one claim.
    """
    verdicts: dict[str, Verdict] = {}
    for number, row in _rows(Path(path)):
        name = (row["item"] or "").strip()
        if name != _item(row["first_set"], row["second_set"], row["claim"]):
            raise InputError(
                f"expected row {number} of {path} as it was written, got one whose texts do not "
                f"fit its item {name!r}: restore the row, and fill in only rating and comment."
            )
        rating = (row["rating"] or "").strip()
        # Spreadsheets write 2 as 2.0 when a column has been a number.
        rating = rating.removesuffix(".0").removesuffix(",0")
        if rating and rating not in RATINGS:
            raise InputError(
                f"expected a rating of 0, 1 or 2 (or none) in row {number} of {path}, got "
                f"{rating!r}: correct it."
            )
        comment = (row.get("comment") or "").strip()
        verdict = Verdict(RATINGS[rating], comment) if rating else Verdict(None, "not rated")
        known = verdicts.get(name)
        if known is not None and None not in (known.score, verdict.score):
            if known.score != verdict.score:
                raise InputError(
                    f"expected one rating a claim in {path}, got two for {row['claim']!r} (row "
                    f"{number} is the second): keep one; two people need two sheets."
                )
        elif known is None or known.score is None:
            verdicts[name] = verdict
    return verdicts


class HumanJudge:
    """Looks verdicts up in a filled-in sheet; what is not in it is unscored."""

    def __init__(self, sheet: str | os.PathLike[str] | None = None, **_: Any) -> None:
        """Read the sheet.

        Args:
            sheet: What `write_sheet` wrote, filled in.

        Raises:
            InputError: There is no sheet, or something is wrong with it (`read_sheet`).
        """
        if sheet is None:
            raise InputError(
                "expected a filled-in sheet for the human judge, got none: write one with "
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
        """Look every claim up, see `visdiff.judges.Judge.judge`."""
        missing = Verdict(None, "not in the sheet")
        return [self._verdicts.get(item(claim), missing) for claim in claims]


def _item(own: str, other: str, text: str) -> str:
    parts = json.dumps([own, other, text], ensure_ascii=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows with their numbers in a spreadsheet; commas, semicolons or tabs part cells."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            for column in COLUMNS[:-1]:
                if column not in (reader.fieldnames or ()):
                    raise InputError(
                        f"expected a column {column!r} in {path}, got {reader.fieldnames}: use a "
                        f"sheet that write_sheet wrote, saved as CSV with all its columns."
                    )
            # The header is row 1.
            yield from enumerate(reader, start=2)
    except FileNotFoundError as error:
        raise InputError(
            f"expected a filled-in sheet at {path}, got no file there: check the path."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"expected a sheet in UTF-8 CSV at {path}, got a file that cannot be read ({error}): "
            f"save it as CSV UTF-8."
        ) from error
