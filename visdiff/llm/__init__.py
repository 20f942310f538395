"""Chat models: text and images in, one reply out, and everything that was spent counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Picture:
    """An image in a message.

    Attributes:
        data: The encoded file (PNG or JPEG) that is sent as it is; its digest is in the cache key.
        media_type: "image/png" or "image/jpeg".
    """

    data: bytes
    media_type: str = "image/png"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user" or "assistant".
        parts: Texts and pictures, in the order in which the model reads them.
    """

    role: str
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True)
class Request:
    """One question to a chat model.

    Attributes:
        messages: The conversation so far; the reply continues it.
        prompt_id: Id and version of the prompt that the text was made from, for the provenance.
        schema: JSON schema that the reply has to fit; None asks for free text.
        max_tokens: Longest reply; one that reaches it is a failure ("length"), not a stump.
        temperature: Left to the model when None.
        seed: Asked of the endpoint where it is understood.
        sample: Index of this answer among several to the same question; part of the cache key.
        choices: Strings of which the reply is one; their log-probabilities are asked for where the
            backend has them.
    """

    messages: tuple[Message, ...]
    prompt_id: str
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sample: int = 0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What a reply cost: tokens in and out, and US dollars where a price is known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The answer, never empty.
        data: The parsed answer, when the request had a schema; it fits the schema.
        probabilities: Choice → probability (they sum to one), when the request had choices and the
            backend tells; else empty.
        finish_reason: As the endpoint gave it; "stop" for a whole answer.
        model: The model that the endpoint says answered.
        request_id: The endpoint's, for its logs; None where it gives none.
        usage: Tokens and cost.
        cached: Whether it came from the cache, at no cost.
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
    """Why there is no answer. A failure is never data: it is counted, shown and never cached.

    Attributes:
        reason: One clause for the user: "refused", "reply cut at 256 tokens", "timed out".
        kind: "refusal", "length", "parse", "http", "timeout", "connection", "budget" or "empty".
        usage: What was spent on it all the same.
    """

    reason: str
    kind: str
    usage: Usage = Usage()


class ChatModel(Protocol):
    """Answers questions. A backend's constructor takes its configuration's fields as keywords."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What changes an answer: backend, endpoint, model, revision. JSON values; never a key."""
        ...

    @property
    def sees(self) -> bool:
        """Whether pictures may be in a message."""
        ...

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        """Answer every request.

        Returns:
            One a request, in order. Whatever happens to one, the others are kept.

        Raises:
            InputError: No request of this kind can work: unknown model, wrong key, pictures for a
                model that does not see, a text longer than the context.
        """
        ...
