"""Validation of replies against a JSON schema or a list of choices.

The validator of a JSON schema is pydantic's core. It supports the keywords of structured outputs of
OpenAI-compatible servers; any other keyword is an error, since ignoring it would accept invalid
replies.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, from_json
from pydantic_core import core_schema as core

from visdiff.errors import InputError
from visdiff.hashing import canonical_json
from visdiff.llm import Failure, Request, Usage

_NOTES = frozenset(
    {"title", "description", "default", "examples", "format", "$schema", "$comment", "$defs"}
)
_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}
_OPENING = re.compile(r"\{(?:\s*\")?|\[(?:\s*[\"{\[])?")
_THINKING = re.compile(r"\A.*</think>", re.DOTALL)
_RAISED = 4
_QUOTES = "\"'`“”‘’*"
# Each may be parsed to the end of the text.
_MAX_VALUES = 1000


class InvalidReplyError(ValueError):
    """A reply that violates the request's schema or choices; the text is one clause."""


def validator(schema: Mapping[str, Any]) -> SchemaValidator:
    """Returns the validator of a JSON schema; integers must have no decimal point.

    Raises:
        InputError: The schema has an unsupported keyword or type.
    """
    return _validator(canonical_json(schema))


@lru_cache(maxsize=256)
def _validator(text: str) -> SchemaValidator:
    schema = json.loads(text)
    root = _translate(schema, "schema")
    named = schema.get("$defs", {})
    if named:
        definitions: list[core.CoreSchema] = []
        for name, definition in named.items():
            translated: Any = dict(**_translate(definition, f"schema.$defs.{name}"))
            # A reference is named by what it points to; an indirect one would need a second name.
            if translated["type"] == "definition-ref":
                raise _unsupported(f"schema.$defs.{name}", "a reference to another definition")
            translated["ref"] = name
            definitions.append(translated)
        root = core.definitions_schema(root, definitions)
    try:
        return SchemaValidator(root)
    except Exception as error:  # pydantic_core's SchemaError, and a pattern that does not compile
        raise InputError(
            f"Expected a JSON schema that makes sense, got {text[:200]}: {str(error)[:200]}."
        ) from error


def is_strict(schema: Any) -> bool:
    """Returns whether a schema suits OpenAI's strict mode.

    Strict mode requires closed objects with all properties required.
    """
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" and (
        schema.get("additionalProperties") is not False
        or set(schema.get("required", ())) != set(schema.get("properties", ()))
    ):
        return False
    return all(is_strict(value) for key, value in schema.items() if key not in ("enum", "default"))


def strip_reasoning(text: str) -> str:
    """Removes the reasoning (``<think>…</think>``) before a reply, and surrounding whitespace."""
    # Lone surrogates cannot be encoded as UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _THINKING.sub("", text)
    return "" if text.lstrip().startswith("<think>") else text.strip()


def raise_limit(request: Request) -> Request:
    """Returns a request with a higher limit, for a model whose reasoning took all of the limit.

    Args:
        request: A request with a limit.
    """
    return replace(request, max_tokens=_RAISED * (request.max_tokens or 1))


def cut_reply(request: Request, usage: Usage) -> Failure:
    """Returns the failure of a reply that reached its limit; it names the limit's setting.

    Args:
        request: The request as it was sent.
        usage: Tokens of all calls for the request.
    """
    reason = f"reply cut at {request.max_tokens or usage.completion_tokens} tokens"
    if request.limit_setting is not None:
        reason += f", which include a model's reasoning; raise {request.limit_setting}"
    return Failure(reason, "length", usage)


def validate_reply(request: Request, text: str) -> tuple[str, Any]:
    """Validates a reply against its request.

    Args:
        request: The request, with a schema, with choices, or with neither.
        text: The reply without reasoning; not empty.

    Returns:
        The text (one of the choices, if any) and the parsed data (None without a schema).

    Raises:
        InvalidReplyError: The text violates the schema or is none of the choices.
    """
    if request.choices:
        return _match_choice(text, request.choices), None
    if request.schema is not None:
        return text, _parse_data(text, request.schema)
    return text, None


def instruction(request: Request) -> str:
    """Returns the output format as an instruction, for models without constrained decoding."""
    if request.choices:
        listed = ", ".join(map(json.dumps, request.choices))
        return f"Reply with exactly one of {listed}, and nothing else."
    schema = json.dumps(request.schema, ensure_ascii=False)
    return f"Reply with one JSON value that fits this JSON schema, and nothing else:\n{schema}"


def _match_choice(text: str, choices: tuple[str, ...]) -> str:
    def bare(value: str) -> str:
        return value.strip().strip(_QUOTES).rstrip(".!").strip(_QUOTES).strip().casefold()

    exact = [choice for choice in choices if choice.strip().casefold() == text.casefold()]
    found = exact or [choice for choice in choices if bare(choice) == bare(text)]
    if len(found) != 1:
        raise InvalidReplyError(f"the reply {_short(text)} is none of the {len(choices)} choices")
    return found[0]


def _parse_data(text: str, schema: Mapping[str, Any]) -> Any:
    check = validator(schema)
    fits: list[Any] = []
    reason = f"no JSON in the reply {_short(text)}"
    for value in _find_values(text):
        try:
            check.validate_python(value)
            canonical_json(value)  # raises for numbers that are not finite
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the top"
            reason = f"JSON of another shape: at {where}: {first['msg']}"
        except InputError:
            reason = "a number in the reply is not finite"
        else:
            if value not in fits:
                fits.append(value)
    if len(fits) > 1:
        raise InvalidReplyError(f"{len(fits)} different answers in one reply")
    if not fits:
        raise InvalidReplyError(reason)
    return fits[0]


