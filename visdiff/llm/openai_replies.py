"""Reading of chat completions: text, data, probabilities and usage, from whatever was returned.

A completion is plain JSON here. Its fields may be missing, or of any type.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from visdiff.llm import Failure, Reply, Request, Usage
from visdiff.llm.openai_http import redact
from visdiff.llm.streaming import Result
from visdiff.llm.structured import (
    InvalidReplyError,
    cut_reply,
    strip_reasoning,
    validate_reply,
)

_TRUNCATED = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "refusal", "prohibited_content")
# Minimum probability of all choices together.
_MIN_TOTAL = 0.5
# Longest text of a reply, in characters: for every token of the limit, and whatever the limit.
_CHARACTERS_PER_TOKEN = 64
_MIN_CHARACTERS, _MAX_CHARACTERS = 4_000, 200_000
_MAX_VALUES = 200_000
_MAX_NAME = 200
_MAX_TOKENS = 10**9


class InvalidReply:
    """A reply that violates the request's schema or choices."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason


def parse_json(content: bytes) -> Any:
    """Returns the JSON of a response.

    Raises:
        ValueError: The content is not JSON, or has more values than any completion.
        RecursionError: It is nested too deeply.
    """
    if content.count(b",") > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES} values")
    return json.loads(content)


def read_reply(
    completion: Mapping[str, Any],
    request: Request,
    usage: Usage,
    request_id: str | None = None,
    clean: Callable[[Any], str] = str,
) -> Result | InvalidReply:
    """Extracts and validates the reply of a completion.

    Args:
        completion: The endpoint's JSON.
        request: The request.
        usage: Tokens of all calls for the request.
        request_id: The endpoint's id of the request; by default that of the completion.
        clean: Shortens a server's message, without secrets.
    """
    choice = _first(completion.get("choices"))
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return Failure("the endpoint returned a completion without choices", "empty", usage)
    finish = _name(choice.get("finish_reason")) or "unknown"
    refusal = message.get("refusal")
    if refusal:
        return Failure(f"refused: {clean(refusal)[:200]}", "refusal", usage)
    if finish.lower() in _FILTERED:
        return Failure(f"refused (finish reason {finish})", "refusal", usage)
    if finish.lower() in _TRUNCATED:
        return cut_reply(request, usage)
    text = strip_reasoning(_text(message.get("content")))
    if not text:
        return Failure(f"empty reply (finish reason {finish})", "empty", usage)
    if len(text) > (limit := _max_characters(request)):
        return Failure(f"a reply of {len(text)} characters, more than {limit}", "length", usage)
    try:
        text, data = validate_reply(request, text)
    except InvalidReplyError as error:
        return InvalidReply(text, str(error))
    return Reply(
        text=text,
        data=data,
        probabilities=_probabilities(choice, request.choices) if request.choices else {},
        finish_reason=finish,
        model=_name(completion.get("model")),
        request_id=_name(request_id or completion.get("id")) or None,
        usage=usage,
    )


def is_cut_reasoning(completion: Mapping[str, Any], result: Result | InvalidReply) -> bool:
    """Returns whether a reply was cut before its text began."""
    if not isinstance(result, Failure) or result.kind != "length":
        return False
    message = _first(completion.get("choices")).get("message")
    return isinstance(message, Mapping) and not strip_reasoning(_text(message.get("content")))


def without_secrets(result: Result | InvalidReply, secrets: Sequence[str]) -> Result | InvalidReply:
    """Returns a result whose texts do not contain the secrets, however JSON wrote them."""
    if isinstance(result, Failure):
        return replace(result, reason=redact(result.reason, secrets))
    if isinstance(result, InvalidReply):
        return InvalidReply(redact(result.text, secrets), redact(result.reason, secrets))
    names = ("text", "data", "finish_reason", "model", "request_id")
    return replace(result, **{name: redact(getattr(result, name), secrets) for name in names})


def add_usage(total: Usage, usage: Any) -> Usage:
    """Returns a total plus the usage that a completion reports, if any."""

    def count(name: str) -> int:
        value = usage.get(name) if isinstance(usage, Mapping) else None
        # A price times an integer of a thousand digits overflows.
        return min(max(value, 0), _MAX_TOKENS) if isinstance(value, int) else 0

    return Usage(
        total.prompt_tokens + count("prompt_tokens"),
        total.completion_tokens + count("completion_tokens"),
    )


def _max_characters(request: Request) -> int:
    if request.max_tokens is None:
        return _MAX_CHARACTERS
    return min(_MAX_CHARACTERS, max(_MIN_CHARACTERS, _CHARACTERS_PER_TOKEN * request.max_tokens))


def _first(items: Any) -> Mapping[str, Any]:
    """Returns the first object of a list; {} if there is none."""
    first = items[0] if isinstance(items, list) and items else None
    return first if isinstance(first, Mapping) else {}


def _name(value: Any) -> str:
    """Returns a short text that can be encoded as UTF-8; "" for other values."""
    text = value if isinstance(value, str) else ""
    return text[:_MAX_NAME].encode("utf-8", "replace").decode("utf-8")


def _text(content: Any) -> str:
    if isinstance(content, list):
        # Some servers return a list of parts; the reply is the text parts.
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _probabilities(choice: Mapping[str, Any], choices: Sequence[str]) -> dict[str, float]:
    """Returns the probabilities of the choices from the alternatives of the first token.

    Returns:
        Choice → probability; empty if the endpoint returns no log-probabilities, if most of the
        mass is on no choice, or if an alternative is a prefix of two choices.
    """
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    first = next((token for token in _objects(tokens) if str(token.get("token", "")).strip()), {})
    mass = dict.fromkeys(choices, 0.0)
    names = {name.strip().casefold(): name for name in choices}
    for alternative in _objects(first.get("top_logprobs")):
        start = str(alternative.get("token", "")).strip().casefold()
        logprob = alternative.get("logprob")
        if not start or not isinstance(logprob, (int, float)) or not logprob <= 0.01:
            continue
        matches = [name for text, name in names.items() if text.startswith(start)]
        # The exponential of an integer of a thousand digits overflows.
        probability = math.exp(max(logprob, -1e9))
        if len(matches) > 1 and probability > 0.01:
            return {}
        if len(matches) == 1:
            mass[matches[0]] += probability
    total = sum(mass.values())
    return {name: value / total for name, value in mass.items()} if total >= _MIN_TOTAL else {}


def _objects(items: Any) -> list[Mapping[str, Any]]:
    """Returns the objects of a list."""
    return [i for i in items if isinstance(i, Mapping)] if isinstance(items, list) else []
