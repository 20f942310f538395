"""The options that the commands of ``visdiff`` share, as classes, and their use.

A command that is decorated with ``@with_options(ReportOptions)`` has the fields of that class as
options and receives an instance of it as ``options``.
"""

import inspect
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from visdiff.errors import InputError
from visdiff.files import check_writable

if TYPE_CHECKING:
    from visdiff.config import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Preset = Annotated[str | None, typer.Option(help="miniature, laptop, paper, open or a .toml file.")]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file of settings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change a setting, such as seed=1; repeatable."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=VALUE", help="Use only these rows of the manifest; repeatable."),
]
CaptionerName = Annotated[str | None, typer.Option(help="Captioner backend.")]
ProposerName = Annotated[str | None, typer.Option(help="Proposer backend; several with commas.")]
RankerName = Annotated[str | None, typer.Option(help="Ranker backend.")]
Verify = Annotated[
    str | None,
    typer.Option(metavar="RANKER", help="Second ranker that checks the confirmed differences."),
]
Llm = Annotated[
    str | None, typer.Option(help="Name of the chat model; see also --set llm.base_url.")
]
MaxCalls = Annotated[int | None, typer.Option(help="Maximum number of calls of the chat model.")]
MaxCost = Annotated[
    float | None,
    typer.Option(help="Maximum cost in US$; requires llm.prompt_price and llm.completion_price."),
]
Seed = Annotated[int | None, typer.Option(help="Random seed.")]
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
    typer.Option(metavar="COLUMNS", help="Columns that pair the images, such as prompt,seed."),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Images with equal values (photo, patient, video) count as one observation.",
    ),
]
Null = Annotated[
    int | None, typer.Option(help="Number of additional runs with shuffled sets (null runs).")
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the images of manifests with other paths."),
]
PathColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of the image files; by default path, file_name, …"),
]
Out = Annotated[Path | None, typer.Option(help="Folder for the report.")]


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
    """Returns the running command with the options that were given, quoted for a shell."""
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
    return shlex.join(words)


def assignments(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Returns name → value of ``NAME=VALUE`` texts.

    Args:
        texts: The values of an option.
        option: Name of the option, for the error message.

    Raises:
        InputError: A text has another form.
    """
    values = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"Expected {option} name=value, got {text!r}; write it with '='.")
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
    """Returns the configuration from the options of a command.

    Args:
        preset: ``--preset``; "laptop" if ``config`` is None as well.
        config: ``--config``.
        set_: ``--set``; it overrides all other options.
        paired_by: Column names, separated by commas.
        **changes: Other options, as for `visdiff.config.Config.changed`.

    Raises:
        InputError: Preset and file are both given, or one of them does not exist or is invalid.
    """
    from visdiff.config import Config

    if config is not None and preset is not None:
        raise InputError("Expected --config or --preset, got both; name the preset in the file.")
    base = Config.read(config) if config else Config.of(preset or "laptop")
    if paired_by:
        changes["paired_by"] = tuple(column.strip() for column in paired_by.split(","))
    return base.changed(**changes).with_set(assignments(set_, "--set"))
