"""Budgets of chat models: estimated cost, actual cost, and limits.

Prices change often and depend on the contract, so the user sets them; there is no built-in table.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visdiff.errors import InputError
from visdiff.llm import ChatModel, Failure, Picture, Reply, Request, Usage
from visdiff.llm.streaming import Admit, Result, StreamingChat, admit_all, stream_replies

# For English text. Other languages and code take more tokens per character, but also more bytes.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_PICTURE = 1000
_TOKENS_PER_REPLY = 300
_MAX_REASONS = 100


@dataclass(frozen=True)
class Price:
    """A price in US dollars per million tokens.

    Attributes:
        prompt: Price of prompt tokens.
        completion: Price of completion tokens.
    """

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        for value in (self.prompt, self.completion):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"Expected a price of at least 0 US dollars a million tokens, got {value}; "
                    "change it."
                )

    def cost_of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Returns the cost in US dollars."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a number of requests.

    Attributes:
        calls: Number of requests.
        prompt_tokens: One per four bytes of text, and a fixed number per picture.
        completion_tokens: A fixed number per reply, at most the request's ``max_tokens``.
        cost: US dollars; None without a price.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def estimate(
    requests: Sequence[Request],
    price: Price | None = None,
    *,
    tokens_a_picture: int = _TOKENS_PER_PICTURE,
    tokens_a_reply: int = _TOKENS_PER_REPLY,
) -> Estimate:
    """Estimates the cost of requests.

    Args:
        requests: Requests without a cached reply (`CachedChat.missing`).
        price: Price of the model.
        tokens_a_picture: Between 85 and 3,000, depending on the model and the size of the picture.
        tokens_a_reply: Expected length of a reply; a smaller ``max_tokens`` takes precedence.
    """
    prompt = sum(_prompt_tokens(request, tokens_a_picture) for request in requests)
    completion = sum(min(r.max_tokens or tokens_a_reply, tokens_a_reply) for r in requests)
    cost = None if price is None else price.cost_of(prompt, completion)
    return Estimate(len(requests), prompt, completion, cost)


class Ledger:
    """A record of the calls, tokens and cost of a run, with limits.

    All models of a run share one ledger. It is thread-safe.

    Args:
        max_calls: Maximum number of calls; cached replies do not count.
        max_cost: Maximum cost in US dollars, for models with a known price. Pending calls count
            with the mean cost so far, so the limit is exceeded only slightly, if at all.

    Attributes:
        calls: Number of requests sent to models.
        replies: Number of paid replies.
        cached: Number of replies from the cache, repeated requests included.
        failures: Number of failures by kind.
        reasons: Number of failures by reason, for the first distinct ones.
        prompt_tokens: Prompt tokens, failures included.
        completion_tokens: Completion tokens, failures included.
        cost: US dollars of the calls with a known price.
        unpriced: Number of calls that used tokens at an unknown price.
    """

    def __init__(self, max_calls: int | None = None, max_cost: float | None = None) -> None:
        if max_calls is not None and max_calls < 0:
            raise InputError(f"Expected max_calls of at least 0, got {max_calls}; change it.")
        if max_cost is not None and not max_cost >= 0:
            raise InputError(f"Expected max_cost of at least 0, got {max_cost}; change it.")
        self.max_calls = max_calls
        self.max_cost = max_cost
        self.calls = 0
        self.replies = 0
        self.cached = 0
        self.failures: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost = 0.0
        self.unpriced = 0
        self._priced = 0
        self._pending: list[float] = []
        self._lock = threading.Lock()

    @property
    def spent(self) -> bool:
        """Whether requests were rejected because a limit was reached."""
        return self.failures["budget"] > 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts and limits as JSON, for the report."""
        with self._lock:
            return {
                "calls": self.calls,
                "replies": self.replies,
                "cached": self.cached,
                "failures": dict(sorted(self.failures.items())),
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "cost": None if self.unpriced and not self._priced else self.cost,
                "unpriced": self.unpriced,
                "max_calls": self.max_calls,
                "max_cost": self.max_cost,
            }

    def common_reason(self, before: Counter[str]) -> str:
        """Returns the most frequent reason of the failures since a copy of ``reasons``, or ""."""
        with self._lock:
            new = self.reasons - before
        return new.most_common(1)[0][0] if new else ""

    def admit(self, expected: float = 0.0) -> Failure | None:
        """Counts a call, or returns a failure if it would exceed a limit.

        Args:
            expected: Estimated cost in US dollars, used until the first priced reply.
        """
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                return Failure(f"not sent: max_calls={self.max_calls} is reached", "budget")
            if self.max_cost is not None:
                mean = self.cost / self._priced if self._priced else None
                pending = [one if mean is None else mean for one in self._pending]
                if self.cost + sum(pending) + (expected if mean is None else mean) > self.max_cost:
                    return Failure(
                        f"not sent: one more call would exceed max_cost={self.max_cost:g} US "
                        "dollars",
                        "budget",
                    )
            self.calls += 1
            self._pending.append(expected)
            return None

    def record(self, result: Result) -> None:
        """Counts a result."""
        with self._lock:
            if isinstance(result, Failure):
                self.failures[result.kind] += 1
                # A server may word every failure differently.
                if result.reason in self.reasons or len(self.reasons) < _MAX_REASONS:
                    self.reasons[result.reason] += 1
            elif result.cached:
                self.cached += 1
                return
            else:
                self.replies += 1
            usage = result.usage
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens
            if usage.cost is not None:
                self.cost += usage.cost
                self._priced += 1
            elif usage.prompt_tokens or usage.completion_tokens:
                self.unpriced += 1

    def settle(self, calls: int = 1) -> None:
        """Marks calls as no longer pending."""
        with self._lock:
            del self._pending[:calls]


