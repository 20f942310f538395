"""Submit requests as batches, and collect the replies into the cache.

Both may be run again at any time, and killed at any point. What is in the cache, or in a batch that
is not collected yet, is not submitted; what a batch failed to answer is free to be submitted again.
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
    """What submitting requests would come to.

    Attributes:
        fresh: Requests to be paid for, by key.
        distinct: Number of different requests.
        cached: Those whose replies are in the cache.
        submitted: Those in batches that are not collected yet.
    """

    fresh: dict[str, Request]
    distinct: int
    cached: int
    submitted: int


@dataclass(frozen=True)
class Submitted:
    """What was submitted.

    Attributes:
        batches: Ids of the new batches.
        requests: Number of requests in them.
        answered: Requests that were asked alone, to learn what the endpoint takes: 0 or 1.
        adopted: Ids of batches that an earlier, killed run had started.
    """

    batches: tuple[str, ...]
    requests: int
    answered: int
    adopted: tuple[str, ...]


@dataclass
class Collected:
    """What was collected.

    Attributes:
        replies: Replies that are now in the cache.
        failures: Number of requests without one, by kind; submitting again asks for them again.
        reasons: The first reason of each kind.
        pending: Requests in batches that have not ended, or cannot be collected now.
        unknown: Lines of results about requests of no batch.
        unreadable: Lines of results that are cut off.
        prompt_tokens: Of what was collected.
        completion_tokens: Of what was collected.
        sentences: One a batch.
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
    """Find out what is to be paid for, without a call and without a key.

    Raises:
        InputError: A request cannot be put to the model.
        CacheMissError: The cache replays and lacks a reply.
    """
    for request in requests:
        check_request(request, model.has_vision)
    identity, held = model.identity, state.held()
    distinct = len({request_key(identity, request) for request in requests})
    missing = {request_key(identity, r): r for r in CachedChat(model, cache).missing(requests)}
    fresh = {name: request for name, request in missing.items() if name not in held}
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
    """Submit what is neither cached nor submitted.

    Args:
        model: Whom to ask.
        requests: Any; the same may be given again.
        cache: Where replies are kept.
        folder: Where submitted batches are remembered.
        try_out: Ask the first request alone, in the ordinary way; see `BatchChat.probe`.
        max_requests: Most requests of a batch.
        max_bytes: Longest file of a batch.

    Raises:
        InputError: A request cannot be put to the model, or the endpoint has no batches, does not
            take the key or does not know the model.
        VisdiffError: The endpoint does not work now. Batches submitted before that are remembered.
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
    """Put the replies of all batches that have ended into the cache.

    Args:
        connect: Makes the chat model of a name, at the endpoint that may be asked. Batches of
            another endpoint are left alone: its address stands in a file, and gets no key.
        cache: Where replies are kept.
        folder: Where submitted batches are remembered.
        again: Also collect what has been collected before: for a cache that was lost.

    Raises:
        InputError: The endpoint does not take the key, or nobody listens there; or the cache does
            not write.
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
                    f"{_called(entry)} is at {entry.endpoint}, not at {model.endpoint}: set "
                    "base_url to collect it."
                )
                continue
            try:
                _collect(model, entry, state, cache, found)
            except InputError:
                raise
            except VisdiffError as error:
                found.pending += len(entry.keys)
                found.sentences.append(f"{_called(entry)}: {str(error).rstrip('.')}.")
    return found


def forget(folder: Path, batch: str) -> int:
    """Give a batch up: what it would answer is free to be submitted, and paid for, again.

    Returns:
        Number of its requests.

    Raises:
        InputError: There is no such batch.
    """
    with BatchState.locked(folder) as state:
        for entry in state.entries:
            if batch in (entry.batch, entry.name):
                state.drop(entry)
                return len(entry.keys)
        known = ", ".join(one.batch or one.name for one in state.entries) or "none"
    raise InputError(f"expected one of the batches in {folder} ({known}), got {batch!r}.")


def _adopt(model: BatchChat, state: BatchState) -> list[str]:
    """Deal with what a killed run planned: find out whether the server has it."""
    adopted = []
    for entry in list(state.entries):
        if entry.status == "planned" and entry.endpoint == model.endpoint:
            if _found(model, entry, state):
                adopted.append(str(entry.batch))
            else:
                state.drop(entry)
    return adopted


def _found(model: BatchChat, entry: Entry, state: BatchState) -> bool:
    entry.batch = model.find(entry.name, entry.created)
    if entry.batch is None:
        return False
    entry.status = "submitted"
    state.write()
    return True


def _collect(
    model: BatchChat, entry: Entry, state: BatchState, cache: Cache, found: Collected
) -> None:
    if entry.batch is None and not _found(model, entry, state):
        state.drop(entry)
        found.sentences.append(
            f"A batch of {len(entry.keys)} requests never reached {entry.endpoint}: submit again."
        )
        return
    batch = model.retrieve(str(entry.batch))
    if batch.status not in ENDED:
        counts = batch.request_counts
        done = f", {counts.completed + counts.failed} done" if counts else ""
        found.pending += len(entry.keys)
        found.sentences.append(
            f"{_called(entry)} is {batch.status.replace('_', ' ')} ({len(entry.keys)} requests"
            f"{done}): collect again later."
        )
        return
    parts = state.parts(entry)
    answers = read_results(model.contents(batch), parts, model.clean)
    errors = batch.errors.data if batch.errors and batch.errors.data else []
    said = model.clean(errors[0].message or errors[0].code or "") if errors else ""
    silent = explain_missing(batch.status, said, answers.unreadable)
    results = {name: answers.results.get(name, silent) for name in entry.keys}
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
    said = [f"{_called(entry)} {verb} {status}"]
    said.append(f"{replies} of {len(results)} requests are answered")
    failed = len(results) - replies
    if failed:
        kinds = Counter(result.reason for result in results.values() if isinstance(result, Failure))
        reason, count = kinds.most_common(1)[0]
        said.append(
            f"{failed} failed ({count} × {reason}); submit again to ask for them, at new cost"
        )
    if answers.unreadable:
        said.append(
            f"unreadable lines in its results: {answers.unreadable} (collect with --again to "
            "download them once more, at no cost)"
        )
    if answers.unknown:
        said.append(f"lines about requests that are not in it, not used: {answers.unknown}")
    return f"{said[0]}: {', '.join(said[1:])}."


def _called(entry: Entry) -> str:
    return f"Batch {entry.batch or entry.name}"
