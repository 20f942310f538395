"""Validation of replies against schemas and choices."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdiff.errors import InputError
from visdiff.llm import Message, Request
from visdiff.llm.structured import (
    InvalidReplyError,
    is_strict,
    strip_reasoning,
    validate_reply,
    validator,
)

VERDICT = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 2},
        "why": {"type": "string"},
    },
    "required": ["score", "why"],
    "additionalProperties": False,
}


def make_request(schema: Any = None, choices: tuple[str, ...] = ()) -> Request:
    return Request((Message("user", ("?",)),), "test/1", schema=schema, choices=choices)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [0, -3, 10**30], [True, 1.0, 1.5, "1", None, []]),
        ({"type": "number", "exclusiveMinimum": 0}, [1, 0.5], [0, -1, True, "1"]),
        ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
        ({"type": "null"}, [None], [0, "", False]),
        ({"type": "string", "minLength": 2, "pattern": "^a"}, ["ab"], ["a", "ba", 3, None]),
        ({"enum": ["yes", "no", 1, None]}, ["yes", 1, None], ["Yes", True, 1.0, 0, False, ""]),
        ({"const": True}, [True], [1, "true", False]),
        ({"type": ["string", "null"]}, ["a", None], [1, [], {}]),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
            [["a"], ["a", "b"]],
            [[], ["a", "b", "c"], [1], "a", {"0": "a"}],
        ),
        (
            VERDICT,
            [{"score": 2, "why": ""}],
            [{"score": 3, "why": ""}, {"score": 1}, {"score": 1, "why": "", "more": 1}, []],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            [{}, {"a": 1}],
            [{"a": "1"}, [1]],
        ),
        ({"type": "object", "required": ["a"]}, [{"a": None, "b": 1}], [{"b": 1}]),
        (
            {
                "$defs": {
                    "Node": {
                        "type": "object",
                        "properties": {
                            "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}
                        },
                        "required": ["next"],
                    }
                },
                "$ref": "#/$defs/Node",
            },
            [{"next": {"next": None}}],
            [{"next": {}}, {"next": 1}, None],
        ),
    ],
    ids=lambda value: None if not isinstance(value, dict) else json.dumps(value)[:40],
)
def test_a_schema_accepts_valid_values_only(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert validate_reply(make_request(schema), json.dumps(value))[1] == value
    for value in bad:
        with pytest.raises(InvalidReplyError):
            validate_reply(make_request(schema), json.dumps(value))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"type": "string", "minimum": 3},
        {"allOf": [{"type": "string"}]},
        {"type": "array", "uniqueItems": True},
        {"type": "object", "properties": {"a": {"type": "array", "contains": {}}}},
        {"properties": {"a": {}}},
        {"type": "string", "pattern": "("},
        {"$ref": "https://example.org/schema"},
        {"type": ["string", "null"], "minimum": 2},
    ],
    ids=json.dumps,
)
def test_unsupported_schemas_raise(schema: Any) -> None:
    with pytest.raises(InputError, match="Expected a JSON schema"):
        validator(schema)


def test_schemas_written_by_pydantic_are_supported() -> None:
    from pydantic import BaseModel, Field

    class Part(BaseModel):
        text: str = Field(max_length=50)
        score: float | None = None

    class Whole(BaseModel):
        parts: list[Part]

    schema = Whole.model_json_schema()
    good = {"parts": [{"text": "a", "score": 1.5}, {"text": "b"}]}
    assert validate_reply(make_request(schema), json.dumps(good))[1] == good
    with pytest.raises(InvalidReplyError, match=r"at parts\.0\.text"):
        validate_reply(make_request(schema), '{"parts": [{"text": 3}]}')


GOOD = {"score": 2, "why": 'a "quoted" {brace}'}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "```json\n{}\n```",
        "Here is my answer:\n\n{}\n\nI hope this helps!",
        "[Note] see below {}",
        'I considered {{"score": 9, "why": "first"}} and settled on {}',
        "{0}\n{0}",
        '<think>Perhaps {{"score": 0, "why": ""}}?</think>{}',
        "Let me think.</think>\n{}",
    ],
)
def test_the_json_value_is_found_within_other_text(text: str) -> None:
    assert (
        validate_reply(make_request(VERDICT), strip_reasoning(text.format(json.dumps(GOOD))))[1]
        == GOOD
    )


@pytest.mark.parametrize(
    "text",
    [
        "I cannot tell.",
        '{"score": 2, "why": "cut he',
        '{"verdicts": [{"score": 2, "why": "inside of something cut"}, {"score"',
        '[{"score": 2, "why": "inside of a list that is cut"}, {"sco',
        '{"score": 2, "why": "a"} or {"score": 1, "why": "b"}',
        "{'score': 2, 'why': 'a'}",
        '{"score": 2, "why": "a",}',
        '{"score": NaN, "why": "a"}',
        '{"score": 1e999, "why": "a"}',
        '{"score": 2, "why": "\\ud800"}',
        "[" * 5000,
        '{"a":' * 5000,
        "null",
    ],
    ids=lambda text: text[:40],
)
def test_text_without_a_valid_value_raises(text: str) -> None:
    with pytest.raises(InvalidReplyError):
        validate_reply(make_request(VERDICT), text)


def test_infinite_numbers_raise_under_any_schema() -> None:
    with pytest.raises(InvalidReplyError):
        validate_reply(make_request({}), "[1e999]")


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_any_text_is_validated_or_raises(text: str) -> None:
    for request in (make_request(VERDICT), make_request(choices=("yes", "no"))):
        try:
            reply, data = validate_reply(request, strip_reasoning(text))
        except InvalidReplyError:
            continue
        assert reply in ("yes", "no") or set(data) == {"score", "why"}


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_any_json_value_is_returned_unchanged(value: Any) -> None:
    if isinstance(value, str) and any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        return
    assert validate_reply(make_request({}), json.dumps(value))[1] == value


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("yes", "Yes"),
        (" Yes. ", "Yes"),
        ("**No**", "no"),
        ('"not sure"', "not sure"),
        ("No!", "no"),
    ],
)
def test_a_choice_may_have_quotes_and_punctuation(text: str, choice: str) -> None:
    assert validate_reply(make_request(choices=("Yes", "no", "not sure")), text) == (choice, None)


@pytest.mark.parametrize(
    "text",
    ["The eyes are brown", "Not sure", "unknown", "snow", "I cannot tell", "yes and no", "y", "."],
)
def test_a_choice_is_not_matched_within_a_longer_text(text: str) -> None:
    with pytest.raises(InvalidReplyError, match="none of the 2 choices"):
        validate_reply(make_request(choices=("yes", "no")), text)


def test_unfinished_reasoning_is_no_reply() -> None:
    assert strip_reasoning("<think>so many ways to see this") == ""
    assert strip_reasoning(" plain ") == "plain"
    assert strip_reasoning("half a pair \ud83d").encode()


def test_strict_mode_requires_closed_objects() -> None:
    assert is_strict(VERDICT)
    assert not is_strict({"type": "object", "properties": {"a": {}}, "required": ["a"]})
    assert not is_strict({"type": "array", "items": {**VERDICT, "required": ["why"]}})
