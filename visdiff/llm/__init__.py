"""Chat models: requests of text and images, replies, failures and token usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Picture:
    """An image in a message.

    Attributes:
        data: The encoded file (PNG or JPEG), sent unchanged; its digest is in the cache key.
        media_type: "image/png" or "image/jpeg".
    """

    data: bytes
    media_type: str = "image/png"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user" or "assistant".
        parts: Texts and pictures, in the order of the message.
    """

    role: str
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True)
class Request:
    """One question to a chat model.

    Attributes:
        messages: The conversation so far; the reply continues it.
        prompt_id: Id and version of the prompt template, for the provenance.
        schema: JSON schema of the reply; None asks for free text.
        max_tokens: Maximum length of the reply; a truncated reply is a failure ("length").
        temperature: Sampling temperature; the model's default when None.
        seed: Sampling seed, sent to endpoints that accept one.
        sample: Index of this reply among several to the same question; part of the cache key.
        choices: The allowed replies. Their log-probabilities are requested where the backend
            supports it.
        limit_setting: Name of the setting that ``max_tokens`` comes from, such as
            "proposer.max_tokens"; messages about truncated replies name it.
    """

    messages: tuple[Message, ...]
    prompt_id: str
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sample: int = 0
    choices: tuple[str, ...] = ()
    limit_setting: str | None = None


@dataclass(frozen=True)
class Usage:
    """The cost of a reply: prompt and completion tokens, and US dollars if the price is known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: The text of the reply, never empty.
        data: The parsed reply, valid under the request's schema; None without a schema.
        probabilities: Choice → probability (they sum to one), when the request had choices and the
            backend returns them; else empty.
        finish_reason: As reported by the endpoint; "stop" for a complete reply.
        model: The model that the endpoint reports.
        request_id: The endpoint's id of the request, for its logs; None if it reports none.
        usage: Tokens and cost.
        cached: Whether the reply came from the cache, at no cost.
    """

    text: str
    data: Any = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    model: str = ""
    request_id: str | None = None
    usage: Usage = Usage()
    cached: bool = False


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no reply.

    Failures are counted and reported; they are never cached and never used as data.

    Attributes:
        reason: One clause for the user: "refused", "reply cut at 256 tokens", "timed out".
        kind: "refusal", "length", "parse", "http", "timeout", "connection", "budget" or "empty".
        usage: Tokens and cost of the failed calls.
    """

    reason: str
    kind: str
    usage: Usage = Usage()


class ChatModel(Protocol):
    """A chat model.

    A backend's constructor accepts the fields of its configuration as keywords.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that affects a reply: backend, endpoint, model, revision.

        JSON values only; never an API key.
        """
        ...

    @property
    def has_vision(self) -> bool:
        """Whether the model accepts images."""
        ...

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        """Answers every request.

        Returns:
            One result per request, in order. A failed request does not affect the others.

        Raises:
            InputError: No such request can succeed: unknown model, invalid API key, images for a
                model without vision, a text longer than the context.
        """
        ...
