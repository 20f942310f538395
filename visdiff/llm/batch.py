"""Batches of requests as files: what goes up, what comes back. No network and no state here.

A request's line is found again by its ``custom_id``, which is the key that its reply has in the
cache. A reply that came with a batch is read, checked and stored as one that came alone: whoever
asks the same afterwards finds it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat import ChatCompletion

from visdiff.cache import Cache
from visdiff.errors import InputError, VisdiffError
from visdiff.hashing import key
from visdiff.llm import Failure, Reply, Request, Usage
from visdiff.llm.cached import KIND, key_parts, stored
from visdiff.llm.openai import Unfit, added, read_reply
from visdiff.llm.streaming import Result

MAX_REQUESTS = 50_000
"""Most requests of a batch."""

MAX_BYTES = 200_000_000
"""Longest file of a batch."""

ENDPOINT = "/v1/chat/completions"
"""What each line of a batch calls, whatever the address of the server."""

_NO_FUNDS = ("insufficient_quota", "billing_hard_limit_reached")
_UNSAFE = ("content_filter", "content_policy_violation", "invalid_prompt")


@dataclass(frozen=True)
class Line:
    """A request as it goes into a batch.

    Attributes:
        key: Of its reply in the cache, and its ``custom_id``.
        parts: What the key is made of (`visdiff.llm.cached.key_parts`); pictures by their digest.
        data: The line, with its end.
    """

    key: str
    parts: Mapping[str, Any]
    data: bytes


@dataclass
class Answers:
    """What the files of a batch hold.

    Attributes:
        results: By key; a request of which nothing is said is not among them.
        unknown: Lines about requests that are not in the batch.
        unreadable: Lines that are no JSON, or cut off.
    """

    results: dict[str, Result] = field(default_factory=dict)
    unknown: int = 0
    unreadable: int = 0


def request_key(identity: Mapping[str, Any], request: Request) -> str:
    """Return the key that a reply has in the cache.

    Args:
        identity: Of the model.
        request: What it is asked.
    """
    return key(KIND, key_parts(identity, request))


def lines(
    identity: Mapping[str, Any],
    requests: Iterable[Request],
    parameters: Callable[[Request], Mapping[str, Any]],
) -> Iterator[Line]:
    """Write each distinct request as a line of a batch.

    Args:
        identity: Of the model.
        requests: Those to be paid for.
        parameters: Makes the body of a call (`visdiff.llm.openai_dialect.Dialect.parameters`).
    """
    identity, seen = dict(identity), set[str]()
    for request in requests:
        parts = key_parts(identity, request)
        name = key(KIND, parts)
        if name in seen:
            continue
        seen.add(name)
        call = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": parameters(request)}
        yield Line(name, parts, json.dumps(call, separators=(",", ":")).encode("ascii") + b"\n")


def split(
    written: Iterable[Line], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
) -> Iterator[list[Line]]:
    """Cut lines into batches, in order, each as full as may be; one is in memory at a time.

    Raises:
        InputError: One line alone is too long.
    """
    batch: list[Line] = []
    size = 0
    for line in written:
        if len(line.data) > max_bytes:
            raise InputError(
                f"expected requests of at most {max_bytes / 1e6:g} MB in a batch, got one of "
                f"{len(line.data) / 1e6:.1f} MB: send smaller or fewer pictures."
            )
        if batch and (len(batch) == max_requests or size + len(line.data) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.data)
    if batch:
        yield batch


def read(
    files: Iterable[bytes],
    parts: Mapping[str, Mapping[str, Any]],
    clean: Callable[[Any], str],
) -> Answers:
    """Read the files of a batch that has ended: the output, the errors, or both, in any order.

    Args:
        files: JSON lines. Where two are about one request, the first answer counts, and any answer
            rather than a failure.
        parts: Of the batch's requests, by key.
        clean: Makes a server's words fit for a message (`visdiff.llm.openai_faults.Teller.clean`).
    """
    answers = Answers()
    # Not splitlines of text: other characters that it takes for a line's end may stand in JSON.
    for raw in (raw for data in files for raw in data.split(b"\n") if raw.strip()):
        try:
            row = json.loads(raw.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
            answers.unreadable += 1
            continue
        name = row["custom_id"]
        if name not in parts:
            answers.unknown += 1
            continue
        if not isinstance(answers.results.get(name), Reply):
            answers.results[name] = _result(row, parts[name], clean)
    return answers


def unanswered(status: str, said: str, unreadable: int) -> Failure:
    """Say why a request has no line in the files of a batch that has ended.

    Args:
        status: Of the batch: "completed", "expired", "cancelled" or "failed".
        said: What the server said of a batch that it refused; "" where nothing.
        unreadable: Number of lines that could not be read.
    """
    if status == "failed":
        return Failure(f"the batch was refused: {said or 'no reason given'}", "http")
    if status == "expired":
        return Failure("the batch expired before it was asked", "timeout")
    if status == "cancelled":
        return Failure("the batch was cancelled before it was asked", "http")
    if unreadable:
        return Failure("its line in the batch's results is missing or cut off", "http")
    return Failure("the batch ended without an answer to it", "empty")


def keep(
    cache: Cache, parts: Mapping[str, Mapping[str, Any]], results: Mapping[str, Result]
) -> int:
    """Put replies into the cache as `visdiff.llm.cached.CachedChat` does; failures never.

    A reply that is in the cache already stays: somebody may have used it.

    Args:
        cache: In mode "rw" or "refresh".
        parts: Of the requests, by key.
        results: By key.

    Returns:
        Number of replies among the results.

    Raises:
        InputError: The cache does not write.
        VisdiffError: The replies are not on the disk afterwards.
    """
    if cache.mode not in ("rw", "refresh"):
        raise InputError(
            f"expected a cache that keeps the replies, got mode {cache.mode!r}: use mode rw."
        )
    replies = {name: result for name, result in results.items() if isinstance(result, Reply)}
    names = list(replies)
    known = cache.get_many(KIND, [parts[name] for name in names])
    fresh = [name for name, value in zip(names, known, strict=True) if value is None]
    cache.put_many(KIND, [(parts[name], stored(replies[name])) for name in fresh])
    # A cache that cannot write goes on in memory: here, that would lose what was paid for.
    with Cache(cache.directory, "ro") as written:
        if None in written.get_many(KIND, [parts[name] for name in names]):
            raise VisdiffError(
                f"expected to keep the batch's replies in {cache.directory}, got a cache that "
                "cannot be written: free some space there and collect again; nothing is lost."
            )
    return len(replies)


def _result(
    row: Mapping[str, Any], parts: Mapping[str, Any], clean: Callable[[Any], str]
) -> Result:
    """Read what a line says of its request."""
    response = row.get("response")
    if not isinstance(response, Mapping):
        return _failure(row.get("error"), "", clean)
    status, body = response.get("status_code"), response.get("body")
    if status != 200:
        error = body.get("error") if isinstance(body, Mapping) else None
        return _failure(error or row.get("error") or body, f"HTTP {status}: ", clean)
    if not isinstance(body, Mapping) or "choices" not in body:
        return Failure(f"expected a chat completion, got {clean(body)!r}", "http")
    question = Request(
        messages=(),
        prompt_id=parts["prompt_id"],
        schema=parts["schema"],
        choices=tuple(parts["choices"]),
    )
    try:
        # As the client makes it of an answer: whatever shape the server gave it.
        completion = ChatCompletion.construct(None, **body)
        completion._request_id = response.get("request_id")
        spent = added(Usage(), completion.usage)
        result = read_reply(completion, question, spent)
    except (AttributeError, TypeError, ValueError) as error:
        return Failure(f"the answer cannot be read: {clean(error)}", "http")
    # Asked alone, it would have been asked once more, told what did not fit.
    return Failure(result.reason, "parse", spent) if isinstance(result, Unfit) else result


def _failure(error: Any, before: str, clean: Callable[[Any], str]) -> Failure:
    """Say what a line's error means."""
    told = error if isinstance(error, Mapping) else {"message": error}
    code, message = str(told.get("code") or ""), told.get("message")
    said = before + clean(message or code or "no reason given")
    if code == "batch_expired":
        return unanswered("expired", "", 0)
    if code == "batch_cancelled":
        return unanswered("cancelled", "", 0)
    if code in _UNSAFE:
        return Failure(f"refused by the endpoint's content filter: {said}", "refusal")
    if code in _NO_FUNDS:
        return Failure(f"the account has nothing left to spend: {said}", "budget")
    return Failure(said, "http")


def first_reasons(results: Mapping[str, Result]) -> dict[str, str]:
    """Return, for each kind of failure, the first reason."""
    reasons: dict[str, str] = {}
    for result in results.values():
        if isinstance(result, Failure):
            reasons.setdefault(result.kind, result.reason)
    return reasons
