"""``visdiff compare many``: compares n sets, every pair or each against the rest.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 incomplete
results (a pair that could not be compared, images that could not be read or scored).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visdiff.cli.options import (
    BackendOptions,
    GroupBy,
    Name,
    PathColumn,
    ProposerName,
    Root,
    with_options,
)
from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.imageset import ImageSet
    from visdiff.results.many import ManyReport


@with_options(BackendOptions)
def compare_many(
    sets: Annotated[list[str], typer.Argument(metavar="SET", help="Folders, globs or manifests.")],
    name: Name = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Split one manifest into sets by a column.",
            show_default="each source is a set",
        ),
    ] = None,
    rest: Annotated[
        bool, typer.Option("--rest", help="Compare each set with all others joined.")
    ] = False,
    proposer: ProposerName = None,
    root: Root = None,
    path_column: PathColumn = None,
    group_by: GroupBy = None,
    *,
    options: BackendOptions,
) -> None:
    """Compare n sets of images, every pair or each with the rest, with one correction over all."""
    settings = options.configuration(proposer=proposer, group_by=group_by)
    options.check_inputs(*sets)

    from visdiff.cache import Cache
    from visdiff.comparison import many
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.plan import plan_many
    from visdiff.comparison.readiness import check_weights

    opened = _open(sets, name, by, {"root": root, "path_column": path_column})
    pairs = many.each_and_rest(opened) if rest else many.every_pair(opened)
    costs = plan_many(pairs, settings)
    sentence = f"{len(opened)} sets: {costs.sentence()}"
    if options.dry_run:
        typer.echo(costs.to_json() if options.as_json else sentence)
        return
    run = many.compare_rest if rest else many.compare_many
    with Cache(mode=options.cache) as store:
        check_weights(Backends.of(settings, store), opened)
        typer.echo(sentence, err=True)
        deliver(run(opened, config=settings, cache=store), options.out, options.as_json)


def deliver(many: "ManyReport", out: Path | None, as_json: bool) -> None:
    """Saves and prints a result; exits with status 3 if it is incomplete."""
    try:
        if out is not None:
            many.save(out)
    finally:
        # Also when the folder cannot be written to: the result is not lost.
        if as_json:
            typer.echo(many.to_json(indent=2))
        else:
            _echo(many)
    if out is not None:
        typer.echo(f"report: {out / 'index.html'}", err=as_json)
    if not is_complete(many):
        raise typer.Exit(3)


def is_complete(many: "ManyReport") -> bool:
    """Returns whether every pair was compared and every image was read and scored."""
    return not many.failed and all(report.is_complete for report in many.reports.values())


def _echo(many: "ManyReport") -> None:
    from visdiff.report.many import summary

    typer.echo(f"{many.title}: {summary(many)}")
    for (a, b), report in many.reports.items():
        typer.echo(f"{a} and {b}: {report.verdict}")
    for warning in many.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for (a, b), reason in many.failed.items():
        typer.echo(f"not compared: {a} and {b}: {reason}", err=True)


def _open(
    sets: Sequence[str], names: Sequence[str] | None, by: str | None, reading: Mapping[str, Any]
) -> "list[ImageSet]":
    from visdiff.comparison.many import open_sets
    from visdiff.imageset import ImageSet

    if by is not None:
        if len(sets) != 1 or names:
            raise InputError(
                f"Expected one manifest and no --name with --by, got {len(sets)} sources and "
                f"{len(names or [])} names; the values of the column are the names."
            )
        return open_sets(ImageSet.open(sets[0], **reading), by)
    if names and len(names) != len(sets):
        raise InputError(
            f"Expected a --name for each of {len(sets)} sets, got {len(names)}; pass all or none."
        )
    pairs = zip(sets, names or [None] * len(sets), strict=True)
    return open_sets([ImageSet.open(s, name=n, **reading) for s, n in pairs])
