"""Replies as they arrive: what lets a budget stop a run, and a cache keep what was paid for.

`ChatModel.answer` returns everything at the end. Backends here also have `stream`, which gives each
reply as soon as it is there and asks permission before each call; wrappers are built on it.
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

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Result = Reply | Failure
Admit = Callable[[Request], Failure | None]

_ROLES = ("system", "user", "assistant")
# Requests given at a time to a model that only has `answer`.
_CHUNK = 16


def always(_: Request) -> None:
    """Admit every request."""


class StreamingChat(ABC):
    """A chat model that gives replies as they arrive."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What changes an answer (see `visdiff.llm.ChatModel`)."""

    @property
    @abstractmethod
    def sees(self) -> bool:
        """Whether pictures may be in a message."""

    @abstractmethod
    def stream(
        self, requests: Sequence[Request], admit: Admit = always
    ) -> Iterator[tuple[int, Result]]:
        """Answer every request, each as soon as it can be.

        Args:
            requests: What is asked; all of it is checked before the first call.
            admit: Asked right before each call; what it returns stands in for the reply.

        Yields:
            Index of a request and its result, each index once, in any order. On an error or Ctrl-C
            the calls under way still come, and then it is raised.

        Raises:
            InputError: No request of this kind can work.
        """

    def check(self, requests: Sequence[Request]) -> None:
        """Find out, without asking the model anything, whether requests can be put to it.

        Raises:
            InputError: One cannot.
        """
        sees = bool(requests) and self.sees
        for request in requests:
            check_request(request, sees)

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Result]:
        """Answer every request, in order (see `visdiff.llm.ChatModel`)."""
        results: dict[int, Result] = {}
        with tqdm(
            total=len(requests),
            desc="replies",
            unit="reply",
            disable=not (progress and requests),
            file=sys.stderr,
        ) as bar:
            for index, result in self.stream(requests):
                results[index] = result
                bar.update()
        return [results[index] for index in range(len(requests))]


def check_request(request: Request, sees: bool) -> None:
    """Refuse a request that no model, or none without eyes, can answer.

    Raises:
        InputError: It has no message, an unknown role, pictures for a model that does not see, a
            schema that cannot be checked, choices beside a schema or too few of them, or a number
            out of range.
    """
    if not request.messages or not all(message.parts for message in request.messages):
        raise InputError(
            f"expected messages with text or pictures in request {request.prompt_id!r}, got an "
            "empty one: give every message a part."
        )
    for message in request.messages:
        if message.role not in _ROLES:
            raise InputError(
                f"expected the role {', '.join(_ROLES)} in request {request.prompt_id!r}, got "
                f"{message.role!r}: rename it."
            )
        if not sees and any(isinstance(part, Picture) for part in message.parts):
            raise InputError(
                f"expected text only in request {request.prompt_id!r}, since the model reads no "
                "pictures, got a picture: use a model with vision, or a method that works on "
                "captions."
            )
    if request.schema is not None and request.choices:
        raise InputError(
            f"expected a schema or choices in request {request.prompt_id!r}, got both: leave one "
            "out."
        )
    if request.schema is not None:
        validator(request.schema)
    if request.choices and len({choice.strip().casefold() for choice in request.choices}) < max(
        2, len(request.choices)
    ):
        raise InputError(
            f"expected two or more different choices in request {request.prompt_id!r}, got "
            f"{list(request.choices)}: choices differ in more than case and blanks."
        )
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InputError(
            f"expected max_tokens of at least 1 in request {request.prompt_id!r}, got "
            f"{request.max_tokens}: raise it, or leave it out."
        )
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        raise InputError(
            f"expected a temperature between 0 and 2 in request {request.prompt_id!r}, got "
            f"{request.temperature}: change it."
        )


def streamed(
    model: ChatModel, requests: Sequence[Request], admit: Admit = always
) -> Iterator[tuple[int, Result]]:
    """Stream from any chat model; one that only has `answer` is asked a few requests at a time."""
    if isinstance(model, StreamingChat):
        yield from model.stream(requests, admit)
        return
    for request in requests:
        check_request(request, model.sees)
    for start in range(0, len(requests), _CHUNK):
        asked: list[int] = []
        for index in range(start, min(start + _CHUNK, len(requests))):
            refused = admit(requests[index])
            if refused is None:
                asked.append(index)
            else:
                yield index, refused
        if not asked:
            continue
        results = model.answer([requests[index] for index in asked])
        if len(results) != len(asked):
            raise RuntimeError(
                f"{type(model).__name__} returned {len(results)} results for {len(asked)} requests"
            )
        yield from zip(asked, results, strict=True)


def concurrently(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    admit: Callable[[T], R | None],
    grace_s: float = 10.0,
) -> Iterator[tuple[int, R]]:
    """Map in threads, results as they come, no more than ``workers`` calls under way.

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
