"""An audit as JSON values, complete but for its images, and an audit from them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from editing.requests import Request
from visdiff.errors import InputError
from visdiff.files import load_json
from visdiff.results import DifferenceReport, to_plain

Report = TypeVar("Report")


def to_record(value: Any) -> Any:
    """Returns a result as JSON values from which `read_record` makes the same result.

    Dataclasses become objects without the fields that do not take part in comparisons (images).
    NaN and infinite numbers become the strings "NaN", "Infinity" and "-Infinity".
    """
    if isinstance(value, (Request, DifferenceReport)):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        kept = [f.name for f in dataclasses.fields(value) if f.compare]
        return {name: to_record(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {str(key): to_record(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_record(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return to_plain(value)


def read_record(kind: type[Report], text: str | bytes, schema: int) -> Report:
    """Returns the result in a JSON text.

    Args:
        kind: Class of the result.
        text: JSON with ``schema`` and ``record``.
        schema: The version of the layout that can be read.

    Raises:
        InputError: The text is not JSON, has no such result, or is of another version.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        data = load_json(text)
    except ValueError as error:
        raise InputError(
            f"Expected an audit in JSON, got text that is not JSON ({error}); pass the contents of "
            "audit.json."
        ) from error
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(
            "Expected an audit (a JSON object with schema), got something else; pass the contents "
            "of audit.json."
        )
    if data["schema"] != schema or "record" not in data:
        raise InputError(
            f"Expected an audit of schema {schema}, got {json.dumps(data['schema'])}; read it with "
            "the version of visdiff that wrote it, or run the audit again."
        )
    try:
        return TypeAdapter(kind).validate_python(data["record"])
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] == "missing")
        where = ".".join(map(str, ("record", *first["loc"])))
        raise InputError(
            f"Expected a complete audit, got at {where}: {first['msg']}; is the file damaged?"
        ) from error
