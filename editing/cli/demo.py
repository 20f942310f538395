"""``visdiff demo``: a short example with the bundled models, offline."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visdiff.cli.options import CacheOption, Json
from visdiff.files import check_writable

if TYPE_CHECKING:
    from visdiff.cache import Cache


class Demo(StrEnum):
    """The available demos."""

    AUDIT = "audit"
    COMPARE = "compare"


def demo(
    what: Annotated[
        Demo, typer.Argument(help="audit: an edit and its audit; compare: two image sets.")
    ] = Demo.AUDIT,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Output folder of the images and the report.")
    ] = Path("visdiff-demo"),
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the statistics.")] = 0,
    as_json: Json = False,
    cache: CacheOption = "rw",
) -> None:
    """Show an audit of an edit, or a comparison of two image sets, offline."""
    from visdiff.cache import Cache

    check_writable(out, "the report")
    with Cache(mode=cache) as store:
        run = _run_audit if what is Demo.AUDIT else _run_compare
        run(out, store, seed, as_json)


def _run_audit(out: Path, cache: "Cache", seed: int, as_json: bool) -> None:
    from editing.cli.audit_print import print_audit
    from editing.cli.generate import generation_progress
    from editing.demo import demo as run

    with generation_progress() as on_batch:
        report = run(out, cache, seed=seed, on_batch=on_batch)
    print_audit(report, out, as_json)


def _run_compare(out: Path, cache: "Cache", seed: int, as_json: bool) -> None:
    from visdiff.cli import demo as compare_demo
    from visdiff.cli.terminal import print_report

    report = compare_demo.demo(out, cache, seed=seed)
    if as_json:
        typer.echo(report.to_json(indent=2))
    else:
        print_report(report)
        for planted, found in compare_demo.found(report).items():
            typer.echo(f"planted: {planted}: {'found' if found else 'NOT found'}")
        for difference in report.confirmed:
            if not compare_demo.names_planted(difference):
                typer.echo(f"confirmed, but not planted: {difference.text}")
    typer.echo(f"report: {out / 'report.html'}", err=as_json)
