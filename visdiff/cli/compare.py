"""``visdiff compare``: compares two sets and writes one report."""

from typing import Annotated

import typer

from visdiff.cli.options import (
    BackendOptions,
    GroupBy,
    Null,
    PairedBy,
    PathColumn,
    ProposerName,
    Root,
    Where,
    assignments,
    command_line,
    with_options,
)


@with_options(BackendOptions)
def compare(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="Set A: folder, glob or manifest.")],
    b: Annotated[str, typer.Argument(help="Set B: folder, glob or manifest.")],
    where_a: Where = None,
    where_b: Where = None,
    proposer: ProposerName = None,
    paired_by: PairedBy = None,
    group_by: GroupBy = None,
    rounds: Annotated[
        str | None, typer.Option(help="Number of rounds of proposals, or auto.")
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="Images for the proposer: random, representative or diverse."),
    ] = None,
    null: Null = None,
    root: Root = None,
    path_column: PathColumn = None,
    *,
    options: BackendOptions,
) -> None:
    """Find and test the differences between image set A and image set B."""
    from visdiff.cache import Cache
    from visdiff.cli.terminal import deliver
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.compare import conclude, score
    from visdiff.comparison.plan import plan
    from visdiff.comparison.split import open_pair, split_pair

    settings = options.configuration(
        proposer=proposer,
        paired_by=paired_by,
        group_by=group_by,
        rounds=int(rounds) if rounds and rounds.isdecimal() else rounds,
        null_repeats=null,
        proposer__sampling=sampling,
    )
    filter_a, filter_b = assignments(where_a, "--where-a"), assignments(where_b, "--where-b")
    options.check_out()
    opened = open_pair(a, b, filter_a, filter_b, root=root, path_column=path_column)
    pair = split_pair(*opened, settings)
    costs = plan(pair, settings)
    if options.dry_run:
        typer.echo(costs.to_json() if options.as_json else costs.sentence())
        return
    typer.echo(costs.sentence(), err=True)
    with Cache(mode=options.cache) as store:
        backends = Backends.of(settings, store, progress=True)
        measured = score(pair, settings, backends)
        report = conclude(measured, measured.tests, settings, backends)
    deliver(report, options.out, options.as_json, command_line(context))
