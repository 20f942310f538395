"""Blocks of code in Markdown files, and a parser of the commands in them."""

import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from visdiff.cli.app import app
from visdiff.cli.configuration import configuration
from visdiff.cli.groups import MAIN

ROOT = Path(__file__).parents[1]
TREE: Any = typer.main.get_command(app)

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->")
_INLINE = re.compile(r"(?<!`)`(visdiff [^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, what it holds, and why it is not run, if it is not."""

    place: str
    language: str
    text: str
    not_run: str | None


def documents() -> list[Path]:
    """Returns the README and all documents in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """Yields the fenced blocks of a file."""
    before, start, opened, inner = "", 0, None, []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            start, opened, inner = number, fence, []
        elif opened is not None and line == f"{opened['indent']}```":
            marker = _NOT_RUN.fullmatch(before.strip())
            text = textwrap.dedent("\n".join(inner)) + "\n"
            place = f"{path.relative_to(ROOT).as_posix()}:{start}"
            yield Block(place, opened["language"], text, marker["reason"] if marker else None)
            before, opened = "", None
        elif opened is not None:
            inner.append(line)
        elif line.strip():
            before = line
    assert opened is None, f"{path}:{start}: the block is not closed"


def inline_commands(path: Path) -> list[str]:
    """Returns the `visdiff …` of a file's prose, which may leave arguments out."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(command.split()) for command in _INLINE.findall(text)]


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each command of a shell block; environment variables are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words


def parse(words: Sequence[str]) -> None:
    """Parses the words after ``visdiff`` with the real command line, without running anything.

    Settings of a comparison are checked too. What is wrong is raised.
    """
    name, command, rest = _descend(words)
    main = getattr(command, "commands", {}).get(MAIN)
    context = (main or command).make_context(name, list(rest))
    assert not context.args, f"{name} does not take {context.args}"
    given = context.params
    settings = next((p for p in context.command.params if "--set" in p.opts), None)
    if settings is not None and settings.metavar == "A.B=C" and not given.get("config"):
        configuration(
            given["preset"], None, given["set_"],
            captioner=given.get("captioner"), proposer=given.get("proposer"),
            ranker=given.get("ranker"), verify=given.get("verify"), llm__model=given.get("llm"),
        )  # fmt: skip


def parse_part(words: Sequence[str]) -> None:
    """Checks that a command and its options exist; arguments and values may be missing."""
    name, command, rest = _descend(words)
    inner = getattr(command, "commands", {})
    if inner and MAIN not in inner:
        assert not rest or rest[0].startswith("-"), f"{name} has no command {rest[0]!r}"
    both = [*command.params, *(inner[MAIN].params if MAIN in inner else ())]
    known = {option for p in both for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    unknown = {word for word in rest if word.startswith("--")} - known
    assert not unknown, f"{name} has no option {', '.join(sorted(unknown))}"


def _descend(words: Sequence[str]) -> tuple[str, Any, Sequence[str]]:
    """Returns name and command that the first words name, and the other words."""
    command, path = TREE, ["visdiff"]
    while words and words[0] in getattr(command, "commands", {}):
        command, path, words = command.commands[words[0]], [*path, words[0]], words[1:]
    return " ".join(path), command, words
