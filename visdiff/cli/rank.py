"""``visdiff rank``: tests the user's own sentences on two sets.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 incomplete
results (images that could not be read or scored).
"""

import json
from typing import Annotated

import typer

from visdiff.cli.checks import check_distinct, warn_of_few
from visdiff.cli.configuration import assignments
from visdiff.cli.options import (
    BackendOptions,
    GroupBy,
    Null,
    PairedBy,
    PathColumn,
    Root,
    Where,
    with_options,
)


@with_options(BackendOptions)
def rank(
    a: Annotated[str, typer.Argument(help="Set A: folder, glob or manifest.")],
    b: Annotated[str, typer.Argument(help="Set B: folder, glob or manifest.")],
    hypotheses: Annotated[
        list[str],
        typer.Option(
            metavar="SENTENCE|FILE",
            help='A sentence, or a text file of sentences, one per line. "A: a dog" claims it of '
            "set A; without a letter both directions are tested. Repeatable.",
        ),
    ],
    where_a: Where = None,
    where_b: Where = None,
    paired_by: PairedBy = None,
    group_by: GroupBy = None,
    null: Null = None,
    root: Root = None,
    path_column: PathColumn = None,
    *,
    options: BackendOptions,
) -> None:
    """Rank your own sentences by how well they separate set A from set B.

    Every sentence is tested, in the claimed direction or in both, with one correction over all. As
    in `visdiff compare`, the statistics are computed on the scoring half of the images. Sentences
    that were not derived from these images can be tested on more of them, with --set
    statistics.discovery_fraction=0.05.
    """
    settings = options.configuration(paired_by=paired_by, group_by=group_by, null_repeats=null)
    filter_a, filter_b = assignments(where_a, "--where-a"), assignments(where_b, "--where-b")
    options.check_inputs(a, b)
    check_distinct((a, filter_a), (b, filter_b))

    from visdiff.cache import Cache
    from visdiff.cli.terminal import finish, print_table, warn
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.plan import plan
    from visdiff.comparison.ranking import rank as run
    from visdiff.comparison.ranking import with_hypotheses
    from visdiff.comparison.readiness import check_weights
    from visdiff.comparison.split import open_pair, split_pair
    from visdiff.config.proposers import ManualConfig

    if isinstance(settings.proposer, ManualConfig):
        hypotheses = [*settings.proposer.hypotheses, *hypotheses]
    settings = with_hypotheses(settings, hypotheses)
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
        ranking = run(pair, settings, backends)
    report = ranking.report
    try:
        if options.out is not None:
            report.save(options.out)
    finally:
        # Also when the folder cannot be written to: the result is not lost.
        if options.as_json:
            typer.echo(json.dumps(ranking.to_dict(), indent=2, allow_nan=False))
        else:
            names = {"A": report.set_a.name, "B": report.set_b.name}
            columns = ["sentence", "claimed of", "AUROC", "interval", "p", "q"]
            rows = [
                (
                    s.confirmed,
                    [
                        s.text,
                        names[s.direction],
                        _text(s.auroc, ".2f"),
                        f"{_text(s.ci_low, '.2f')}–{_text(s.ci_high, '.2f')}",
                        _text(s.p_value, ".1g"),
                        _text(s.q_value, ".1g"),
                    ],
                )
                for s in ranking.sentences
            ]
            print_table(report.verdict, columns, rows)
            warn(report)
    finish(report, options.out, options.as_json)
    if any(s.n_unscored for s in ranking.sentences):  # `finish` checks reported differences only
        raise typer.Exit(3)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