def _find_values(text: str) -> Iterator[Any]:
    """Yields the JSON values of a text: the whole text, or else each outermost object or list."""
    try:
        yield from_json(text, allow_inf_nan=False)
        return
    except ValueError:
        pass
    decoder, start = json.JSONDecoder(), 0
    for _ in range(_MAX_VALUES):
        match = _OPENING.search(text, start)
        if match is None:
            return
        start = match.start() + 1
        try:
            _, end = decoder.raw_decode(text, match.start())
            value = from_json(text[match.start() : end], allow_inf_nan=False)
        except RecursionError:
            return
        except ValueError:
            # Truncated JSON: any value inside it is only a part of the reply. A lone bracket is
            # prose.
            if len(match.group()) > 1:
                return
            continue
        start = end
        yield value


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else flat[:59] + "…")


def _unsupported(where: str, what: str) -> InputError:
    return InputError(
        f"Expected a JSON schema of types, properties, items, enum, const, anyOf, $ref and bounds, "
        f"got {what} at {where}; write it with those."
    )


def _translate(schema: Any, where: str) -> core.CoreSchema:
    """Converts a JSON schema into pydantic's."""
    if schema is True or schema == {}:
        return core.any_schema()
    if not isinstance(schema, Mapping):
        raise _unsupported(where, repr(schema)[:60])
    rest = {key: value for key, value in schema.items() if key not in _NOTES}
    if "$ref" in rest:
        prefix, _, name = str(rest.pop("$ref")).rpartition("/")
        if rest or prefix != "#/$defs":
            raise _unsupported(where, "a $ref elsewhere than to #/$defs, or with neighbours")
        return core.definition_reference_schema(name)
    if "anyOf" in rest:
        options = rest.pop("anyOf")
        if rest:
            raise _unsupported(where, f"{sorted(rest)[0]} next to anyOf")
        return _either(
            _translate(option, f"{where}.anyOf[{i}]") for i, option in enumerate(options)
        )
    kind = rest.pop("type", None)
    if "enum" in rest or "const" in rest:
        values = rest.pop("enum", None)
        values = [rest.pop("const")] if values is None else values
        if rest:
            raise _unsupported(where, f"{sorted(rest)[0]} next to enum or const")
        return _either(_literal(value, where) for value in values)
    if isinstance(kind, list):
        parts = [_typed(one, _own(one, rest), where) for one in kind]
        if left := set(rest).difference(*(_KEYWORDS.get(one, ()) for one in kind)):
            raise _unsupported(where, f"{sorted(left)[0]} next to type {kind}")
        return _either(parts)
    return _typed(kind, rest, where)


def _either(schemas: Iterable[core.CoreSchema]) -> core.CoreSchema:
    return core.union_schema([*schemas])


def _literal(value: Any, where: str) -> core.CoreSchema:
    # Python takes True for 1 and 1.0 for 1: the type is checked first.
    if isinstance(value, str):
        return core.literal_schema([value])
    if isinstance(value, bool):
        return core.chain_schema([core.bool_schema(strict=True), core.literal_schema([value])])
    if isinstance(value, int):
        return core.chain_schema([core.int_schema(strict=True), core.literal_schema([value])])
    if value is None:
        return core.none_schema()
    raise _unsupported(where, f"{type(value).__name__} in enum or const")


def _own(kind: Any, rest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rest.items() if key in _KEYWORDS.get(kind, ())}


def _typed(kind: Any, rest: Mapping[str, Any], where: str) -> core.CoreSchema:
    if not isinstance(kind, str) or kind not in _MAKERS:
        raise _unsupported(where, f"type {kind!r}")
    if left := set(rest) - set(_KEYWORDS[kind]):
        raise _unsupported(where, sorted(left)[0])
    return _MAKERS[kind](rest, where)


def _object(rest: Mapping[str, Any], where: str) -> core.CoreSchema:
    properties = dict(rest.get("properties", {}))
    required = set(rest.get("required", ()))
    more = rest.get("additionalProperties", True)
    fields = {
        name: core.typed_dict_field(
            _translate(properties.get(name, True), f"{where}.{name}"), required=name in required
        )
        for name in [*properties, *sorted(required - set(properties))]
    }
    if more is False:
        return core.typed_dict_schema(fields, extra_behavior="forbid", strict=True)
    return core.typed_dict_schema(
        fields,
        extra_behavior="allow",
        extras_schema=_translate(more, f"{where}.additionalProperties"),
        strict=True,
    )


def _array(rest: Mapping[str, Any], where: str) -> core.CoreSchema:
    return core.list_schema(
        _translate(rest.get("items", True), f"{where}.items"),
        min_length=rest.get("minItems"),
        max_length=rest.get("maxItems"),
        strict=True,
    )


def _string(rest: Mapping[str, Any], _: str) -> core.CoreSchema:
    return core.str_schema(
        min_length=rest.get("minLength"),
        max_length=rest.get("maxLength"),
        pattern=rest.get("pattern"),
        strict=True,
    )


def _number(make: Callable[..., core.CoreSchema]) -> Callable[..., core.CoreSchema]:
    def made(rest: Mapping[str, Any], _: str) -> core.CoreSchema:
        bounds = {_BOUNDS[key]: value for key, value in rest.items()}
        return make(strict=True, **bounds)

    return made


_KEYWORDS: dict[Any, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern"),
    "integer": tuple(_BOUNDS),
    "number": tuple(_BOUNDS),
    "boolean": (),
    "null": (),
}
_MAKERS: dict[str, Callable[[Mapping[str, Any], str], core.CoreSchema]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number(core.int_schema),
    "number": _number(core.float_schema),
    "boolean": lambda *_: core.bool_schema(strict=True),
    "null": lambda *_: core.none_schema(),
}
