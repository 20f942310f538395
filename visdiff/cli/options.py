"""The options that the commands of ``visdiff`` share, as classes, and their use.

A command that is decorated with ``@with_options(ReportOptions)`` has the fields of that class as
options and receives an instance of it as ``options``.
"""

import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from visdiff.cli.configuration import configuration
from visdiff.files import check_present, check_writable

if TYPE_CHECKING:
    from visdiff.config import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET",
        help="Preset: miniature, laptop, paper, open or a .toml file.",
        show_default="laptop",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML file of settings.", show_default="those of the preset"),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Change a setting, such as seed=1 (`visdiff settings` lists them); repeatable.",
        show_default="none",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE",
        help="Use only these rows of the manifest; repeatable.",
        show_default="all",
    ),
]
CaptionerName = Annotated[
    str | None,
    typer.Option(
        metavar="BACKEND",
        help="Captioner: blip, blip2, chat, manifest or module:Class.",
        show_default="that of the preset",
    ),
]
ProposerName = Annotated[
    str | None,
    typer.Option(
        metavar="BACKEND",
        help="Proposer: ngrams, concepts, manual, captions-llm, paired-captions-llm, images-vlm, "
        "blip2-features or module:Class; several with commas.",
        show_default="that of the preset",
    ),
]
RankerName = Annotated[
    str | None,
    typer.Option(
        metavar="BACKEND",
        help="Ranker: clip, vqa, captions-llm, captions-lexical or module:Class.",
        show_default="that of the preset",
    ),
]
Verify = Annotated[
    str | None,
    typer.Option(
        metavar="BACKEND",
        help="Second ranker that checks the confirmed differences.",
        show_default="none",
    ),
]
Llm = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the chat model; its address is --set llm.base_url=URL.",
        show_default="that of the preset",
    ),
]
JudgeLlm = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of the chat judge's model.", show_default="none"),
]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Change a setting of the chat judge's model, such as base_url=URL (`visdiff settings "
        "llm` lists them); repeatable.",
        show_default="none",
    ),
]
MaxCalls = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Maximum number of calls of the chat model.", show_default="no limit"
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        metavar="DOLLARS",
        help="Maximum cost in US$; needs --set llm.prompt_price=… and llm.completion_price=….",
        show_default="no limit",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Random seed.", show_default="that of the settings"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")]
CacheOption = Annotated[
    Literal["rw", "ro", "refresh", "off", "replay"],
    typer.Option(
        "--cache",
        help="rw: read and write; ro: read only; refresh: recompute; off: no cache; replay: fail "
        "on a miss.",
    ),
]
PairedBy = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS",
        help="Columns that pair the images, such as prompt,seed.",
        show_default="unpaired",
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Images with equal values (photo, patient, video) count as one observation.",
        show_default="none",
    ),
]
Null = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of additional runs with shuffled sets (null runs).",
        show_default="0",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the images, if a manifest has other paths.",
        show_default="as the manifest says",
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the image files.",
        show_default="path, file_name, …",
    ),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Name of a set, in the order of the sets; repeat for each.",
        show_default="those of the files",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Output folder of the report.", show_default="no report is written"
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """The options of every command that runs models."""

    preset: Preset = None
    config: ConfigFile = None
    set_: Settings = None
    cache: CacheOption = "rw"
    as_json: Json = False
    dry_run: DryRun = False

    def changes(self) -> dict[str, Any]:
        """Returns the changes to the configuration, as for `visdiff.config.Config.changed`."""
        return {}

    def configuration(self, **changes: Any) -> "Config":
        """Returns the configuration from the shared options and those of the command.

        Raises:
            InputError: As `configuration`.
        """
        return configuration(self.preset, self.config, self.set_, **{**self.changes(), **changes})


@dataclass(frozen=True)
class ReportOptions(RunOptions):
    """The options of every command that compares sets."""

    seed: Seed = None
    out: Out = None

    def changes(self) -> dict[str, Any]:
        """Returns the changes to the configuration."""
        return {"seed": self.seed}

    def check_out(self) -> None:
        """Makes sure, before anything is computed, that the report can be written.

        Raises:
            InputError: The folder of ``--out`` cannot be written to.
        """
        if self.out is not None:
            check_writable(self.out, "the report")

    def check_inputs(self, *sources: str) -> None:
        """Makes sure, before libraries are imported, that sets exist and --out can be written.

        Raises:
            InputError: There is nothing at a path, or the folder of ``--out`` cannot be written to.
        """
        for source in sources:
            check_present(source)
        self.check_out()


@dataclass(frozen=True)
class BackendOptions(ReportOptions):
    """The options of every command that chooses backends by name."""

    captioner: CaptionerName = None
    ranker: RankerName = None
    verify: Verify = None
    llm: Llm = None
    max_calls: MaxCalls = None
    max_cost: MaxCost = None

    def changes(self) -> dict[str, Any]:
        """Returns the changes to the configuration."""
        return {
            **super().changes(),
            "captioner": self.captioner,
            "ranker": self.ranker,
            "verify": self.verify,
            "llm__model": self.llm,
            "llm__max_calls": self.max_calls,
            "llm__max_cost": self.max_cost,
        }


def with_options(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the fields of a class as options to a command, which receives them as ``options``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.name != "options"]
        shared = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
            )
            for f in fields(kind)
        ]

        def run(**values: Any) -> None:
            options = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
            command(**values, options=options)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        run.__dict__["__signature__"] = signature.replace(parameters=[*own, *shared])
        return run

    return decorate


def command_line(context: typer.Context) -> str:
    """Returns the running command with the options that were given, quoted for a shell.

    The address of an endpoint is without its password and keys, as in the configuration of reports.
    """
    from visdiff.config.addresses import without_secrets

    words: list[str] = []
    level = context
    while level.parent is not None:
        words.insert(0, str(level.info_name))
        level = level.parent
    words.insert(0, "visdiff")
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        values = list(value) if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            words += map(str, values)
        elif isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
        else:
            words += [word for v in values for word in (parameter.opts[0], str(v))]
    for i, word in enumerate(words):
        setting, equals, value = word.partition("=")
        if equals and setting.strip().endswith("base_url"):
            words[i] = f"{setting}={without_secrets(value.strip())}"
    return shlex.join(words)
