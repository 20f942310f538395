"""What many comparisons return: frozen, with the doors of a single report, and an index page."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from visdiff.errors import InputError
from visdiff.files import write_texts
from visdiff.report.many import render_index, render_markdown
from visdiff.results import DifferenceReport

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Pair = tuple[str, str]
"""The names of set A and set B of a comparison."""


@dataclass(frozen=True)
class ManyReport:
    """The result of comparing many pairs of sets.

    Attributes:
        title: What was compared, in a few words.
        names: The sets, in order.
        reports: One report a pair that could be compared, by the names of its sets. Its q-values
            are corrected over the candidates of all pairs.
        failed: Why each other pair could not be compared.
        n_candidates: How many candidates the correction is over.
        warnings: Sentences about the whole that the reader must see.
        schema_version: Version of the JSON layout.
    """

    title: str
    names: tuple[str, ...]
    reports: Mapping[Pair, DifferenceReport]
    failed: Mapping[Pair, str] = field(default_factory=dict)
    n_candidates: int = 0
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def n_confirmed(self) -> int:
        """Confirmed differences in all reports."""
        return sum(len(report.confirmed) for report in self.reports.values())

    def to_frame(self) -> "pd.DataFrame":
        """The differences of all pairs, one row each.

        Returns:
            A frame with the columns ``set_a``, ``set_b`` and ``more_true_of`` (names of sets), then
            those of `DifferenceReport.to_frame`.
        """
        import pandas as pd

        parts = []
        for (a, b), report in self.reports.items():
            frame = report.to_frame()
            frame.insert(0, "set_a", a)
            frame.insert(1, "set_b", b)
            frame.insert(2, "more_true_of", [a if d == "A" else b for d in frame["direction"]])
            parts.append(frame)
        filled = [frame for frame in parts if len(frame)]
        return pd.concat(filled or parts[:1], ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, with every pair's whole report."""
        return {
            "schema_version": self.schema_version,
            "title": self.title,
            "names": list(self.names),
            "n_candidates": self.n_candidates,
            "n_confirmed": self.n_confirmed,
            "warnings": list(self.warnings),
            "comparisons": [
                {"a": a, "b": b, "verdict": report.verdict, "report": report.to_dict()}
                for (a, b), report in self.reports.items()
            ],
            "failed": [{"a": a, "b": b, "reason": why} for (a, b), why in self.failed.items()],
        }

    def to_json(self, indent: int | None = None) -> str:
        """The result as JSON; NaN and infinities are written as null.

        Args:
            indent: Spaces per level, or None for one line.
        """
        # ASCII: a file name that is not UTF-8 can only be held by an escape.
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what `to_json` wrote; scores, thumbnails and captions come back empty.

        Raises:
            InputError: It is not such a result, or of a schema version this one cannot read.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"Expected a result of many comparisons in JSON, got {error}.") from (
                error
            )
        if not isinstance(data, dict) or "comparisons" not in data:
            raise InputError(
                "Expected a result of many comparisons (a JSON object with comparisons), got "
                "something else; pass the contents of many.json."
            )
        if data.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"Expected schema_version {SCHEMA_VERSION}, got {data.get('schema_version')!r}; "
                "read it with the version of visdiff that wrote it."
            )
        return cls(
            title=data["title"],
            names=tuple(data["names"]),
            reports={
                (c["a"], c["b"]): DifferenceReport.from_json(json.dumps(c["report"]))
                for c in data["comparisons"]
            },
            failed={(f["a"], f["b"]): f["reason"] for f in data["failed"]},
            n_candidates=data["n_candidates"],
            warnings=tuple(data["warnings"]),
        )

    def to_markdown(self) -> str:
        """The verdict of each pair, and its confirmed differences, as Markdown."""
        return render_markdown(self)

    def to_html(self, links: Mapping[Pair, str] | None = None) -> str:
        """The index page: self-contained, without scripts, everything of the user's escaped.

        Args:
            links: Where each pair's own page is; none is linked by default.
        """
        return render_index(self, links or {})

    def save(self, directory: str | Path) -> Path:
        """Writes index.html, many.json, many.md, differences.csv and a folder for each pair.

        The pairs' folders are ``pairs/001-<names>/``, each written by `DifferenceReport.save`; the
        index, written last, links to them.

        Args:
            directory: Made, with its parents, when missing. Files of these names are replaced.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be written to.
        """
        directory = Path(directory)
        folders = pair_folders(list(self.reports))
        for key, report in self.reports.items():
            report.save(directory / folders[key])
        frame = self.to_frame()
        for column in ("synonyms", "evidence_a", "evidence_b"):
            frame[column] = ["; ".join(items) for items in frame[column]]
        links = {key: f"{folder}/report.html" for key, folder in folders.items()}
        write_texts(
            directory,
            {
                "many.json": self.to_json(indent=2) + "\n",
                "many.md": self.to_markdown(),
                "differences.csv": frame.to_csv(index=False, lineterminator="\n"),
                "index.html": self.to_html(links),
            },
        )
        return directory


def pair_folders(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """Names a folder for each pair, relative to the index: short, ASCII, different."""
    return {
        (a, b): f"pairs/{number:03d}-{_slug(a)}-vs-{_slug(b)}"
        for number, (a, b) in enumerate(pairs, 1)
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:30] or "set"
