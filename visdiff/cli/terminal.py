"""Terminal output of a report: the table, the warnings and the exit status."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from visdiff.report.collect import detectable, second_ranker, verify_text
from visdiff.results import DifferenceReport

# All but tabs and line breaks.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def deliver(report: DifferenceReport, out: Path | None, as_json: bool, command: str) -> None:
    """Saves and prints a report; exits with status 3 if it is incomplete.

    Args:
        report: The report.
        out: Folder to save it to, or None.
        as_json: Print JSON.
        command: The command that made it, for its provenance.
    """
    report = replace(report, provenance=replace(report.provenance, command=command))
    try:
        if out is not None:
            report.save(out)
    finally:
        # Also when the folder cannot be written to: the result is not lost.
        if as_json:
            typer.echo(report.to_json(indent=2))
        else:
            print_report(report)
            warn(report)
    finish(report, out, as_json)


def finish(report: DifferenceReport, out: Path | None, as_json: bool) -> None:
    """Prints the path of the report; exits with status 3 if it is incomplete."""
    if out is not None:
        typer.echo(f"report: {out / 'report.html'}", err=as_json)
    if not report.is_complete:
        raise typer.Exit(3)


def warn(report: DifferenceReport) -> None:
    """Prints the warnings of the report on stderr."""
    for warning in report.warnings:
        typer.echo(f"warning: {visible(warning)}", err=True)


def print_report(report: DifferenceReport) -> None:
    """Prints the verdict and the differences."""
    names = {"A": report.set_a.name, "B": report.set_b.name}
    checked = second_ranker(report) is not None
    rows = [
        (
            d.confirmed,
            [
                d.text,
                names[d.direction],
                f"{d.auroc:.2f}",
                f"{d.ci_low:.2f}–{d.ci_high:.2f}",
                f"{d.q_value:.1g}",
                *([verify_text(d)] if checked else []),
            ],
        )
        for d in report.differences
    ]
    columns = ["difference", "more true of", "AUROC", "interval", "q"]
    print_table(report.verdict, [*columns, *(["2nd ranker"] if checked else [])], rows)
    console = _console()
    nothing = not report.differences and not report.failed_stages
    if nothing and report.minimum_detectable_auroc is not None:
        console.print(detectable(report.minimum_detectable_auroc))
    if report.null is not None:
        console.print(
            f"With shuffled sets, {report.null.with_any_confirmed} of {report.null.repeats} runs "
            "confirmed anything."
        )


def print_table(title: str, columns: list[str], rows: list[tuple[bool, list[str]]]) -> None:
    """Prints a table; confirmed rows have a check mark, the others are dim.

    Args:
        title: Title line.
        columns: Column headings.
        rows: For each row, whether it is confirmed, and its cells.
    """
    console = _console()
    console.print(Text(visible(title), style="bold"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column in ("AUROC", "p", "q") else "left")
    for confirmed, cells in rows:
        # Text, not markup: a hypothesis may contain square brackets.
        marked = ("✓" if confirmed else "", *cells)
        table.add_row(*(Text(visible(cell), style="" if confirmed else "dim") for cell in marked))
    if rows:
        console.print(table)


def visible(text: str) -> str:
    """Returns a text with escapes for control characters.

    File names and sentences of models could otherwise move the cursor or change the terminal.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)
