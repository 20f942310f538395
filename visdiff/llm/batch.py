"""Input and output files of the Batch API. No network access and no state.

The ``custom_id`` of a line is the cache key of its reply. Replies from a batch are parsed,
validated and cached exactly like replies to single requests, so a later run finds them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from visdiff.cache import Cache
from visdiff.errors import InputError, VisdiffError
from visdiff.hashing import key
from visdiff.llm import Failure, Reply, Request, Usage
from visdiff.llm.cached import KIND, key_parts, reply_to_json
from visdiff.llm.openai_replies import InvalidReply, add_usage, read_reply
from visdiff.llm.streaming import Result

MAX_REQUESTS = 50_000
"""Maximum number of requests in a batch."""

MAX_BYTES = 200_000_000
"""Maximum size of a batch's input file."""

ENDPOINT = "/v1/chat/completions"
"""Path that each line of a batch calls, independent of the server's address."""

_NO_FUNDS = ("insufficient_quota", "billing_hard_limit_reached")
_UNSAFE = ("content_filter", "content_policy_violation", "invalid_prompt")


@dataclass(frozen=True)
class Line:
    """One line of a batch's input file.

    Attributes:
        key: Cache key of the reply, also the ``custom_id``.
        parts: Fields of the key (`visdiff.llm.cached.key_parts`).
        data: The encoded line, with its newline.
    """

    key: str
    parts: Mapping[str, Any]
    data: bytes


@dataclass
class BatchResults:
    """The results in the output files of a batch.

    Attributes:
        results: Results by key; requests without a line are missing.
        unknown: Number of lines whose request is not in the batch.
        unreadable: Number of lines that are invalid or truncated JSON.
    """

    results: dict[str, Result] = field(default_factory=dict)
    unknown: int = 0
    unreadable: int = 0


def request_key(identity: Mapping[str, Any], request: Request) -> str:
    """Returns the cache key of the reply to a request.

    Args:
        identity: Identity of the model.
        request: The request.
    """
    return key(KIND, key_parts(identity, request))


