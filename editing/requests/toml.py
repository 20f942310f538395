"""Requests as people write them: the TOML file of ``visdiff edit run``, and lists of concepts."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editing.requests import KINDS, Request, from_dict
from visdiff.errors import InputError


def read_requests(path: Path) -> tuple[list[Request], dict[str, Any]]:
    """Reads a request file.

    Args:
        path: TOML, as `run` describes it.

    Returns:
        The requests, and the other arguments of `editing.fitting.fit`.

    Raises:
        InputError: There is no such file, it is no TOML, or a table or field is unknown.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Expected a request file, got {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Expected TOML in {path}, got a mistake: {error}.") from error
    settings = values.pop("config", {})
    options: dict[str, Any] = dict(settings) if isinstance(settings, dict) else {}
    options["method"] = str(values.pop("method", "uce"))
    if "corpus" in values:
        options["corpus"] = lines_of(path.parent / str(values.pop("corpus")))
    if "watch" in values:
        options["neighbours"] = values.pop("watch")
    found: list[Request] = []
    for kind, tables in values.items():
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            tables = ", ".join(f"[[{k}]]" for k in KINDS)
            raise InputError(
                f"Expected method, corpus, watch, [config], {tables} in {path}, got {kind!r}."
            )
        for table in tables:
            field = KINDS[kind].lists if kind in KINDS else ""
            if field and "file" in table:
                listed = lines_of(path.parent / str(table.pop("file")))
                table[field] = [*table.get(field, []), *listed]
            found.append(from_dict({**table, "kind": kind}))
    return found, options


def requests_toml(requests: Sequence[Request], method: str = "uce") -> str:
    """Writes requests as the TOML file that `visdiff edit run` reads."""
    # Not with tomli-w: it writes a short [[erase]] table as an inline array, which is hard to edit.
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
    # A string of JSON is a basic string of TOML, but for pairs of surrogates and for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def texts_of(given: str) -> list[str]:
    """Returns the concepts that an option names: a text itself, or the lines of a file."""
    path = Path(given)
    return lines_of(path) if path.suffix and path.is_file() else [given]


def lines_of(path: Path) -> list[str]:
    """Returns the lines of a text file that are not empty.

    Raises:
        InputError: There is no such file, or it has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a text file of one concept a line, got {path}.") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise InputError(f"Expected one concept a line, got the empty file {path}.")
    return found
