"""Writes the reference of the command line from the commands themselves."""

from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.structure.files import File, Files

PAGE = "reference/commands.md"
_INTRODUCTION = """# Commands

What `--help` prints. `visdiff settings [PREFIX]` lists all settings of `--set` and of TOML files;
`visdiff settings edit.METHOD` and `visdiff settings personalize.METHOD` list those of a method.
Exit status: 0 done, 2 a mistake in the call, 3 finished in part. Data goes to stdout, progress to
stderr.
"""


def on_files(files: Files, config: Any) -> Files:
    """Adds the page."""
    from visdiff.cli.app import app

    sections = [
        f"## {path}\n\n```text\n{text}\n```"
        for path, text in _helps(typer.main.get_command(app), None, "visdiff")
    ]
    content = "\n\n".join([_INTRODUCTION, *sections]) + "\n"
    files.append(File.generated(config, PAGE, content=content))
    return files


def _helps(command: Any, parent: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yields path and help text of a command and of those below it."""
    main = getattr(command, "commands", {}).get("main")
    shown = main or command
    if main is not None:
        main.group = command
    context = shown.context_class(shown, info_name=name, parent=parent, terminal_width=76)
    yield context.command_path, shown.get_help(context)
    inner = command.context_class(command, info_name=name, parent=parent)
    for child in command.list_commands(inner) if hasattr(command, "commands") else ():
        if child != "main":
            yield from _helps(command.commands[child], inner, child)
