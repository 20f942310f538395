"""The ``visdiff`` command. Data goes to stdout, progress to stderr.

Exit status: 0 done, 2 the user's mistake (one sentence says what), 3 finished in part.
"""

import logging
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import typer

from visdiff.cli import batch, bench, cache, caption, compare, doctor, many, rank, recipes
from visdiff.errors import VisdiffError

app = typer.Typer(
    help="Say in sentences, with statistics, how one set of images differs from another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cache.app, name="cache", no_args_is_help=True)
app.add_typer(bench.app, name="bench", no_args_is_help=True)
app.add_typer(batch.app, name="batch", no_args_is_help=True)
app.add_typer(recipes.app, name="recipe", no_args_is_help=True)
app.command()(compare.compare)
app.command()(doctor.doctor)
app.command("compare-many")(many.compare_many)
app.command()(caption.caption)
app.command()(rank.rank)

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


def _fail(message: str) -> NoReturn:
    typer.echo(f"visdiff: {message}", err=True)
    raise SystemExit(2)
