"""Request files (TOML) of ``visdiff edit run``, and text files of concepts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editing.requests import KINDS, Request, from_dict
from visdiff.errors import InputError
from visdiff.files import load_toml, read_text


@dataclass(frozen=True)
class RequestFile:
    """What a request file holds.

    Attributes:
        requests: The requests.
        method: Name of the method.
        settings: The table of settings.
        inputs: Other arguments of the fit: "corpus" (prompts), "neighbours" (concepts).
    """

    requests: tuple[Request, ...]
    method: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Sequence[str]]


def read_requests(path: Path) -> RequestFile:
    """Reads a request file.

    Args:
        path: TOML file, in the format described by ``visdiff edit run --help``.

    Raises:
        InputError: The file does not exist or is not valid TOML, or a table or field is unknown.
    """
    text = read_text(path, "a request file")
    try:
        values = load_toml(text)
    except ValueError as error:
        raise InputError(f"Expected TOML in {path}, got {error}; correct the file.") from error
    settings = values.pop("config", {})
    if not isinstance(settings, dict):
        raise InputError(
            f"Expected config as a table of settings in {path}, got {settings!r}; write [config]."
        )
    method = str(values.pop("method", "uce"))
    inputs: dict[str, Sequence[str]] = {}
    if "corpus" in values:
        inputs["corpus"] = read_lines(path.parent / str(values.pop("corpus")))
    if "watch" in values:
        watch = values.pop("watch")
        if not isinstance(watch, list):
            raise InputError(
                f"Expected watch as a list of concepts in {path}, got {watch!r}; write "
                f"watch = [{_toml(watch)}]."
            )
        inputs["neighbours"] = [str(concept) for concept in watch]
    requests: list[Request] = []
    for kind, tables in values.items():
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            tables = ", ".join(f"[[{k}]]" for k in KINDS)
            raise InputError(
                f"Expected method, corpus, watch, [config], {tables} in {path}, got {kind!r}; "
                "remove it or correct its name."
            )
        for table in tables:
            field = KINDS[kind].lists if kind in KINDS else ""
            if field and "file" in table:
                lines = read_lines(path.parent / str(table.pop("file")))
                own = table.get(field, [])
                # A single text is as good as a list of one.
                table[field] = [*(own if isinstance(own, list) else [own]), *lines]
            requests.append(from_dict({**table, "kind": kind}))
    return RequestFile(tuple(requests), method, settings, inputs)


def requests_toml(requests: Sequence[Request], method: str = "uce") -> str:
    """Returns requests as a TOML file for `visdiff edit run`."""
    # tomli-w would write a short [[erase]] table as an inline array, which is hard to edit.
    lines = [f"method = {_toml(method)}"]
    for request in requests:
        values = request.to_dict()
        lines += ["", f"[[{values.pop('kind')}]]"]
        lines += [f"{n} = {_toml(v)}" for n, v in values.items() if v is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    # A JSON string is a TOML basic string, except for surrogate pairs and DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_texts(option: str) -> list[str]:
    """Returns the concepts of an option: the text itself, or the lines of a file."""
    path = Path(option)
    try:
        is_file = bool(path.suffix) and path.is_file()
    except OSError:
        # Too long for the name of a file.
        is_file = False
    return read_lines(path) if is_file else [option]


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file that are not empty.

    Raises:
        InputError: The file does not exist, is not UTF-8, or has no such line.
    """
    text = read_text(path, "a text file with one concept per line")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"Expected one concept per line, got the empty file {path}; add one.")
    return lines
