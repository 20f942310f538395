"""A chat model whose replies are cached, so that each request is paid for once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from visdiff.cache import Cache
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.llm import ChatModel, Failure, Message, Reply, Request, Usage
from visdiff.llm.streaming import Admit, Result, StreamingChat, admit_all, stream_replies

KIND = "reply"
"""Kind of the cache entries."""

_LOOKUP = 500


class CachedChat(StreamingChat):
    """A chat model that looks up replies in a cache and stores new ones as they arrive.

    An interrupted run therefore resumes where it stopped. Failures are not stored, so the next run
    tries them again. Equal requests in one call are sent once.

    Args:
        model: The wrapped model. If every reply is cached it is not used, so no API key is needed
            and no weights are loaded.
        cache: The cache. In mode "replay" a missing reply is an error.
    """

    def __init__(self, model: ChatModel, cache: Cache) -> None:
        self.model = model
        self.cache = cache

    @property
    def identity(self) -> Mapping[str, Any]:
        """Identity of the wrapped model."""
        return self.model.identity

    @property
    def has_vision(self) -> bool:
        """Whether the wrapped model accepts images."""
        return self.model.has_vision

    def missing(self, requests: Sequence[Request]) -> list[Request]:
        """Returns the distinct requests that have no cached reply.

        Raises:
            CacheMissError: The cache is in mode "replay" and a reply is missing.
        """
        groups = self._groups(requests)
        return [requests[groups[name][1][0]] for name, _ in self._look_up(groups)[1]]

    def check(self, requests: Sequence[Request]) -> None:
        """Checks that the model can answer the requests without a cached reply.

        Raises:
            CacheMissError: The cache is in mode "replay" and a reply is missing.
            InputError: The model cannot answer one of them.
        """
        missing = self.missing(requests)
        if missing and isinstance(self.model, StreamingChat):
            self.model.check(missing)

    def stream(
        self, requests: Sequence[Request], admit: Admit = admit_all
    ) -> Iterator[tuple[int, Result]]:
        """Yields the cached replies, then the others as they arrive.

        Raises:
            CacheMissError: The cache is in mode "replay" and a reply is missing.
            InputError: The wrapped model cannot answer such requests.
        """
        groups = self._groups(requests)
        found, missing = self._look_up(groups)
        for name, reply in found:
            for index in groups[name][1]:
                yield index, reply
        to_send = [requests[groups[name][1][0]] for name, _ in missing]
        if not to_send:
            return
        for place, result in stream_replies(self.model, to_send, admit):
            name, parts = missing[place]
            if isinstance(result, Reply):
                self.cache.put(KIND, parts, reply_to_json(result))
            first, *others = groups[name][1]
            yield first, result
            for index in others:
                yield index, _repeated(result)

    def _groups(self, requests: Sequence[Request]) -> dict[str, tuple[dict[str, Any], list[int]]]:
        """Groups the indices of equal requests: key → (key fields, indices)."""
        identity = dict(self.model.identity) if requests else {}
        groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for index, request in enumerate(requests):
            parts = key_parts(identity, request)
            groups.setdefault(canonical_json(parts), (parts, []))[1].append(index)
        return groups

    def _look_up(
        self, groups: Mapping[str, tuple[dict[str, Any], list[int]]]
    ) -> tuple[list[tuple[str, Reply]], list[tuple[str, dict[str, Any]]]]:
        """Returns the cached replies by key, and the keys and key fields of the missing ones."""
        found: list[tuple[str, Reply]] = []
        missing: list[tuple[str, dict[str, Any]]] = []
        names = list(groups)
        for start in range(0, len(names), _LOOKUP):
            chunk = names[start : start + _LOOKUP]
            values = self.cache.get_many(KIND, [groups[name][0] for name in chunk])
            for name, value in zip(chunk, values, strict=True):
                if value is None:
                    missing.append((name, groups[name][0]))
                else:
                    found.append((name, _reply_from_json(value)))
        return found, missing


def key_parts(identity: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Returns the fields of a reply's cache key: everything that the reply depends on.

    Args:
        identity: Identity of the model.
        request: The request; pictures enter by their digest, texts in full.
    """
    return {
        "model": dict(identity),
        "messages": [_message(message) for message in request.messages],
        "prompt_id": request.prompt_id,
        "schema": request.schema,
        "choices": request.choices,
        "max_tokens": request.max_tokens,
        # 1 and 1.0 are the same temperature but differ in JSON.
        "temperature": None if request.temperature is None else float(request.temperature),
        "seed": request.seed,
        "sample": request.sample,
    }


def _message(message: Message) -> dict[str, Any]:
    parts = [
        {"text": part}
        if isinstance(part, str)
        else {"picture": digest_bytes(part.data), "media_type": part.media_type}
        for part in message.parts
    ]
    return {"role": message.role, "parts": parts}


def reply_to_json(reply: Reply) -> dict[str, Any]:
    """Returns a reply as JSON, for the cache."""
    return {
        "text": reply.text,
        "data": reply.data,
        "probabilities": dict(reply.probabilities),
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "request_id": reply.request_id,
        # For exports of the cache; a reply that is read back costs nothing.
        "usage": {
            "prompt_tokens": reply.usage.prompt_tokens,
            "completion_tokens": reply.usage.completion_tokens,
            "cost": reply.usage.cost,
        },
    }


def _reply_from_json(value: Mapping[str, Any]) -> Reply:
    fields = {name: item for name, item in value.items() if name != "usage"}
    return Reply(**fields, usage=Usage(cost=0.0), cached=True)


def _repeated(result: Result) -> Result:
    """Returns the result for a repeated request, at no cost."""
    if isinstance(result, Failure):
        return replace(result, usage=Usage())
    return replace(result, usage=Usage(cost=0.0), cached=True)
