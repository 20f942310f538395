"""What the commands of ``visdiff`` share: options, and what is done with them before a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.config import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Preset = Annotated[str | None, typer.Option(help="miniature, laptop, paper, open or a .toml file.")]
ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file of settings.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C")]
Where = Annotated[list[str] | None, typer.Option(metavar="COLUMN=VALUE")]
Verify = Annotated[
    str | None,
    typer.Option(metavar="RANKER", help="A second ranker that checks what the first confirms."),
]
Llm = Annotated[
    str | None, typer.Option(help="Chat model, for those that ask one; see --set llm.base_url.")
]
MaxCalls = Annotated[int | None, typer.Option(help="Most questions to the chat model.")]
MaxCost = Annotated[float | None, typer.Option(help="Most US$; needs both prices.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
CacheOption = Annotated[
    Literal["rw", "ro", "refresh", "off", "replay"],
    typer.Option(
        "--cache", help="Read and write, read only, compute again, do without, fail on a miss."
    ),
]


PairedBy = Annotated[str | None, typer.Option(metavar="COLUMNS", help="Such as prompt,seed.")]
Null = Annotated[int | None, typer.Option(help="Shuffled runs beside the real one.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the report.")]


def assignments(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Returns name → value of ``NAME=VALUE`` texts.

    Raises:
        InputError: A text is none; ``option`` is what it was given to.
    """
    values = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"Expected {option} name=value, got {text!r}.")
        values[name.strip()] = value
    return values


def configuration(
    preset: str | None,
    config: Path | None,
    set_: Sequence[str] | None = None,
    *,
    paired_by: str | None = None,
    **changes: Any,
) -> "Config":
    """Returns the configuration that the options of a command say.

    Args:
        preset: ``--preset``; the laptop's when ``config`` is None as well.
        config: ``--config``.
        set_: ``--set``, which has the last word.
        paired_by: Columns, separated by commas.
        **changes: Other options, as for `visdiff.config.Config.changed`.

    Raises:
        InputError: Preset and file are both given, or something of them does not exist.
    """
    from visdiff.config import Config

    if config is not None and preset is not None:
        raise InputError("Expected --config or --preset, got both; name the preset in the file.")
    base = Config.read(config) if config else Config.of(preset or "laptop")
    if paired_by:
        changes["paired_by"] = tuple(column.strip() for column in paired_by.split(","))
    return base.changed(**changes).with_set(assignments(set_, "--set"))
