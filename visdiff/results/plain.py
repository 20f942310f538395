"""Results as the values that JSON has."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import to_jsonable_python

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float whose NaN is null in JSON."""


def to_plain(value: Any, exclude: frozenset[str] = frozenset()) -> Any:
    """Returns the value as JSON values: dicts, lists, strings, finite numbers, booleans and None.

    Dataclasses become dicts, tuples and arrays lists, NaN and infinities None, and what JSON has no
    form for (a path, a date) its string.

    Args:
        value: Anything.
        exclude: Fields or keys of the value itself to leave out.
    """
    return to_jsonable_python(
        value, exclude=set(exclude), inf_nan_mode="null", fallback=_without_pydantic
    )


def _without_pydantic(value: Any) -> Any:
    to_list = getattr(value, "tolist", None)  # numpy arrays and scalars, without importing numpy
    return to_list() if callable(to_list) else str(value)
