"""Submitting requests as batches, and collecting the replies into the cache.

Both can be interrupted at any point and repeated at any time. Requests with a cached reply, or in a
batch that is not collected yet, are not submitted. Requests that a batch failed to answer can be
submitted again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visdiff.batch.state import BatchState, Entry
from visdiff.cache import Cache
from visdiff.errors import InputError, VisdiffError
from visdiff.llm import Failure, Reply, Request
from visdiff.llm.batch import (
    MAX_BYTES,
    MAX_REQUESTS,
    BatchResults,
    explain_missing,
    first_reasons,
    read_results,
    request_key,
    split_lines,
    store_replies,
    write_lines,
)
from visdiff.llm.batch_openai import ENDED, BatchChat
from visdiff.llm.cached import CachedChat
from visdiff.llm.streaming import Result, check_request


@dataclass(frozen=True)
class Plan:
    """The number of requests that a submission would send.

    Attributes:
        fresh: Requests to submit and pay for, by key.
        distinct: Number of distinct requests.
        cached: Number of requests with a cached reply.
        submitted: Number of requests in batches that are not collected yet.
    """

    fresh: dict[str, Request]
    distinct: int
    cached: int
    submitted: int


@dataclass(frozen=True)
class Submitted:
    """The result of a submission.

    Attributes:
        batches: Ids of the new batches.
        requests: Number of requests in them.
        answered: Number of requests that were sent directly, to test the endpoint: 0 or 1.
        adopted: Ids of batches that an earlier, interrupted run had started.
    """

    batches: tuple[str, ...]
    requests: int
    answered: int
    adopted: tuple[str, ...]


@dataclass
class Collected:
    """The result of a collection.

    Attributes:
        replies: Number of replies that were added to the cache.
        failures: Number of requests without a reply, by kind; they can be submitted again.
        reasons: The first reason of each kind.
        pending: Number of requests in batches that have not ended or cannot be collected now.
        unknown: Number of result lines that belong to no request.
        unreadable: Number of truncated result lines.
        prompt_tokens: Number of prompt tokens in the collected batches.
        completion_tokens: Number of completion tokens in the collected batches.
        sentences: One sentence per batch.
    """

    replies: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    pending: int = 0
    unknown: int = 0
    unreadable: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sentences: list[str] = field(default_factory=list)


def plan(model: BatchChat, requests: Sequence[Request], cache: Cache, state: BatchState) -> Plan:
    """Counts the requests that a submission would send, without a call and without a key.

    Raises:
        InputError: A request is not valid for the model.
        CacheMissError: The cache is in replay mode and lacks a reply.
    """
    for request in requests:
        check_request(request, model.has_vision)
    identity, pending = model.identity, state.pending_keys()
    distinct = len({request_key(identity, request) for request in requests})
    missing = {request_key(identity, r): r for r in CachedChat(model, cache).missing(requests)}
    fresh = {name: request for name, request in missing.items() if name not in pending}
    return Plan(fresh, distinct, distinct - len(missing), len(missing) - len(fresh))


def submit(
    model: BatchChat,
    requests: Sequence[Request],
    cache: Cache,
    folder: Path,
    *,
    try_out: bool = True,
    max_requests: int = MAX_REQUESTS,
    max_bytes: int = MAX_BYTES,
) -> Submitted:
    """Submits the requests that are neither cached nor submitted yet.

    Args:
        model: The chat model.
        requests: The requests; they may include earlier ones.
        cache: Cache of replies.
        folder: Folder with the state of submitted batches.
        try_out: Whether to send the first request directly; see `BatchChat.probe`.
        max_requests: Maximum number of requests per batch.
        max_bytes: Maximum size of a batch's file in bytes.

    Raises:
        InputError: A request is not valid for the model, or the endpoint does not support batches,
            does not accept the key or does not have the model.
        VisdiffError: The endpoint is not available now. Batches submitted before are stored.
    """
    with BatchState.locked(folder) as state:
        adopted = _adopt(model, state)
        fresh = plan(model, requests, cache, state).fresh
        model.check(list(fresh.values()))
        answered = 0
        if fresh and try_out:
            name = next(iter(fresh))
            if model.probe(fresh[name], cache):
                del fresh[name]
                answered = 1
        written = write_lines(model.identity, fresh.values(), model.parameters)
        batches: list[str] = []
        for batch in split_lines(written, max_requests, max_bytes):
            entry = state.plan(model.endpoint, model.model, batch)
            entry.batch = model.create(entry.name, b"".join(line.data for line in batch))
            entry.status = "submitted"
            state.write()
            batches.append(entry.batch)
    return Submitted(tuple(batches), len(fresh), answered, tuple(adopted))


def collect(
    connect: Callable[[str], BatchChat], cache: Cache, folder: Path, *, again: bool = False
) -> Collected:
    """Puts the replies of all batches that have ended into the cache.

    Args:
        connect: Function from a model's name to the chat model at the configured endpoint. Batches
            of other endpoints are skipped, so that no key is sent to an address from a file.
        cache: Cache of replies.
        folder: Folder with the state of submitted batches.
        again: Whether to collect batches that were collected before too, after a cache was lost.

    Raises:
        InputError: The endpoint does not accept the key or is not reachable, or the cache cannot be
            written.
    """
    found = Collected()
    models: dict[str, BatchChat] = {}
    with BatchState.locked(folder) as state:
        for entry in list(state.entries):
            if entry.status == "collected" and not again:
                continue
            model = models.get(entry.model) or models.setdefault(entry.model, connect(entry.model))
            if model.endpoint != entry.endpoint:
                found.pending += len(entry.keys)
                found.sentences.append(
                    f"{_label(entry)} is at {entry.endpoint}, not at {model.endpoint}; set "
                    "base_url to collect it."
                )
                continue
            try:
                _collect(model, entry, state, cache, found)
            except InputError:
                raise
            except VisdiffError as error:
                found.pending += len(entry.keys)
                found.sentences.append(f"{_label(entry)}: {str(error).rstrip('.')}.")
    return found


def forget(folder: Path, batch: str) -> int:
    """Removes a batch from the state, so that its requests can be submitted (and paid for) again.

    Returns:
        Number of its requests.

    Raises:
        InputError: The batch does not exist.
    """
    with BatchState.locked(folder) as state:
        for entry in state.entries:
            if batch in (entry.batch, entry.name):
                state.drop(entry)
                return len(entry.keys)
        known = ", ".join(one.batch or one.name for one in state.entries) or "none"
    raise InputError(
        f"Expected one of the batches in {folder} ({known}), got {batch!r}; choose one of them."
    )


def _adopt(model: BatchChat, state: BatchState) -> list[str]:
    """Adopts or drops the batches that an interrupted run planned; returns the adopted ids."""
    adopted = []
    for entry in list(state.entries):
        if entry.status == "planned" and entry.endpoint == model.endpoint:
            if _find_on_server(model, entry, state):
                adopted.append(str(entry.batch))
            else:
                state.drop(entry)
    return adopted


def _find_on_server(model: BatchChat, entry: Entry, state: BatchState) -> bool:
    entry.batch = model.find(entry.name, entry.created)
    if entry.batch is None:
        return False
    entry.status = "submitted"
    state.write()
    return True


def _collect(
    model: BatchChat, entry: Entry, state: BatchState, cache: Cache, found: Collected
) -> None:
    if entry.batch is None and not _find_on_server(model, entry, state):
        state.drop(entry)
        found.sentences.append(
            f"A batch of {len(entry.keys)} requests never reached {entry.endpoint}; submit it "
            "again."
        )
        return
    batch = model.retrieve(str(entry.batch))
    if batch.status not in ENDED:
        counts = batch.request_counts
        done = f", {counts.completed + counts.failed} done" if counts else ""
        found.pending += len(entry.keys)
        found.sentences.append(
            f"{_label(entry)} is {batch.status.replace('_', ' ')} ({len(entry.keys)} requests"
            f"{done}); collect again later."
        )
        return
    parts = state.parts(entry)
    answers = read_results(model.contents(batch), parts, model.clean)
    errors = batch.errors.data if batch.errors and batch.errors.data else []
    reason = model.clean(errors[0].message or errors[0].code or "") if errors else ""
    no_answer = explain_missing(batch.status, reason, answers.unreadable)
    results = {name: answers.results.get(name, no_answer) for name in entry.keys}
    replies = store_replies(cache, parts, results)
    failures = Counter(r.kind for r in results.values() if isinstance(r, Failure))
    entry.status, entry.replies, entry.failures = "collected", replies, dict(failures)
    state.write()
    found.replies += replies
    found.failures += failures
    found.reasons = {**first_reasons(results), **found.reasons}
    found.unknown += answers.unknown
    found.unreadable += answers.unreadable
    found.prompt_tokens += sum(r.usage.prompt_tokens for r in results.values())
    found.completion_tokens += sum(r.usage.completion_tokens for r in results.values())
    found.sentences.append(_sentence(entry, batch.status, results, answers))


def _sentence(entry: Entry, status: str, results: dict[str, Result], answers: BatchResults) -> str:
    replies = sum(isinstance(result, Reply) for result in results.values())
    verb = "was" if status == "cancelled" else "has"
    parts = [f"{replies} of {len(results)} requests are answered"]
    failed = len(results) - replies
    if failed:
        kinds = Counter(result.reason for result in results.values() if isinstance(result, Failure))
        reason, count = kinds.most_common(1)[0]
        parts.append(f"{failed} failed ({count} × {reason}); submit them again, at new cost")
    if answers.unreadable:
        parts.append(
            f"unreadable lines in its results: {answers.unreadable} (collect with --again to "
            "download them again, at no cost)"
        )
    if answers.unknown:
        parts.append(f"ignored lines for requests that are not in it: {answers.unknown}")
    return f"{_label(entry)} {verb} {status}: {', '.join(parts)}."


def _label(entry: Entry) -> str:
    return f"Batch {entry.batch or entry.name}"
