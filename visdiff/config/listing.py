"""The list of all settings: names, types, defaults and descriptions, from the models themselves.

Other packages list theirs through the entry-point group ``visdiff.settings``: the first part of the
names → a function without arguments that returns a list of `Setting`.
"""

import json
import types
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
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
    return _beginning_with(prefix, list(_walk(Config, "", "")))


def list_all(prefix: str = "") -> list[Setting]:
    """Returns the settings of comparisons and of other packages whose names begin with a prefix.

    Only the packages that the prefix names are loaded: none for "".

    Args:
        prefix: As for `list_settings`, or such as "edit.uce".
    """
    first = prefix.partition(".")[0]
    whole = "." in prefix
    named = [
        point
        for point in _other_packages()
        if first and (point.name == first if whole else point.name.startswith(first))
    ]
    others = [setting for point in named for setting in point.load()()]
    return list_settings(prefix) + _beginning_with(prefix, others)


def sections() -> list[str]:
    """Returns the first parts of all names of settings, those of comparisons first."""
    own = (setting.name.partition(".")[0] for setting in list_settings())
    return list(dict.fromkeys([*own, *other_sections()]))


def other_sections() -> list[str]:
    """Returns the first parts of the names of settings of other packages."""
    return [point.name for point in _other_packages()]


def settings_of(values: BaseModel, path: str, names: Collection[str]) -> list[Setting]:
    """Returns the settings of a model, with the values of an instance as defaults.

    Args:
        values: The instance.
        path: What stands before the names, such as "edit.uce.".
        names: The fields to list.
    """
    fields = type(values).model_fields
    return [
        _setting(f"{path}{name}", field, "", getattr(values, name))
        for name, field in fields.items()
        if name in names
    ]


def _other_packages() -> list[EntryPoint]:
    return sorted(entry_points(group="visdiff.settings"), key=lambda point: point.name)


def _beginning_with(prefix: str, settings: list[Setting]) -> list[Setting]:
    """Returns those of a whole part of the name, such as "edit.uce", if there are any."""
    parts = [s for s in settings if f"{s.name}.".startswith(f"{prefix}.")]
    return parts or [s for s in settings if s.name.startswith(prefix)]


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


def _setting(name: str, field: FieldInfo, backend: str, default: Any = ...) -> Setting:
    shown = _shown(field.default if default is ... else default)
    return Setting(name, backend, _type_name(field.annotation), shown, field.description or "")


def _shown(default: Any) -> str:
    if default is PydanticUndefined:
        return ""
    if default is None or default in ((), {}):
        return "none"
    if isinstance(default, bool | tuple):
        return json.dumps(default, ensure_ascii=False)
    return str(default)


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
