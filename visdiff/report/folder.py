"""Writing a report to a folder, in formats for people and for programs."""

import io
import os
from pathlib import Path

import pandas as pd

from visdiff.errors import InputError
from visdiff.report.html import render_html
from visdiff.report.markdown import render_markdown
from visdiff.results import DifferenceReport


def write_folder(report: DifferenceReport, directory: str | Path) -> Path:
    """Writes report.html, report.json, report.md, differences.csv and scores.parquet.

    All formats are rendered before the first file is written, so a failed rendering leaves an
    earlier report unchanged. Each file is written atomically. Without ``report.scores``,
    scores.parquet is not written, and the one of an earlier report is removed.

    Args:
        report: The report.
        directory: The folder, created with its parents if missing.

    Returns:
        The folder.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    directory = Path(directory)
    files = {
        "report.json": _bytes(report.to_json(indent=2) + "\n"),
        "report.md": _bytes(render_markdown(report)),
        "report.html": _bytes(render_html(report)),
        "differences.csv": _bytes(_csv(report)),
    }
    if report.scores is not None:
        files["scores.parquet"] = _parquet(report.scores)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _replace(directory / name, data)
        if report.scores is None:
            (directory / "scores.parquet").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"Expected a folder that can be written to, got {directory} "
            f"({error.strerror or error}); name another one or change its permissions."
        ) from error
    return directory


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        # Never masks the error above: where nothing can be written, nothing was left behind either.
        if temporary.is_file():
            temporary.unlink(missing_ok=True)
        raise


def _bytes(text: str) -> bytes:
    # File names that are not UTF-8 reach us as lone surrogates, which UTF-8 cannot hold.
    return text.encode("utf-8", "backslashreplace")


def _text(text: str) -> str:
    return _bytes(text).decode("utf-8")


def _csv(report: DifferenceReport) -> str:
    frame = report.to_frame()
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
