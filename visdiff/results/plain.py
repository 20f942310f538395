"""Frozen dataclasses as JSON values, and back.

What a report holds is described once, by its dataclasses; both directions are read off their
annotations. A field declared with ``metadata=NOT_SERIALISED`` is left out and comes back as its
default.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from visdiff.errors import InputError

NOT_SERIALISED: Mapping[str, bool] = types.MappingProxyType({"serialised": False})
"""Metadata of a field that JSON does not hold."""


def to_plain(value: Any) -> Any:
    """The value as JSON values: dicts, lists, strings, finite numbers, booleans and None.

    Dataclasses become dicts, tuples and arrays lists, NaN and infinities None, and what JSON has no
    form for (a path, a date) its string.
    """
    if value is None or isinstance(value, str | bool | int):
        # Enumerations and numpy strings are subclasses of str: cut them down to the plain type.
        return str(value) if isinstance(value, str) and type(value) is not str else value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name in _fields(type(value))}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(to_plain(v) for v in value)
    to_list = getattr(value, "tolist", None)  # numpy arrays and scalars, without importing numpy
    if callable(to_list):
        return to_plain(to_list())
    return str(value)


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Builds a value of an annotated type from JSON values.

    Args:
        kind: A dataclass, a tuple of one type (``tuple[str, ...]``), an optional type, float (null
            is NaN), or any other type, whose values are taken as they are. Keys that a dataclass
            does not have are ignored.
        value: What `json.loads` returned.
        where: Name of the value, for the error.

    Raises:
        InputError: A list or an object is missing, or a field without default is.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return None if value is None else from_plain(inner[0], value, where)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list):
            raise InputError(f"Expected a list at {where}, got {value!r}; is the report damaged?")
        return tuple(from_plain(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float:
        return math.nan if value is None else float(value)
    return value


def _record(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"Expected an object at {where}, got {value!r}; is the report damaged?")
    hints = _fields(kind)
    present = {n: from_plain(h, value[n], f"{where}.{n}") for n, h in hints.items() if n in value}
    try:
        return kind(**present)
    except TypeError as error:
        raise InputError(f"Expected a complete record at {where}, got: {error}.") from error


def _fields(kind: type) -> dict[str, Any]:
    """Names and types of the fields that JSON holds."""
    kept = [f for f in dataclasses.fields(kind) if f.metadata.get("serialised", True)]
    texts = [f.name for f in kept if isinstance(f.type, str)]
    if texts:
        raise TypeError(f"{kind.__name__}: {texts} must be annotated with types, not with strings")
    return {f.name: f.type for f in kept}
