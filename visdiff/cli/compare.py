"""``visdiff compare``: compares two sets and writes one report; its commands compare more.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 incomplete
results (images that could not be read or scored).
"""

from typing import Annotated, Literal

import typer

from visdiff.cli import many, recipes
from visdiff.cli.checks import check_distinct, warn_of_few
from visdiff.cli.configuration import assignments
from visdiff.cli.groups import command_group, main_command
from visdiff.cli.options import (
    BackendOptions,
    GroupBy,
    Null,
    PairedBy,
    PathColumn,
    ProposerName,
    Root,
    Where,
    command_line,
    with_options,
)

app = command_group("Find and test the differences between sets of images.")
app.command("many")(many.compare_many)
recipes.add_recipes(app)


@main_command(app)
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
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Number of rounds of proposals.",
            show_default="that of the preset",
        ),
    ] = None,
    sampling: Annotated[
        Literal["random", "representative", "diverse"] | None,
        typer.Option(help="Which images the proposer is given.", show_default="that of the preset"),
    ] = None,
    null: Null = None,
    root: Root = None,
    path_column: PathColumn = None,
    *,
    options: BackendOptions,
) -> None:
    """Find and test the differences between image set A and image set B."""
    settings = options.configuration(
        proposer=proposer,
        paired_by=paired_by,
        group_by=group_by,
        rounds=int(rounds) if rounds and rounds.isdecimal() else rounds,
        null_repeats=null,
        proposer__sampling=sampling,
    )
    filter_a, filter_b = assignments(where_a, "--where-a"), assignments(where_b, "--where-b")
    options.check_inputs(a, b)
    check_distinct((a, filter_a), (b, filter_b))

    from visdiff.cache import Cache
    from visdiff.cli.terminal import deliver
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.compare import conclude, score
    from visdiff.comparison.plan import plan
    from visdiff.comparison.readiness import check_weights
    from visdiff.comparison.split import open_pair, split_pair

    opened = open_pair(a, b, filter_a, filter_b, root=root, path_column=path_column)
    warn_of_few(opened, settings)
    pair = split_pair(*opened, settings)
    costs = plan(pair, settings)
    if options.dry_run:
        typer.echo(costs.to_json() if options.as_json else costs.sentence())
        return
    with Cache(mode=options.cache) as store:
        backends = Backends.of(settings, store, progress=True)
        check_weights(backends, opened)
        typer.echo(costs.sentence(), err=True)
        measured = score(pair, settings, backends)
        report = conclude(measured, measured.tests, settings, backends)
    deliver(report, options.out, options.as_json, command_line(context))
