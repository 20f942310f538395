"""The ``visdiff`` command. Data goes to stdout, progress to stderr.

Exit status: 0 done, 2 the user's mistake (one sentence says what), 3 finished in part.
"""

import logging
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from visdiff.batch.cli import app as batch_app
from visdiff.bench.cli import app as bench_app
from visdiff.errors import InputError, VisdiffError
from visdiff.many_cli import compare_many
from visdiff.options import (
    CacheOption,
    ConfigFile,
    DryRun,
    Json,
    Llm,
    MaxCalls,
    MaxCost,
    Preset,
    Settings,
    Verify,
    Where,
    assignments,
    configuration,
    writable,
)
from visdiff.parts_cli import caption, rank
from visdiff.recipes.cli import app as recipe_app

app = typer.Typer(
    help="Say in sentences, with statistics, how one set of images differs from another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(help="Look after the cache of captions, embeddings and images.")
app.add_typer(cache_app, name="cache", no_args_is_help=True)
app.add_typer(bench_app, name="bench", no_args_is_help=True)
app.add_typer(batch_app, name="batch", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe", no_args_is_help=True)
app.command("compare-many")(compare_many)
app.command()(caption)
app.command()(rank)

# Other packages' commands, `editing`'s first of all: Typer apps or functions.
for _point in entry_points(group="visdiff.commands"):
    _command = _point.load()
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_point.name, no_args_is_help=True)
    else:
        app.command(_point.name)(_command)


def main() -> None:
    """Runs the command line; the user's mistakes end in one sentence and status 2."""
    logging.getLogger("visdiff").addHandler(logging.StreamHandler())
    try:
        app()
    except VisdiffError as error:
        _fail(str(error))
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nobody is left to tell.
        sys.stderr.close()
        raise SystemExit(0) from None


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Set A: folder, glob or manifest.")],
    b: Annotated[str, typer.Argument(help="Set B.")],
    where_a: Where = None,
    where_b: Where = None,
    preset: Preset = None,
    captioner: str | None = None,
    proposer: str | None = None,
    ranker: str | None = None,
    verify: Verify = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    paired_by: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Such as prompt,seed.")
    ] = None,
    rounds: Annotated[str | None, typer.Option(help="A number, or auto.")] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="What the proposer is shown: random, representative or diverse images."),
    ] = None,
    seed: int | None = None,
    null: Annotated[int | None, typer.Option(help="Shuffled runs beside the real one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    set_: Settings = None,
    cache: CacheOption = "rw",
    dry_run: DryRun = False,
) -> None:
    """Say how image set A differs from image set B."""
    from visdiff.cache import Cache
    from visdiff.compare import compare as run
    from visdiff.plan import plan
    from visdiff.show import deliver

    settings = (
        configuration(preset, config)
        .changed(
            captioner=captioner,
            proposer=proposer,
            ranker=ranker,
            verify=verify,
            paired_by=tuple(c.strip() for c in paired_by.split(",")) if paired_by else None,
            rounds=int(rounds) if rounds and rounds.isdecimal() else rounds,
            seed=seed,
            null_repeats=null,
            proposer__sampling=sampling,
            llm__model=llm,
            llm__max_calls=max_calls,
            llm__max_cost=max_cost,
        )
        .with_set(assignments(set_, "--set"))
    )
    filter_a, filter_b = assignments(where_a, "--where-a"), assignments(where_b, "--where-b")
    if out is not None:
        writable(out)
    costs = plan(a, b, settings, filter_a, filter_b)
    if dry_run:
        typer.echo(costs.to_json() if as_json else costs.sentence())
        return
    typer.echo(costs.sentence(), err=True)
    with Cache(mode=cache) as store:
        report = run(a, b, config=settings, where_a=filter_a, where_b=filter_b, cache=store)
    deliver(report, out, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print what is installed and which presets can run here."""
    import json
    from dataclasses import asdict

    from visdiff.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        typer.echo(json.dumps(asdict(diagnosis), indent=2))
        return
    for name, value in {**diagnosis.machine, **diagnosis.packages}.items():
        typer.echo(f"{name:16} {value}")
    typer.echo(f"{'torchvision':16} {diagnosis.torchvision}")
    typer.echo(f"{'cache':16} {diagnosis.cache}")
    for check in diagnosis.presets:
        state = "usable" if check.usable else f"not usable: {check.reason}"
        typer.echo(f"{'preset':8}{check.name:9} {state}")


@cache_app.command("stats")
def cache_stats() -> None:
    """Print what the cache holds."""
    from visdiff.cache import Cache

    with Cache(mode="ro") as store:
        for name, value in store.stats().items():
            typer.echo(f"{name}: {value}")


@cache_app.command("prune")
def cache_prune(
    max_mb: Annotated[float | None, typer.Option(help="Drop the oldest beyond this size.")] = None,
    older_than_days: float | None = None,
) -> None:
    """Drop entries by size or age."""
    from visdiff.cache import Cache

    if max_mb is None and older_than_days is None:
        raise InputError("Expected --max-mb or --older-than-days, got neither; say what to drop.")
    with Cache() as store:
        limit = None if max_mb is None else int(max_mb * 1e6)
        typer.echo(f"{store.prune(limit, older_than_days)} entries dropped")


@cache_app.command("verify")
def cache_verify() -> None:
    """Check every entry; names the damaged ones and ends with status 3 when there are any."""
    from visdiff.cache import Cache

    with Cache(mode="ro") as store:
        damaged = store.verify()
    for key in damaged:
        typer.echo(key)
    typer.echo(f"{len(damaged)} damaged entries", err=True)
    if damaged:
        raise typer.Exit(3)


@cache_app.command("export")
def cache_export(path: Path) -> None:
    """Write the entries as JSON lines."""
    from visdiff.cache import Cache

    with Cache(mode="ro") as store:
        typer.echo(f"{store.export(path)} entries written to {path}")


def _fail(message: str) -> NoReturn:
    typer.echo(f"visdiff: {message}", err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
