"""Groups of commands: an order for help, moved commands, and a group that is a command itself."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from visdiff.errors import InputError

MAIN = "main"
"""Name under which a `CommandGroup` holds the command that it is itself."""


class Command(TyperCommand):
    """A command whose usage names arguments as people write them: ``compare A B``."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        for parameter in self.params:
            if parameter.param_type_name == "argument" and parameter.metavar is None:
                parameter.metavar = str(parameter.name).upper()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Returns the words of the usage line, without Typer's braces."""
        return [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]


class App(typer.Typer):
    """A Typer app in plain text, of `Command`.

    Args:
        help: What its commands do.
        **more: As for `typer.Typer`.
    """

    def __init__(self, help: str | None = None, **more: Any) -> None:
        super().__init__(
            help=help,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            **{"no_args_is_help": True, **more},
        )

    def command(self, name: str | None = None, *, cls: Any = None, **more: Any) -> Any:
        """Adds a command, as `typer.Typer.command`."""
        return super().command(name, cls=cls or Command, **more)


class OrderedGroup(TyperGroup):
    """A group whose help lists commands in a given order, and which knows where others went."""

    order: ClassVar[Sequence[str]] = ()
    moved: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of the commands, those without a place in the order last."""
        first = [name for name in self.order if name in self.commands]
        return [*first, *sorted(set(self.commands) - set(first))]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the command that arguments name.

        Raises:
            InputError: The command has another name now; the message has it.
        """
        if args and args[0] in self.moved:
            raise InputError(
                f"Expected a command of visdiff, got {args[0]!r}; use {self.moved[args[0]]}."
            )
        return super().resolve_command(ctx, args)


class MainCommand(Command):
    """The command that a group is itself; its help also lists the group's commands."""

    group: "CommandGroup | None" = None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options, and the commands of the group."""
        super().format_options(ctx, formatter)
        if self.group is not None:
            self.group.format_commands(ctx, formatter)


class CommandGroup(TyperGroup):
    """A group that is a command itself: ``compare A B`` next to ``compare many A B C``.

    Its own command is registered under `MAIN`, hidden, with the class `MainCommand`. The first
    argument chooses: the name of a command runs that command, everything else runs `MAIN`.
    """

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **more: Any) -> Any:
        """Returns the context of the group, or of its own command."""
        if args and args[0] in self.commands and args[0] != MAIN:
            if Path(args[0]).exists():
                typer.echo(
                    f"note: {args[0]!r} is read as the command, not as the file of that name; "
                    f"write ./{args[0]} for the file",
                    err=True,
                )
            return super().make_context(info_name, args, parent, **more)
        main = self.commands[MAIN]
        if isinstance(main, MainCommand):
            main.group = self
        return main.make_context(info_name, args, parent, **more)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command of a context that `make_context` returned."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


def command_group(help: str) -> App:
    """Returns an app for a `CommandGroup`; `main_command` adds its own command."""
    return App(help, cls=CommandGroup, no_args_is_help=False)


def main_command(app: typer.Typer) -> Any:
    """Returns a decorator that makes a function the own command of a `command_group`."""
    return app.command(MAIN, cls=MainCommand, hidden=True, no_args_is_help=True)