def write_lines(
    identity: Mapping[str, Any],
    requests: Iterable[Request],
    parameters: Callable[[Request], Mapping[str, Any]],
) -> Iterator[Line]:
    """Yields one line per distinct request.

    Args:
        identity: Identity of the model.
        requests: Requests without a cached reply.
        parameters: Returns the body of a call
            (`visdiff.llm.openai_capabilities.EndpointCapabilities.parameters`).
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


def split_lines(
    written: Iterable[Line], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
) -> Iterator[list[Line]]:
    """Yields batches of lines, in order, each as large as the limits allow.

    Only one batch is in memory at a time.

    Raises:
        InputError: A single line exceeds `max_bytes`.
    """
    batch: list[Line] = []
    size = 0
    for line in written:
        if len(line.data) > max_bytes:
            raise InputError(
                f"Expected requests of at most {max_bytes / 1e6:g} MB in a batch, got one of "
                f"{len(line.data) / 1e6:.1f} MB; send smaller or fewer pictures."
            )
        if batch and (len(batch) == max_requests or size + len(line.data) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.data)
    if batch:
        yield batch


def read_results(
    files: Iterable[bytes],
    parts: Mapping[str, Mapping[str, Any]],
    clean: Callable[[Any], str],
) -> BatchResults:
    """Parses the output and error files of a finished batch, in any order.

    Args:
        files: Contents of the files (JSON lines). If several lines belong to one request, the first
            reply wins, and a reply wins over a failure.
        parts: Key fields of the batch's requests, by key.
        clean: Removes secrets from a server's message
            (`visdiff.llm.openai_errors.ErrorMapper.clean`).
    """
    results = BatchResults()
    # Not str.splitlines, which also splits at characters that are legal inside JSON strings.
    for raw in (raw for data in files for raw in data.split(b"\n") if raw.strip()):
        try:
            row = json.loads(raw.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
            results.unreadable += 1
            continue
        name = row["custom_id"]
        if name not in parts:
            results.unknown += 1
            continue
        if not isinstance(results.results.get(name), Reply):
            results.results[name] = _result(row, parts[name], clean)
    return results


def explain_missing(status: str, message: str, unreadable: int) -> Failure:
    """Returns the failure of a request that has no line in the files of a finished batch.

    Args:
        status: Status of the batch: "completed", "expired", "cancelled" or "failed".
        message: The server's message about a rejected batch; may be empty.
        unreadable: Number of lines that could not be parsed.
    """
    if status == "failed":
        return Failure(f"the batch was refused: {message or 'no reason given'}", "http")
    if status == "expired":
        return Failure("the batch expired before this request was processed", "timeout")
    if status == "cancelled":
        return Failure("the batch was cancelled before this request was processed", "http")
    if unreadable:
        return Failure("its line in the batch's results is missing or truncated", "http")
    return Failure("the batch ended without a reply to this request", "empty")


def store_replies(
    cache: Cache, parts: Mapping[str, Mapping[str, Any]], results: Mapping[str, Result]
) -> int:
    """Stores replies in the cache as `visdiff.llm.cached.CachedChat` does; failures are not stored.

    A reply that is already cached is not replaced, since other results may depend on it.

    Args:
        cache: A cache in mode "rw" or "refresh".
        parts: Key fields of the requests, by key.
        results: Results by key.

    Returns:
        Number of replies among the results.

    Raises:
        InputError: The mode of the cache does not write.
        VisdiffError: The replies could not be written to disk.
    """
    if cache.mode not in ("rw", "refresh"):
        raise InputError(
            f"Expected a cache that stores the replies, got mode {cache.mode!r}; use mode rw."
        )
    replies = {name: result for name, result in results.items() if isinstance(result, Reply)}
    names = list(replies)
    known = cache.get_many(KIND, [parts[name] for name in names])
    fresh = [name for name, value in zip(names, known, strict=True) if value is None]
    cache.put_many(KIND, [(parts[name], reply_to_json(replies[name])) for name in fresh])
    # A cache that cannot write falls back to memory; here that would lose replies already paid for.
    with Cache(cache.directory, "ro") as written:
        if None in written.get_many(KIND, [parts[name] for name in names]):
            raise VisdiffError(
                f"Expected a writable cache for the batch's replies, got {cache.directory}, which "
                "cannot be written; free some space there and collect again (nothing is lost)."
            )
    return len(replies)


def _result(
    row: Mapping[str, Any], parts: Mapping[str, Any], clean: Callable[[Any], str]
) -> Result:
    """Parses one line of a batch's output."""
    response = row.get("response")
    if not isinstance(response, Mapping):
        return _failure(row.get("error"), "", clean)
    status, body = response.get("status_code"), response.get("body")
    if status != 200:
        error = body.get("error") if isinstance(body, Mapping) else None
        return _failure(error or row.get("error") or body, f"HTTP {status}: ", clean)
    if not isinstance(body, Mapping) or "choices" not in body:
        return Failure(f"expected a chat completion, got {clean(body)!r}", "http")
    request = Request(
        messages=(),
        prompt_id=parts["prompt_id"],
        schema=parts["schema"],
        choices=tuple(parts["choices"]),
    )
    spent = add_usage(Usage(), body.get("usage"))
    identity = response.get("request_id")
    request_id = identity if isinstance(identity, str) else None
    result = read_reply(body, request, spent, request_id, clean)
    # A single request would be repeated with a correction; a batch cannot.
    return Failure(result.reason, "parse", spent) if isinstance(result, InvalidReply) else result


def _failure(error: Any, prefix: str, clean: Callable[[Any], str]) -> Failure:
    """Returns the failure for a line's error; `prefix` precedes the server's message."""
    fields = error if isinstance(error, Mapping) else {"message": error}
    code, message = str(fields.get("code") or ""), fields.get("message")
    reason = prefix + clean(message or code or "no reason given")
    if code == "batch_expired":
        return explain_missing("expired", "", 0)
    if code == "batch_cancelled":
        return explain_missing("cancelled", "", 0)
    if code in _UNSAFE:
        return Failure(f"refused by the endpoint's content filter: {reason}", "refusal")
    if code in _NO_FUNDS:
        return Failure(f"the account has nothing left to spend: {reason}", "budget")
    return Failure(reason, "http")


def first_reasons(results: Mapping[str, Result]) -> dict[str, str]:
    """Returns the first reason of each kind of failure."""
    reasons: dict[str, str] = {}
    for result in results.values():
        if isinstance(result, Failure):
            reasons.setdefault(result.kind, result.reason)
    return reasons