class BudgetedChat(StreamingChat):
    """A chat model with a budget.

    Once a limit is reached, requests are not sent and become failures of kind "budget"; earlier
    replies are kept. Wrap the cached model (``BudgetedChat(CachedChat(model, cache), ledger)``), so
    that cached replies are counted and cost nothing.

    Args:
        model: The wrapped model.
        ledger: The ledger of the run.
        price: Price of the model's tokens; None if unknown.

    Raises:
        InputError: The ledger has a limit on cost, and there is no price.
    """

    def __init__(self, model: ChatModel, ledger: Ledger, price: Price | None = None) -> None:
        if ledger.max_cost is not None and price is None:
            raise InputError(
                "Expected a price for the model, since there is a limit on cost, got none; set "
                "the price per million tokens, or limit the calls instead."
            )
        self.model = model
        self.ledger = ledger
        self.price = price

    @property
    def identity(self) -> Mapping[str, Any]:
        """Identity of the wrapped model."""
        return self.model.identity

    @property
    def has_vision(self) -> bool:
        """Whether the wrapped model accepts images."""
        return self.model.has_vision

    def check(self, requests: Sequence[Request]) -> None:
        """Checks that the wrapped model can answer the requests, without calling it.

        Raises:
            InputError: It cannot answer one of them.
        """
        if isinstance(self.model, StreamingChat):
            self.model.check(requests)
        else:
            super().check(requests)

    def stream(
        self, requests: Sequence[Request], admit: Admit = admit_all
    ) -> Iterator[tuple[int, Result]]:
        """Yields results until the budget is spent; the remaining requests become failures.

        Raises:
            InputError: The wrapped model cannot answer such requests.
        """
        pending = 0

        def admit_call(request: Request) -> Failure | None:
            nonlocal pending
            refused = admit(request)
            if refused is None:
                refused = self.ledger.admit(self._expected(request))
                pending += refused is None
            return refused

        results = stream_replies(self.model, requests, admit_call)
        try:
            for index, result in results:
                priced = self._with_cost(requests[index], result)
                self.ledger.record(priced)
                if pending and not _is_free(result):
                    pending -= 1
                    self.ledger.settle()
                yield index, priced
        finally:
            self.ledger.settle(pending)

    def _expected(self, request: Request) -> float:
        if self.price is None:
            return 0.0
        tokens = _prompt_tokens(request, _TOKENS_PER_PICTURE)
        return self.price.cost_of(
            tokens, min(request.max_tokens or _TOKENS_PER_REPLY, _TOKENS_PER_REPLY)
        )

    def _with_cost(self, request: Request, result: Result) -> Result:
        usage = result.usage
        if self.price is None or usage.cost is not None:
            return result
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if not prompt + completion and isinstance(result, Reply):
            # An endpoint that does not report token counts must not appear free.
            prompt = _prompt_tokens(request, _TOKENS_PER_PICTURE)
            completion = _text_tokens(result.text)
        if not prompt + completion:
            return result
        cost = self.price.cost_of(prompt, completion)
        return replace(result, usage=Usage(prompt, completion, cost))


def _is_free(result: Result) -> bool:
    """Returns whether a result needed no call."""
    return result.cached if isinstance(result, Reply) else result.kind == "budget"


def _prompt_tokens(request: Request, tokens_a_picture: int) -> int:
    total = 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Picture):
                total += tokens_a_picture
            else:
                total += _text_tokens(part)
    return total


def _text_tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)
