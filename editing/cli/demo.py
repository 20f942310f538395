"""``visdiff demo``: what the package does, with the bundled models, offline."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visdiff.cli.options import CacheOption, Json
from visdiff.files import check_writable

if TYPE_CHECKING:
    from visdiff.cache import Cache


class Demo(StrEnum):
    """What can be shown."""

    AUDIT = "audit"
    COMPARE = "compare"


def demo(
    what: Annotated[
        Demo, typer.Argument(help="An edit and its audit, or two sets compared.")
    ] = Demo.AUDIT,
    out: Annotated[Path, typer.Option(help="Folder for images and report.")] = Path("visdiff-demo"),
    seed: int = 0,
    as_json: Json = False,
    cache: CacheOption = "rw",
) -> None:
    """Edit the bundled generator and audit the edit, or compare two sets: offline."""
    from visdiff.cache import Cache

    check_writable(out, "the report")
    with Cache(mode=cache) as store:
        show = _audited if what is Demo.AUDIT else _compared
        show(out, store, seed, as_json)


def _audited(out: Path, cache: "Cache", seed: int, as_json: bool) -> None:
    from editing.cli.audit import told
    from editing.cli.generate import shown
    from editing.demo import demo as run

    with shown() as batches:
        report = run(out, cache, seed=seed, on_batch=batches)
    told(report, out, as_json)


def _compared(out: Path, cache: "Cache", seed: int, as_json: bool) -> None:
    from visdiff.cli import demo as show
    from visdiff.cli.terminal import print_report

    report = show.demo(out, cache, seed=seed)
    if as_json:
        typer.echo(report.to_json(indent=2))
    else:
        print_report(report)
        for planted, yes in show.found(report).items():
            typer.echo(f"planted: {planted}: {'found' if yes else 'NOT found'}")
        for difference in report.confirmed:
            if not show.names_planted(difference):
                typer.echo(f"confirmed, though not planted: {difference.text}")
    typer.echo(f"report: {out / 'report.html'}", err=as_json)
