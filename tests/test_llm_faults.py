"""Five hundred questions to a server on a bad day: nothing lost, nothing invented, all counted."""

import logging
import threading
from collections import Counter
from pathlib import Path

import pytest
from chatserver import Answer, Call, ChatServer, completion, error, says

from visdiff.cache import Cache
from visdiff.llm import Failure, Message, Reply, Request
from visdiff.llm.budget import BudgetedChat, Ledger, Price
from visdiff.llm.cached import CachedChat
from visdiff.llm.openai import OpenAIChat

N = 500
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}

# What happens to question n is decided by n alone: one of these every 25 questions, the first half
# once and then no more, the others always; the rest are answered at once.
PASSING = {
    1: error(429, "slow down", retry_after="0.02"),
    2: error(500, "oops"),
    3: error(503, "overloaded"),
    4: Answer(b'{"choices": [{"message": {"content": "{\\"n\\": 7'),
    5: says("I would rather talk about something else."),
    6: says('{"n": "a word"}'),
}
LASTING = {
    11: (error(500, "broken"), "http"),
    12: (Answer(b'{"choices": [{"message": {"content": "{\\"n\\": 7'), "http"),
    13: (says(None, refusal="I cannot help with that."), "refusal"),
    14: (Answer({**completion("x"), "choices": []}), "empty"),
    15: (says('{"n": "a word"}'), "parse"),
    16: (says("Happy to help! Which number do you mean?"), "parse"),
    17: (says('{"n": 1', finish="length"), "length"),
    18: (says('{"n": 1}', finish="content_filter"), "refusal"),
    19: (error(400, "this input is broken"), "http"),
}
# Once each: they cost a wait.
RARE = {137: "timeout", 262: "connection", 387: "slow start", 412: "hiccup"}


def number(call: Call) -> int:
    """Find which question a call asks; corrections and instructions come after it."""
    return int(call.text.split()[1])


class BadDay:
    """Misbehaves by what is asked, and by how often it has been asked."""

    def __init__(self) -> None:
        self._asked: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self, call: Call) -> Answer:
        if "temperature" in call.body:
            message = "temperature is not supported with this model"
            return error(400, message, param="temperature")
        n = number(call)
        with self._lock:
            self._asked[n] += 1
            attempt = self._asked[n]
        good = good_day(call)
        match RARE.get(n):
            case "timeout":
                return Answer(wait=20.0)
            case "connection":
                return Answer(reset=True)
            case "slow start":
                return good if attempt > 1 else Answer(wait=20.0)
            case "hiccup":
                return good if attempt > 2 else Answer(reset=True)
        if n % 25 in LASTING:
            return LASTING[n % 25][0]
        return PASSING[n % 25] if n % 25 in PASSING and attempt == 1 else good


def good_day(call: Call) -> Answer:
    return says(f'{{"n": {number(call)}}}', tokens=(100, 5))


def expected_kind(n: int) -> str | None:
    """Return how question n fails, or None."""
    if n in RARE:
        return RARE[n] if RARE[n] in ("timeout", "connection") else None
    return LASTING[n % 25][1] if n % 25 in LASTING else None


def test_no_reply_is_lost_and_none_is_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    caplog.set_level(logging.ERROR)
    requests = [
        Request(
            (Message("user", (f"Question {n} : which number?",)),),
            "count/1",
            schema=SCHEMA,
            temperature=0.0,
        )
        for n in range(N)
    ]
    failing = {n for n in range(N) if expected_kind(n)}
    price = Price(prompt=10.0, completion=100.0)

    with ChatServer(BadDay()) as server:

        def run() -> tuple[list[Reply | Failure], Ledger, int]:
            before = len(server.calls)
            ledger = Ledger()
            model = OpenAIChat("m", server.url, timeout=1.2, max_retries=2, concurrency=16)
            with Cache(tmp_path / "cache") as cache:
                chat = BudgetedChat(CachedChat(model, cache), ledger, price)
                return chat.answer(requests), ledger, len(server.calls) - before

        first, spent, _ = run()
        assert len(first) == N
        for n, result in enumerate(first):
            kind = expected_kind(n)
            if kind is None:
                assert isinstance(result, Reply), (n, result)
                assert result.data == {"n": n}
                assert not result.cached
            else:
                assert isinstance(result, Failure), (n, result)
                assert result.kind == kind, (n, result)
        assert spent.calls == N
        assert spent.replies == N - len(failing)
        assert spent.failures == Counter(expected_kind(n) for n in failing)
        # What was billed is what was counted, for failures as for replies, and at its price.
        billed = [c for c in first if c.usage.prompt_tokens]
        assert spent.prompt_tokens == sum(c.usage.prompt_tokens for c in billed)
        assert spent.cost == pytest.approx(
            price.of(spent.prompt_tokens, spent.completion_tokens), rel=1e-9
        )

        # A good day: the failures, and nothing else, are paid for.
        server.behave = good_day
        second, spent, calls = run()
        assert calls == spent.calls == spent.replies == len(failing)
        assert spent.prompt_tokens == 100 * len(failing)
        assert [r.data for r in second if isinstance(r, Reply)] == [{"n": n} for n in range(N)]
        assert [r.cached for r in second if isinstance(r, Reply)] == [
            n not in failing for n in range(N)
        ]

        # And then nothing is.
        third, spent, calls = run()
        assert (calls, spent.calls, spent.cost, spent.cached) == (0, 0, 0.0, N)
        assert [r.data for r in third if isinstance(r, Reply)] == [{"n": n} for n in range(N)]
