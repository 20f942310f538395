"""The ``visdiff`` command. Data goes to stdout, progress to stderr.

Exit status: 0 success, 2 invalid input (with an error message), 3 incomplete results, or none since
a model gave no answer.
"""

import io
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Annotated, ClassVar, NoReturn

import typer

import visdiff
from visdiff.cli import bench, cache, caption, compare, doctor, rank, settings
from visdiff.cli.groups import App, OrderedGroup
from visdiff.errors import IncompleteError, VisdiffError
from visdiff.files import is_full
from visdiff.progress import is_hidden


class _Commands(OrderedGroup):
    order = (
        "demo",
        "doctor",
        "compare",
        "rank",
        "caption",
        "generate",
        "edit",
        "personalize",
        "audit",
        "bench",
        "settings",
        "cache",
    )
    moved: ClassVar[Mapping[str, str]] = {
        "batch": "`visdiff caption submit` or `visdiff bench submit`, and `collect`",
        "compare-many": "`visdiff compare many`",
        "many": "`visdiff compare many`",
        "recipe": "`visdiff compare` with the name of the recipe",
    }


app = App(cls=_Commands)
app.add_typer(compare.app, name="compare")
app.add_typer(caption.app, name="caption")
app.add_typer(bench.app, name="bench")
app.add_typer(cache.app, name="cache")
app.command()(doctor.doctor)
app.command()(rank.rank)
app.command("settings")(settings.settings)

# Commands of other packages, such as `editing`: Typer apps or functions.
for _group, _parent in (("visdiff.commands", app), ("visdiff.bench", bench.app)):
    for _point in entry_points(group=_group):
        _command = _point.load()
        if isinstance(_command, typer.Typer):
            _parent.add_typer(_command, name=_point.name)
        else:
            _parent.command(_point.name)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"visdiff {visdiff.__version__}")
        raise typer.Exit


@app.callback(
    help="Describe how two sets of images differ, in sentences and with statistics; edit "
    "text-to-image models and audit the edits."
)
def _visdiff(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; a VisdiffError prints its message and exits with status 2 or 3."""
    logging.getLogger("visdiff").addHandler(logging.StreamHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names that are not UTF-8 hold lone surrogates.
        sys.stdout.reconfigure(errors="backslashreplace")
    if is_hidden():
        # The bars of huggingface_hub and transformers, which read it when they are imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
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
