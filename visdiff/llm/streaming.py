"""Chat models that yield replies as they arrive, so that budgets and caches can act on each.

`ChatModel.answer` returns all results at the end. The backends of this package also have `stream`,
which yields each reply as it arrives and calls a function before each call that may prevent it. The
budget and the cache are built on it.
"""

import logging
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from visdiff.errors import InputError
from visdiff.llm import ChatModel, Failure, Picture, Reply, Request
from visdiff.llm.structured import validator
from visdiff.progress import is_hidden

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Result = Reply | Failure
Admit = Callable[[Request], Failure | None]

_ROLES = ("system", "user", "assistant")
# Number of requests per call of a model that only has `answer`.
_CHUNK = 16


def admit_all(_: Request) -> None:
    """Admits every request."""


class StreamingChat(ABC):
    """A chat model that yields replies as they arrive."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Everything that affects a reply (see `visdiff.llm.ChatModel`)."""

    @property
    @abstractmethod
    def has_vision(self) -> bool:
        """Whether the model accepts images."""

    @abstractmethod
    def stream(
        self, requests: Sequence[Request], admit: Admit = admit_all
    ) -> Iterator[tuple[int, Result]]:
        """Yields a result for every request, each as soon as it is available.

        Args:
            requests: The requests; all are checked before the first call.
            admit: Called right before each call; a failure that it returns replaces the call.

        Yields:
            Index of a request and its result, each index once, in any order. After an error or
            Ctrl-C, the results of the pending calls are yielded before the error is raised.

        Raises:
            InputError: No such request can succeed.
        """

    def check(self, requests: Sequence[Request]) -> None:
        """Checks that the model can answer the requests, without calling it.

        Raises:
            InputError: It cannot answer one of them.
        """
        has_vision = bool(requests) and self.has_vision
        for request in requests:
            check_request(request, has_vision)

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Result]:
        """Returns one result per request, in order (see `visdiff.llm.ChatModel`)."""
        results: dict[int, Result] = {}
        with tqdm(
            total=len(requests),
            desc="replies",
            unit="reply",
            disable=is_hidden(progress and bool(requests)),
            file=sys.stderr,
        ) as bar:
            for index, result in self.stream(requests):
                results[index] = result
                bar.update()
        return [results[index] for index in range(len(requests))]


def check_request(request: Request, has_vision: bool) -> None:
    """Raises an error for a request that the model cannot answer.

    Args:
        request: The request.
        has_vision: Whether the model accepts images.

    Raises:
        InputError: The request has no message, an unknown role, images for a model without vision,
            an unsupported schema, both a schema and choices, too few choices, or a number out of
            range.
    """
    if not request.messages or not all(message.parts for message in request.messages):
        raise InputError(
            f"Expected messages with text or pictures in request {request.prompt_id!r}, got an "
            "empty one; give every message a part."
        )
    for message in request.messages:
        if message.role not in _ROLES:
            raise InputError(
                f"Expected the role {', '.join(_ROLES)} in request {request.prompt_id!r}, got "
                f"{message.role!r}; rename it."
            )
        if not has_vision and any(isinstance(part, Picture) for part in message.parts):
            raise InputError(
                f"Expected text only in request {request.prompt_id!r}, since the model has no "
                "vision, got an image; use a model with vision, or a method that works on "
                "captions."
            )
    if request.schema is not None and request.choices:
        raise InputError(
            f"Expected a schema or choices in request {request.prompt_id!r}, got both; leave one "
            "out."
        )
    if request.schema is not None:
        validator(request.schema)
    if request.choices and len({choice.strip().casefold() for choice in request.choices}) < max(
        2, len(request.choices)
    ):
        raise InputError(
            f"Expected two or more different choices in request {request.prompt_id!r}, got "
            f"{list(request.choices)}; let choices differ in more than case and blanks."
        )
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InputError(
            f"Expected max_tokens of at least 1 in request {request.prompt_id!r}, got "
            f"{request.max_tokens}; raise it, or leave it out."
        )
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        raise InputError(
            f"Expected a temperature between 0 and 2 in request {request.prompt_id!r}, got "
            f"{request.temperature}; change it."
        )


def stream_replies(
    model: ChatModel, requests: Sequence[Request], admit: Admit = admit_all
) -> Iterator[tuple[int, Result]]:
    """Yields results of any chat model; one with only `answer` gets a few requests at a time."""
    if isinstance(model, StreamingChat):
        yield from model.stream(requests, admit)
        return
    for request in requests:
        check_request(request, model.has_vision)
    for start in range(0, len(requests), _CHUNK):
        sent: list[int] = []
        for index in range(start, min(start + _CHUNK, len(requests))):
            refused = admit(requests[index])
            if refused is None:
                sent.append(index)
            else:
                yield index, refused
        if not sent:
            continue
        results = model.answer([requests[index] for index in sent])
        if len(results) != len(sent):
            raise RuntimeError(
                f"Expected {len(sent)} results from {type(model).__name__}, got {len(results)}; "
                "return one result per request."
            )
        yield from zip(sent, results, strict=True)


def concurrently(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    admit: Callable[[T], R | None],
    grace_s: float = 10.0,
) -> Iterator[tuple[int, R]]:
    """Maps in threads, results as they come, no more than ``workers`` calls under way.

    The first exception, and Ctrl-C, end the submission; the calls under way are waited for (after
    Ctrl-C for ``grace_s`` at most, or until it is pressed again), their results given, and then it
    is raised.

    Args:
        function: Called in a worker thread.
        items: Its arguments.
        workers: Most calls at a time.
        admit: Called in this thread right before a call; what it returns, unless None, is the
            result, and no call is made.
        grace_s: Seconds.

    Yields:
        Index of an item and its result.
    """
    todo: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while (item := todo.get()) is not None:
            try:
                done.put((item[0], function(item[1]), None))
            except BaseException as error:
                done.put((item[0], None, error))

    # Daemons: what is still waiting for a server must not keep the interpreter from exiting.
    threads = [
        threading.Thread(target=work, name=f"visdiff-llm-{number}", daemon=True)
        for number in range(min(workers, len(items)))
    ]
    for thread in threads:
        thread.start()
    upcoming = iter(enumerate(items))
    refused: list[tuple[int, R]] = []
    pending, stop, deadline = 0, None, float("inf")
    try:
        while True:
            found: tuple[int, R | None, BaseException | None] | None = None
            try:
                while stop is None and pending < workers and not refused:
                    item = next(upcoming, None)
                    if item is None:
                        break
                    instead = admit(item[1])
                    if instead is None:
                        pending += 1
                        todo.put(item)
                    else:
                        refused.append((item[0], instead))
                if not refused and pending:
                    # In short waits: an endless one cannot be interrupted on every system.
                    found = done.get(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() < deadline:
                    continue
                break
            except KeyboardInterrupt as interrupt:
                if isinstance(stop, KeyboardInterrupt):
                    raise
                stop, deadline = interrupt, time.monotonic() + grace_s
                logger.warning("interrupted; waiting for %d calls under way", pending)
                continue
            if refused:
                yield refused.pop()
            elif found is None:
                break
            else:
                pending -= 1
                index, result, error = found
                if error is None:
                    yield index, result  # type: ignore[misc]
                elif stop is None:
                    stop = error
    finally:
        for _ in threads:
            todo.put(None)
    if stop is not None:
        raise stop
