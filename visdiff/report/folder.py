"""Writing a report to a folder, in formats for people and for programs."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdiff.figures.files import FORMATS, figure_files
from visdiff.files import explained, utf8, write_whole
from visdiff.report.html import render_html
from visdiff.report.markdown import render_markdown
from visdiff.results import DifferenceReport

FOREST = "forest"
"""Name of the forest plot's files without their suffix."""


def write_folder(
    report: DifferenceReport, directory: str | Path, figures: Sequence[str] = FORMATS
) -> Path:
    """Writes report.html, report.json, report.md, differences.csv, scores.parquet and figures.

    All formats are rendered before the first file is written, so a failed rendering leaves an
    earlier report unchanged. Each file is written atomically. What this report has not (its scores,
    a figure) is removed if an earlier report left it.

    Args:
        report: The report.
        directory: The folder, created with its parents if missing.
        figures: Formats of the forest plot; empty for no figure.

    Returns:
        The folder.

    Raises:
        InputError: The folder cannot be created or written to, or a format is unknown.
    """
    directory = Path(directory)
    files = {
        "report.json": utf8(report.to_json(indent=2) + "\n"),
        "report.md": utf8(render_markdown(report)),
        "differences.csv": utf8(_csv(report)),
    }
    if report.scores is not None:
        files["scores.parquet"] = _parquet(report.scores)
    if figures:
        files |= figure_files(report.plot(), FOREST, figures)
    stale = {"scores.parquet", *(f"{FOREST}.{suffix}" for suffix in FORMATS)} - set(files)
    files["report.html"] = utf8(render_html(report, tuple(files)))
    with explained("a folder that can be written to", directory):
        for name, data in files.items():
            write_whole(directory / name, data)
        for name in stale:
            (directory / name).unlink(missing_ok=True)
    return directory


def _text(text: str) -> str:
    return utf8(text).decode("utf-8")


def _csv(report: DifferenceReport) -> str:
    frame = report.to_frame(full=True)
    for column in ("synonyms", "evidence_a", "evidence_b"):
        frame[column] = [_text("; ".join(items)) for items in frame[column]]
    return frame.to_csv(index=False, lineterminator="\n")


def _parquet(scores: pd.DataFrame) -> bytes:
    frame = scores.rename(columns=lambda name: _text(str(name)))
    if "id" in frame:
        frame["id"] = [_text(str(i)) for i in scores["id"]]
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
