"""What a run may spend on chat models, what it has spent, and what it would spend.

Prices change weekly and differ by contract: they are the user's to give, and there is no table of
them here.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visdiff.errors import InputError
from visdiff.llm import ChatModel, Failure, Picture, Reply, Request, Usage
from visdiff.llm.streaming import Admit, Result, StreamingChat, always, streamed

# English text; other languages and code take more tokens a character, and bytes follow them.
_BYTES_A_TOKEN = 4
_TOKENS_A_PICTURE = 1000
_TOKENS_A_REPLY = 300


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens.

    Attributes:
        prompt: Of what is sent.
        completion: Of what is answered.
    """

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        for value in (self.prompt, self.completion):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"expected a price of at least 0 US dollars a million tokens, got {value}: "
                    "change it."
                )

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of tokens in US dollars."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Estimate:
    """What requests would take, roughly.

    Attributes:
        calls: Number of requests.
        prompt_tokens: About four bytes of text each, and a round number a picture.
        completion_tokens: As long as replies may be, else a round number each.
        cost: US dollars; None where no price is given.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def estimate(
    requests: Sequence[Request],
    price: Price | None = None,
    *,
    tokens_a_picture: int = _TOKENS_A_PICTURE,
    tokens_a_reply: int = _TOKENS_A_REPLY,
) -> Estimate:
    """Estimate what requests would take.

    Args:
        requests: Those not cached: `CachedChat.missing` tells which.
        price: Of the model.
        tokens_a_picture: Models differ between 85 and 3,000, with the size of the picture.
        tokens_a_reply: For requests without ``max_tokens``, and at most for the others.
    """
    prompt = sum(_prompt_tokens(request, tokens_a_picture) for request in requests)
    completion = sum(min(r.max_tokens or tokens_a_reply, tokens_a_reply) for r in requests)
    cost = None if price is None else price.of(prompt, completion)
    return Estimate(len(requests), prompt, completion, cost)


class Ledger:
    """Counts what the chat models of a run have spent, and says when it is enough.

    One ledger serves all models of a run; several threads may use it.

    Args:
        max_calls: Most requests put to models; what the cache answers is none.
        max_cost: US dollars, for models whose price is known. Calls under way count with what calls
            cost so far, so that the limit is passed by little, if at all.

    Attributes:
        calls: Requests put to models.
        replies: Answers that were paid for.
        cached: Answers from the cache, and repeats of a request.
        failures: Number of failures by kind.
        prompt_tokens: Sent, failures included.
        completion_tokens: Received, failures included.
        cost: US dollars, of those calls whose price is known.
        unpriced: Calls that took tokens at a price that is not known.
    """

    def __init__(self, max_calls: int | None = None, max_cost: float | None = None) -> None:
        if max_calls is not None and max_calls < 0:
            raise InputError(f"expected max_calls of at least 0, got {max_calls}: change it.")
        if max_cost is not None and not max_cost >= 0:
            raise InputError(f"expected max_cost of at least 0, got {max_cost}: change it.")
        self.max_calls = max_calls
        self.max_cost = max_cost
        self.calls = 0
        self.replies = 0
        self.cached = 0
        self.failures: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost = 0.0
        self.unpriced = 0
        self._priced = 0
        self._under_way: list[float] = []
        self._lock = threading.Lock()

    @property
    def spent(self) -> bool:
        """Whether a limit has turned requests away."""
        return self.failures["budget"] > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and limits, as JSON, for the report."""
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

    def admit(self, expected: float = 0.0) -> Failure | None:
        """Let a call pass, or say why not.

        Args:
            expected: What it may cost in US dollars; known better once calls have been paid for.
        """
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                return Failure(f"not asked: max_calls={self.max_calls} is spent", "budget")
            if self.max_cost is not None:
                each = self.cost / self._priced if self._priced else None
                ahead = [each if each is not None else one for one in self._under_way]
                if self.cost + sum(ahead) + (expected if each is None else each) > self.max_cost:
                    return Failure(
                        f"not asked: max_cost={self.max_cost:g} US dollars is spent, or would be "
                        "by one more call",
                        "budget",
                    )
            self.calls += 1
            self._under_way.append(expected)
            return None

    def record(self, result: Result) -> None:
        """Count a result."""
        with self._lock:
            if isinstance(result, Failure):
                self.failures[result.kind] += 1
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
        """Say that calls are no longer under way."""
        with self._lock:
            del self._under_way[:calls]


class BudgetedChat(StreamingChat):
    """Keeps a ledger of a chat model, and stops when it says so.

    What is not asked any more is a failure of kind "budget"; everything obtained is kept. Put it
    around the cache (``BudgetedChat(CachedChat(model, cache), ledger)``): what is cached is then
    counted, and costs nothing.

    Args:
        model: The model behind it.
        ledger: Of the run.
        price: Of the model's tokens; None where it is not known.

    Raises:
        InputError: The ledger has a limit on cost, and there is no price.
    """

    def __init__(self, model: ChatModel, ledger: Ledger, price: Price | None = None) -> None:
        if ledger.max_cost is not None and price is None:
            raise InputError(
                "expected a price for the model, since there is a limit on cost, got none: give "
                "the price of a million tokens, or limit the calls instead."
            )
        self.model = model
        self.ledger = ledger
        self.price = price

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the model behind it."""
        return self.model.identity

    @property
    def sees(self) -> bool:
        """What the model behind it says."""
        return self.model.sees

    def check(self, requests: Sequence[Request]) -> None:
        """Find out whether requests can be put to the model behind it.

        Raises:
            InputError: One cannot.
        """
        if isinstance(self.model, StreamingChat):
            self.model.check(requests)
        else:
            super().check(requests)

    def stream(
        self, requests: Sequence[Request], admit: Admit = always
    ) -> Iterator[tuple[int, Result]]:
        """Answer requests until the budget is spent.

        Raises:
            InputError: The model behind it cannot answer such requests.
        """
        under_way = 0

        def admitted(request: Request) -> Failure | None:
            nonlocal under_way
            refused = admit(request)
            if refused is None:
                refused = self.ledger.admit(self._expected(request))
                under_way += refused is None
            return refused

        results = streamed(self.model, requests, admitted)
        try:
            for index, result in results:
                priced = self._priced(requests[index], result)
                self.ledger.record(priced)
                if under_way and not _free(result):
                    under_way -= 1
                    self.ledger.settle()
                yield index, priced
        finally:
            self.ledger.settle(under_way)

    def _expected(self, request: Request) -> float:
        if self.price is None:
            return 0.0
        tokens = _prompt_tokens(request, _TOKENS_A_PICTURE)
        return self.price.of(tokens, min(request.max_tokens or _TOKENS_A_REPLY, _TOKENS_A_REPLY))

    def _priced(self, request: Request, result: Result) -> Result:
        usage = result.usage
        if self.price is None or usage.cost is not None:
            return result
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if not prompt + completion and isinstance(result, Reply):
            # An endpoint that does not count tokens must not look free.
            prompt = _prompt_tokens(request, _TOKENS_A_PICTURE)
            completion = _text_tokens(result.text)
        if not prompt + completion:
            return result
        cost = self.price.of(prompt, completion)
        return replace(result, usage=Usage(prompt, completion, cost))


def _free(result: Result) -> bool:
    """Say whether there was no call behind a result."""
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
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN)
