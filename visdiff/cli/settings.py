"""``visdiff settings``: lists the settings that ``--set`` changes."""

import difflib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from visdiff.cli.options import Json
from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.config.listing import Setting

_NEAREST = 3


def settings(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX",
            help="Only those whose names begin with it, such as statistics, edit.uce or "
            "personalize.lora.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """List the settings of --set and of TOML files: type, default, description.

    A setting of a captioner, proposer or ranker is listed once for each backend that has it.
    Presets change some of the defaults. Settings of methods are listed as COMMAND.METHOD.NAME;
    their commands take --set NAME=VALUE.
    """
    from visdiff.config.listing import list_all, other_sections

    found = list_all(prefix)
    if not found:
        raise InputError(_unknown(prefix))
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in found], indent=2, ensure_ascii=False))
    else:
        for s in found:
            _echo(s)
    if not prefix and (others := other_sections()):
        commands = " and ".join(f"`visdiff settings {name}`" for name in others)
        typer.echo(f"note: {commands} list the settings of methods", err=True)


def _echo(setting: "Setting") -> None:
    of = f" ({setting.backend})" if setting.backend else ""
    typer.echo(f"{setting.name}{of}: {setting.type}, default {setting.default or 'none'}")
    typer.echo(f"    {setting.description}")


def _unknown(prefix: str) -> str:
    from visdiff.config.listing import list_all, sections

    first, _, rest = prefix.partition(".")
    names = [s.name for s in list_all(f"{first}.")] if rest else []
    # Also the parts that several names share, such as "edit.uce".
    known = dict.fromkeys(name.rpartition(".")[0] for name in names) | dict.fromkeys(names)
    near = (
        difflib.get_close_matches(prefix, known, n=_NEAREST, cutoff=0.7)
        if names
        else difflib.get_close_matches(first, sections(), n=_NEAREST, cutoff=0.7)
    )
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    choices = dict.fromkeys(".".join(n.split(".")[:2]) for n in names) or sections()
    return (
        f"Expected the beginning of a setting's name, got {prefix!r}{hint}; choose from "
        f"{', '.join(choices)}."
    )
