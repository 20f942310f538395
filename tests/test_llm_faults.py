"""Five hundred requests to an unreliable server: no reply is lost or invented, all are counted."""

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

# The behaviour for question n depends on n modulo 25: transient faults occur once per question,
# permanent ones on every call; all other questions are answered at once.
TRANSIENT = {
    1: error(429, "slow down", retry_after="0.02"),
    2: error(500, "oops"),
    3: error(503, "overloaded"),
    4: Answer(b'{"choices": [{"message": {"content": "{\\"n\\": 7'),
    5: says("I would rather talk about something else."),
    6: says('{"n": "a word"}'),
}
PERMANENT = {
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
# Once each, since each of them takes time.
RARE = {137: "timeout", 262: "connection", 387: "slow start", 412: "hiccup"}


def number(call: Call) -> int:
    """Returns the number of the question; corrections and instructions come after it."""
    return int(call.text.split()[1])


class UnreliableServer:
    """A server whose faults depend on the question and on the number of attempts."""

    def __init__(self) -> None:
        self._attempts: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self, call: Call) -> Answer:
        if "temperature" in call.body:
            message = "temperature is not supported with this model"
            return error(400, message, param="temperature")
        n = number(call)
        with self._lock:
            self._attempts[n] += 1
            attempt = self._attempts[n]
        good = answer_all(call)
        match RARE.get(n):
            case "timeout":
                return Answer(wait=20.0)
            case "connection":
                return Answer(reset=True)
            case "slow start":
                return good if attempt > 1 else Answer(wait=20.0)
            case "hiccup":
                return good if attempt > 2 else Answer(reset=True)
        if n % 25 in PERMANENT:
            return PERMANENT[n % 25][0]
        return TRANSIENT[n % 25] if n % 25 in TRANSIENT and attempt == 1 else good


def answer_all(call: Call) -> Answer:
    return says(f'{{"n": {number(call)}}}', tokens=(100, 5))


def expected_kind(n: int) -> str | None:
    """Returns the expected kind of failure of question n, or None."""
    if n in RARE:
        return RARE[n] if RARE[n] in ("timeout", "connection") else None
    return PERMANENT[n % 25][1] if n % 25 in PERMANENT else None


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

    with ChatServer(UnreliableServer()) as server:

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
        # The ledger agrees with the usage of the results, failures included.
        billed = [c for c in first if c.usage.prompt_tokens]
        assert spent.prompt_tokens == sum(c.usage.prompt_tokens for c in billed)
        assert spent.cost == pytest.approx(
            price.cost_of(spent.prompt_tokens, spent.completion_tokens), rel=1e-9
        )

        # With a reliable server, only the failed requests are sent again.
        server.behave = answer_all
        second, spent, calls = run()
        assert calls == spent.calls == spent.replies == len(failing)
        assert spent.prompt_tokens == 100 * len(failing)
        assert [r.data for r in second if isinstance(r, Reply)] == [{"n": n} for n in range(N)]
        assert [r.cached for r in second if isinstance(r, Reply)] == [
            n not in failing for n in range(N)
        ]

        # A third run needs no call.
        third, spent, calls = run()
        assert (calls, spent.calls, spent.cost, spent.cached) == (0, 0, 0.0, N)
        assert [r.data for r in third if isinstance(r, Reply)] == [{"n": n} for n in range(N)]
