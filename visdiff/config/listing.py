"""The list of all settings: names, types, defaults and descriptions, from the models themselves."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from visdiff.config import Config
from visdiff.config.backends import MODELS


@dataclass(frozen=True)
class Setting:
    """A setting, as ``--set NAME=VALUE`` changes it.

    Attributes:
        name: Dotted name, such as "ranker.model".
        backend: The backend that has it, such as "clip"; "" for settings without backends.
        type: Its type, or the values to choose from.
        default: Its default as text; "" if it has none.
        description: What it is.
    """

    name: str
    backend: str
    type: str
    default: str
    description: str


def list_settings(prefix: str = "") -> list[Setting]:
    """Returns all settings of a comparison whose names begin with a prefix.

    Backends of other packages are not listed: they accept any setting.

    Args:
        prefix: Such as "llm" or "ranker.m"; "" for all.
    """
    return [s for s in _walk(Config, "", "") if s.name.startswith(prefix)]


def _walk(model: type[BaseModel], path: str, backend: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        if not path and name in MODELS:
            yield from _of_role(name, field)
        elif isinstance(table := field.annotation, type) and issubclass(table, BaseModel):
            yield from _walk(table, f"{path}{name}.", backend)
        elif not (backend and name == "backend"):
            yield _setting(f"{path}{name}", field, backend)


def _of_role(role: str, field: FieldInfo) -> Iterator[Setting]:
    # Backends of other packages accept any setting.
    fixed = {n: t for n, t in MODELS[role].items() if t.model_config.get("extra") != "allow"}
    default = getattr(field.default, "backend", None) or "none"
    names = " | ".join("NAME,NAME" if name == "several" else name for name in fixed)
    yield Setting(role, "", names, default, field.description or "")
    for name, table in fixed.items():
        yield from _walk(table, f"{role}.", name)


def _setting(name: str, field: FieldInfo, backend: str) -> Setting:
    default = field.default
    if default is PydanticUndefined:
        shown = ""
    elif default is None or default in ((), {}):
        shown = "none"
    else:
        shown = str(default).lower() if isinstance(default, bool) else str(default)
    return Setting(name, backend, _type_name(field.annotation), shown, field.description or "")


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        parts = [a for a in get_args(annotation) if a is not type(None)]
        return " | ".join(dict.fromkeys(map(_type_name, parts)))
    if origin is dict:
        return "table"
    if origin is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    names = {bool: "true | false", int: "integer", float: "number", str: "text"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
