"""``visdiff settings``: lists the settings that ``--set`` changes."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from visdiff.cli.options import Json
from visdiff.errors import InputError


def settings(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only those whose names begin with it.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the settings of --set and of TOML files: type, default, description.

    A setting of a captioner, proposer or ranker is listed once for each backend that has it.
    Presets change some of the defaults.
    """
    from visdiff.config.listing import list_settings

    found = list_settings(prefix)
    if not found:
        sections = dict.fromkeys(s.name.partition(".")[0] for s in list_settings())
        raise InputError(
            f"Expected the beginning of a setting's name, got {prefix!r}; choose from "
            f"{', '.join(sections)}."
        )
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in found], indent=2, ensure_ascii=False))
        return
    for s in found:
        of = f" ({s.backend})" if s.backend else ""
        typer.echo(f"{s.name}{of}: {s.type}, default {s.default or 'none'}")
        typer.echo(f"    {s.description}")
