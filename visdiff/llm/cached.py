"""Ask once: a chat model whose replies are kept, and paid for a single time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from visdiff.cache import Cache
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.llm import ChatModel, Failure, Message, Reply, Request, Usage
from visdiff.llm.streaming import Admit, Result, StreamingChat, always, streamed

KIND = "reply"
"""Kind of the entries in the cache."""

_LOOKUP = 500


class CachedChat(StreamingChat):
    """Looks replies up before asking, and stores each as soon as it arrives.

    A run that is stopped therefore goes on where it was. Failures are never stored: the next run
    asks again. The same request twice in one call is asked once.

    Args:
        model: The model behind it. When every reply is stored it is not used at all, so that no key
            is needed and no weights are loaded.
        cache: Where replies are. In mode "replay" a missing one is an error that names it.
    """

    def __init__(self, model: ChatModel, cache: Cache) -> None:
        self.model = model
        self.cache = cache

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the model behind it."""
        return self.model.identity

    @property
    def sees(self) -> bool:
        """What the model behind it says."""
        return self.model.sees

    def missing(self, requests: Sequence[Request]) -> list[Request]:
        """Return the distinct requests that a run would have to pay for.

        Raises:
            CacheMissError: The cache replays and does not hold one.
        """
        groups = self._groups(requests)
        return [requests[groups[name][1][0]] for name, _ in self._look_up(groups)[1]]

    def check(self, requests: Sequence[Request]) -> None:
        """Find out whether the requests that are not stored can be put to the model.

        Raises:
            CacheMissError: The cache replays and does not hold one.
            InputError: One cannot.
        """
        missing = self.missing(requests)
        if missing and isinstance(self.model, StreamingChat):
            self.model.check(missing)

    def stream(
        self, requests: Sequence[Request], admit: Admit = always
    ) -> Iterator[tuple[int, Result]]:
        """Give the stored replies, then the others as they arrive.

        Raises:
            CacheMissError: The cache replays and does not hold one.
            InputError: The model behind it cannot answer such requests.
        """
        groups = self._groups(requests)
        found, missing = self._look_up(groups)
        for name, reply in found:
            for index in groups[name][1]:
                yield index, reply
        asked = [requests[groups[name][1][0]] for name, _ in missing]
        if not asked:
            return
        for place, result in streamed(self.model, asked, admit):
            name, parts = missing[place]
            if isinstance(result, Reply):
                self.cache.put(KIND, parts, stored(result))
            first, *others = groups[name][1]
            yield first, result
            for index in others:
                yield index, _again(result)

    def _groups(self, requests: Sequence[Request]) -> dict[str, tuple[dict[str, Any], list[int]]]:
        """Group the indices of requests by what is asked."""
        identity = dict(self.model.identity) if requests else {}
        groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for index, request in enumerate(requests):
            parts = key_parts(identity, request)
            groups.setdefault(canonical_json(parts), (parts, []))[1].append(index)
        return groups

    def _look_up(
        self, groups: Mapping[str, tuple[dict[str, Any], list[int]]]
    ) -> tuple[list[tuple[str, Reply]], list[tuple[str, dict[str, Any]]]]:
        """Return names with replies, and names with parts where there is none."""
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
                    found.append((name, _restored(value)))
        return found, missing


def key_parts(identity: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Write down everything that a reply depends on, for the cache.

    Args:
        identity: Of the model.
        request: Pictures count by their digest, texts in full.
    """
    return {
        "model": dict(identity),
        "messages": [_message(message) for message in request.messages],
        "prompt_id": request.prompt_id,
        "schema": request.schema,
        "choices": request.choices,
        "max_tokens": request.max_tokens,
        # 1 and 1.0 are the same temperature, and differ as JSON.
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


def stored(reply: Reply) -> dict[str, Any]:
    """Return a reply as the cache holds it: without what it cost."""
    return {
        "text": reply.text,
        "data": reply.data,
        "probabilities": dict(reply.probabilities),
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "request_id": reply.request_id,
        # What it cost when it was asked for, for whoever exports the cache.
        "usage": {
            "prompt_tokens": reply.usage.prompt_tokens,
            "completion_tokens": reply.usage.completion_tokens,
            "cost": reply.usage.cost,
        },
    }


def _restored(value: Mapping[str, Any]) -> Reply:
    fields = {name: item for name, item in value.items() if name != "usage"}
    return Reply(**fields, usage=Usage(cost=0.0), cached=True)


def _again(result: Result) -> Result:
    """Return the result for the second of two equal requests: it cost nothing."""
    if isinstance(result, Failure):
        return replace(result, usage=Usage())
    return replace(result, usage=Usage(cost=0.0), cached=True)
