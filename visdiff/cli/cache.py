"""``visdiff cache``: statistics, pruning, verification and export of the cache."""

from pathlib import Path
from typing import Annotated

import typer

from visdiff.cli.groups import App
from visdiff.errors import InputError

app = App("Inspect and prune the cache of captions, embeddings and replies.")


@app.command("stats")
def cache_stats() -> None:
    """Print the number and the size of the cache entries."""
    from visdiff.cache import Cache

    with Cache(mode="ro") as store:
        for name, value in store.stats().items():
            typer.echo(f"{name}: {value}")


@app.command("prune")
def cache_prune(
    max_mb: Annotated[
        float | None,
        typer.Option(
            metavar="MB",
            help="Delete the oldest entries beyond this size.",
            show_default="any size",
        ),
    ] = None,
    older_than_days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", help="Delete entries older than this.", show_default="any age"
        ),
    ] = None,
) -> None:
    """Delete entries by size or age."""
    from visdiff.cache import Cache

    if max_mb is None and older_than_days is None:
        raise InputError("Expected --max-mb or --older-than-days, got neither; pass at least one.")
    with Cache() as store:
        limit = None if max_mb is None else int(max_mb * 1e6)
        typer.echo(f"{store.prune(limit, older_than_days)} entries dropped")


@app.command("verify")
def cache_verify() -> None:
    """Check every entry, list damaged entries, and exit with status 3 if there are any."""
    from visdiff.cache import Cache

    with Cache(mode="ro") as store:
        damaged = store.verify()
    for key in damaged:
        typer.echo(key)
    typer.echo(f"{len(damaged)} damaged entries", err=True)
    if damaged:
        raise typer.Exit(3)


@app.command("export")
def cache_export(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines file to write.")],
) -> None:
    """Write the entries as JSON lines."""
    from visdiff.cache import Cache

    with Cache(mode="ro") as store:
        typer.echo(f"{store.export(path)} entries written to {path}")
