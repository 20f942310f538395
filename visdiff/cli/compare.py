"""``visdiff compare``: compares two sets and writes one report."""

from typing import Annotated

import typer

from visdiff.cli.options import (
    CacheOption,
    CaptionerName,
    ConfigFile,
    DryRun,
    Json,
    Llm,
    MaxCalls,
    MaxCost,
    Null,
    Out,
    PairedBy,
    Preset,
    ProposerName,
    RankerName,
    Seed,
    Settings,
    Verify,
    Where,
    assignments,
    configuration,
)
from visdiff.files import check_writable


def compare(
    a: Annotated[str, typer.Argument(help="Set A: folder, glob or manifest.")],
    b: Annotated[str, typer.Argument(help="Set B: folder, glob or manifest.")],
    where_a: Where = None,
    where_b: Where = None,
    preset: Preset = None,
    captioner: CaptionerName = None,
    proposer: ProposerName = None,
    ranker: RankerName = None,
    verify: Verify = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    paired_by: PairedBy = None,
    rounds: Annotated[
        str | None, typer.Option(help="Number of rounds of proposals, or auto.")
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="Images for the proposer: random, representative or diverse."),
    ] = None,
    seed: Seed = None,
    null: Null = None,
    out: Out = None,
    as_json: Json = False,
    config: ConfigFile = None,
    set_: Settings = None,
    cache: CacheOption = "rw",
    dry_run: DryRun = False,
) -> None:
    """Find and test the differences between image set A and image set B."""
    from visdiff.cache import Cache
    from visdiff.cli.terminal import deliver
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.compare import conclude, score
    from visdiff.comparison.plan import plan
    from visdiff.comparison.split import open_pair, split_pair

    settings = configuration(
        preset,
        config,
        set_,
        captioner=captioner,
        proposer=proposer,
        ranker=ranker,
        verify=verify,
        paired_by=paired_by,
        rounds=int(rounds) if rounds and rounds.isdecimal() else rounds,
        seed=seed,
        null_repeats=null,
        proposer__sampling=sampling,
        llm__model=llm,
        llm__max_calls=max_calls,
        llm__max_cost=max_cost,
    )
    filter_a, filter_b = assignments(where_a, "--where-a"), assignments(where_b, "--where-b")
    if out is not None:
        check_writable(out, "the report")
    pair = split_pair(*open_pair(a, b, filter_a, filter_b), settings)
    costs = plan(pair, settings)
    if dry_run:
        typer.echo(costs.to_json() if as_json else costs.sentence())
        return
    typer.echo(costs.sentence(), err=True)
    with Cache(mode=cache) as store:
        backends = Backends.of(settings, store, progress=True)
        measured = score(pair, settings, backends)
        report = conclude(measured, measured.tests, settings, backends)
    deliver(report, out, as_json)
