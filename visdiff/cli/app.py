"""The ``visdiff`` command. Data goes to stdout, progress to stderr.

Exit status: 0 success, 2 invalid input (with an error message), 3 incomplete results, or none since
a model gave no answer.
"""

import io
import logging
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from typing import NoReturn

import typer

from visdiff.cli import batch, bench, cache, caption, compare, doctor, many, rank, recipes
from visdiff.errors import IncompleteError, VisdiffError
from visdiff.files import is_full

app = typer.Typer(
    help="Describe how two sets of images differ, in sentences and with statistics.",
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

# Commands of other packages, such as `editing`: Typer apps or functions.
for _group, _parent in (("visdiff.commands", app), ("visdiff.bench", bench.app)):
    for _point in entry_points(group=_group):
        _command = _point.load()
        if isinstance(_command, typer.Typer):
            _parent.add_typer(_command, name=_point.name, no_args_is_help=True)
        else:
            _parent.command(_point.name)(_command)


def main() -> None:
    """Runs the command line; a VisdiffError prints its message and exits with status 2 or 3."""
    logging.getLogger("visdiff").addHandler(logging.StreamHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names that are not UTF-8 hold lone surrogates.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except IncompleteError as error:
        _fail(str(error), 3)
    except VisdiffError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        # The reader of stdout has closed it (`| head`).
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        # Otherwise Python writes the rest of stdout at exit, and fails again.
        with suppress(OSError):
            sys.stdout.close()
        place = error.filename or "stdout or a file"
        advice = "free space" if is_full(error) else "check it"
        _fail(
            f"Expected to read and write everything, got {place} "
            f"({error.strerror or error}); {advice} and run the same command again.",
            2,
        )


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"visdiff: {message}", err=True)
    raise SystemExit(status)
