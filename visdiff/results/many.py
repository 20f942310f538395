"""The result of several comparisons: frozen, with the output formats of a report and an index."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from visdiff.errors import InputError
from visdiff.files import load_json, write_texts
from visdiff.report.many import render_index, render_markdown
from visdiff.results import DifferenceReport
from visdiff.results.views import summary

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Pair = tuple[str, str]
"""Names of set A and set B of a comparison."""


@dataclass(frozen=True, repr=False)
class ManyReport:
    """The result of comparing many pairs of sets.

    Attributes:
        title: A short title of the comparisons.
        names: Names of the sets, in order.
        reports: One report per compared pair, by the names of its sets. Its q-values are corrected
            over the candidates of all pairs.
        failed: Why each other pair could not be compared.
        n_candidates: Number of candidates that the correction is over.
        warnings: Warnings about the comparisons as a whole, one sentence each.
        schema_version: Version of the JSON layout.
    """

    title: str
    names: tuple[str, ...]
    reports: Mapping[Pair, DifferenceReport]
    failed: Mapping[Pair, str] = field(default_factory=dict)
    n_candidates: int = 0
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        verdict = f"{self.title}: {self.n_confirmed} confirmed of {self.n_candidates} candidates"
        rows = [f"{a} and {b}: {report.verdict}" for (a, b), report in self.reports.items()]
        failed = [f"{a} and {b}: {why}" for (a, b), why in self.failed.items()]
        return summary(verdict, (), rows, [*self.warnings, *failed])

    @property
    def n_confirmed(self) -> int:
        """Number of confirmed differences in all reports."""
        return sum(len(report.confirmed) for report in self.reports.values())

    def to_frame(self, full: bool = False) -> "pd.DataFrame":
        """Returns the differences of all pairs, one row each.

        Args:
            full: Whether to return all fields of a difference.

        Returns:
            A frame with the columns ``set_a``, ``set_b`` and ``more_true_of`` (names of sets), then
            those of `DifferenceReport.to_frame`.
        """
        import pandas as pd

        parts = []
        for (a, b), report in self.reports.items():
            frame = report.to_frame(full)
            columns = {
                "set_a": [a] * len(frame),
                "set_b": [b] * len(frame),
                "more_true_of": [a if d == "A" else b for d in frame["direction"]],
            }
            for place, (name, values) in enumerate(columns.items()):
                # Names that are not UTF-8 have lone surrogates, which only objects hold.
                frame.insert(place, name, pd.Series(values, dtype=object))
            parts.append(frame)
        filled = [frame for frame in parts if len(frame)]
        return pd.concat(filled or parts[:1], ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values, with the full report of every pair."""
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
        """Returns the result as JSON; NaN and infinities are written as null.

        Args:
            indent: Spaces per level, or None for a single line.
        """
        # ASCII, because a file name that is not UTF-8 needs JSON escapes.
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Loads a result from the output of `to_json`, without scores, thumbnails and captions.

        Raises:
            InputError: The text is not such a result, or of an unsupported schema version.
        """
        try:
            data = load_json(text)
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
        try:
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
        except (KeyError, TypeError) as error:
            raise InputError(
                f"Expected a complete result of many comparisons, got one without {error}; is the "
                "file damaged?"
            ) from error

    def to_markdown(self) -> str:
        """Returns the verdict and the confirmed differences of each pair as Markdown."""
        return render_markdown(self)

    def to_html(self, links: Mapping[Pair, str] | None = None) -> str:
        """Returns the index page: self-contained, without scripts, with all user text escaped.

        Args:
            links: Link to each pair's own page; by default there are none.
        """
        return render_index(self, links or {})

    def save(self, directory: str | Path) -> Path:
        """Writes index.html, many.json, many.md, differences.csv and a folder for each pair.

        The pairs' folders are ``pairs/001-<names>/``, each written by `DifferenceReport.save`; the
        index, written last, links to them. Figures are not written: they would take longer than the
        other files of many pairs together.

        Args:
            directory: Output folder, created with its parents if missing. Files of these names are
                replaced.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be written to.
        """
        import pandas as pd

        directory = Path(directory)
        folders = pair_folders(list(self.reports))
        for key, report in self.reports.items():
            report.save(directory / folders[key], figures=())
        frame = self.to_frame(full=True)
        for column in ("synonyms", "evidence_a", "evidence_b"):
            joined = ["; ".join(items) for items in frame[column]]
            frame[column] = pd.Series(joined, dtype=object)
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
    """Returns a short, unique ASCII folder name for each pair, relative to the index."""
    return {
        (a, b): f"pairs/{number:03d}-{_slug(a)}-vs-{_slug(b)}"
        for number, (a, b) in enumerate(pairs, 1)
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:30] or "set"
