"""Caching and budgets of chat models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from visdiff.cache import Cache
from visdiff.errors import CacheMissError, InputError
from visdiff.llm import Failure, Message, Picture, Reply, Request, Usage
from visdiff.llm.budget import BudgetedChat, Estimate, Ledger, Price, estimate
from visdiff.llm.cached import CachedChat
from visdiff.llm.scripted import ScriptedChat
from visdiff.llm.streaming import concurrently


def ask(text: str = "hello", *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), fields.pop("prompt_id", "test/1"), **fields)


def echo(request: Request) -> str | Failure:
    text = str(request.messages[-1].parts[0])
    return Failure("refused", "refusal", Usage(3, 0)) if text.startswith("bad") else f"re {text}"


class Plain:
    """A third-party chat model with `answer` only."""

    has_vision = False

    def __init__(self) -> None:
        self.identity = {"backend": "plain"}
        self.batch_sizes: list[int] = []

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        self.batch_sizes.append(len(requests))
        results = [echo(request) for request in requests]
        return [Reply(text=r) if isinstance(r, str) else r for r in results]


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    with Cache(tmp_path / "cache") as cache:
        yield cache


# The cache.


def test_a_reply_is_requested_once(cache: Cache) -> None:
    inner = ScriptedChat(echo)
    first = CachedChat(inner, cache).answer([ask("a"), ask("b")])
    second = CachedChat(inner, cache).answer([ask("b"), ask("a"), ask("c")])
    assert [r.text for r in second if isinstance(r, Reply)] == ["re b", "re a", "re c"]
    assert [r.cached for r in second if isinstance(r, Reply)] == [True, True, False]
    assert not any(r.cached for r in first if isinstance(r, Reply))
    assert len(inner.requests) == 3


def test_a_cached_reply_is_unchanged_except_for_its_cost(cache: Cache) -> None:
    reply = Reply(
        text='{"a": [1, 2.5, null]}',
        data={"a": [1, 2.5, None]},
        probabilities={"yes": 0.25, "no": 0.75},
        finish_reason="stop",
        model="m-2024",
        request_id="r1",
        usage=Usage(9, 4, 0.5),
    )
    model = CachedChat(ScriptedChat([reply]), cache)
    model.answer([ask()])
    (again,) = model.answer([ask()])
    assert again == Reply(**{**vars(reply), "usage": Usage(cost=0.0), "cached": True})


def test_a_failure_is_requested_again(cache: Cache) -> None:
    inner = ScriptedChat(["yes", Failure("refused", "refusal"), "yes"])
    inner.name = "one"
    model = CachedChat(inner, cache)
    kinds = [[type(r) for r in model.answer([ask("a"), ask("b")])] for _ in range(2)]
    assert kinds == [[Reply, Failure], [Reply, Reply]]


def test_equal_requests_are_sent_once_and_cost_once(cache: Cache) -> None:
    inner = ScriptedChat(echo)
    results = CachedChat(inner, cache).answer([ask("a"), ask("bad"), ask("a"), ask("bad")])
    assert len(inner.requests) == 2
    assert [getattr(r, "text", None) for r in results] == ["re a", None, "re a", None]
    assert [r.usage.prompt_tokens for r in results] == [1, 3, 0, 0]
    assert getattr(results[2], "cached", None) is True


DIFFERENT = {
    "text": ask("other"),
    "role": Request((Message("system", ("hello",)),), "test/1"),
    "split": ask("hel", "lo"),
    "picture": ask("hello", Picture(b"1")),
    "other picture": ask("hello", Picture(b"2")),
    "media type": ask("hello", Picture(b"1", "image/jpeg")),
    "prompt": ask(prompt_id="test/2"),
    "schema": ask(schema={"type": "string"}),
    "choices": ask(choices=("re hello", "no")),
    "order of choices": ask(choices=("no", "re hello")),
    "max_tokens": ask(max_tokens=8),
    "temperature": ask(temperature=0.0),
    "seed": ask(seed=0),
    "sample": ask(sample=1),
}


def test_all_fields_that_affect_a_reply_are_in_the_key(cache: Cache) -> None:
    inner = ScriptedChat(lambda request: '"x"' if request.schema else "re hello")
    requests = [ask(), *DIFFERENT.values()]
    CachedChat(inner, cache).answer(requests)
    assert len(inner.requests) == len(requests)
    CachedChat(ScriptedChat(lambda _: "x", name="another"), cache).answer([ask()])
    assert cache.stats()["entries"] == len(requests) + 1


def test_a_picture_is_identified_by_its_content(cache: Cache) -> None:
    inner = ScriptedChat(echo)
    model = CachedChat(inner, cache)
    model.answer([ask("a", Picture(b"same")), ask("a", Picture(b"sa" + b"me"))])
    assert len(inner.requests) == 1
    model.answer([ask("a", Picture(b"regenerated in place"))])
    assert len(inner.requests) == 2


def test_replies_before_an_error_are_cached(cache: Cache) -> None:
    lines: list[Any] = ["1", "2", InputError("Expected a key, got none: set it."), "3"]
    inner = ScriptedChat(lambda _: lines.pop(0))
    requests = [ask(text) for text in "abcd"]
    with pytest.raises(InputError, match="Expected a key"):
        CachedChat(inner, cache).answer(requests)
    assert cache.stats()["entries"] == 2
    lines[:] = ["3", "4"]
    results = CachedChat(inner, cache).answer(requests)
    assert [getattr(r, "text", None) for r in results] == ["1", "2", "3", "4"]


def test_replies_before_ctrl_c_are_cached(cache: Cache) -> None:
    lines: list[Any] = ["1", "2", KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        CachedChat(ScriptedChat(lambda _: lines.pop(0)), cache).answer([ask(t) for t in "abcd"])
    assert cache.stats()["entries"] == 2


def test_replay_needs_no_model_and_names_the_missing_reply(tmp_path: Path) -> None:
    CachedChat(ScriptedChat(echo), Cache(tmp_path)).answer([ask("a")])
    silent = ScriptedChat(lambda _: AssertionError("asked"))
    model = CachedChat(silent, Cache(tmp_path, "replay"))
    (reply,) = model.answer([ask("a")])
    assert isinstance(reply, Reply)
    assert reply.text == "re a"
    with pytest.raises(CacheMissError, match="Expected a cached reply"):
        model.answer([ask("new")])
    assert silent.requests == []


def test_no_key_is_needed_if_all_replies_are_cached(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visdiff.llm.openai import OpenAIChat

    model = OpenAIChat("gpt-4")
    stored = ScriptedChat(echo)
    monkeypatch.setattr(ScriptedChat, "identity", model.identity)
    CachedChat(stored, cache).answer([ask("a")])
    # No key is set: only a cached reply can come back.
    (reply,) = CachedChat(model, cache).answer([ask("a")])
    assert isinstance(reply, Reply)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        CachedChat(model, cache).answer([ask("a"), ask("b")])


@pytest.mark.parametrize("mode", ["off", "ro", "refresh"])
def test_other_modes(tmp_path: Path, mode: Any) -> None:
    CachedChat(ScriptedChat(echo), Cache(tmp_path)).answer([ask("a")])
    inner = ScriptedChat(echo)
    model = CachedChat(inner, Cache(tmp_path, mode))
    for _ in range(2):
        model.answer([ask("a"), ask("b")])
    assert len(inner.requests) == {"off": 4, "ro": 2, "refresh": 2}[mode]


def test_missing_returns_the_distinct_uncached_requests(cache: Cache) -> None:
    model = CachedChat(ScriptedChat(echo), cache)
    model.answer([ask("a")])
    assert model.missing([ask("a"), ask("b"), ask("b"), ask("c")]) == [ask("b"), ask("c")]


# Budgets.


@pytest.mark.parametrize("inside", [False, True], ids=["around-the-cache", "in-the-cache"])
def test_after_max_calls_nothing_is_sent_and_replies_are_kept(cache: Cache, inside: bool) -> None:
    inner, ledger = ScriptedChat(echo), Ledger(max_calls=3)
    if inside:
        model: Any = CachedChat(BudgetedChat(inner, ledger), cache)
    else:
        model = BudgetedChat(CachedChat(inner, cache), ledger)
    results = model.answer([ask(str(n)) for n in range(6)])
    assert [getattr(r, "text", None) or r.kind for r in results] == [
        "re 0",
        "re 1",
        "re 2",
        *["budget"] * 3,
    ]
    assert len(inner.requests) == 3
    assert ledger.spent
    assert ledger.to_dict()["failures"] == {"budget": 3}
    # The next run, with the same budget, resumes there.
    inner.requests.clear()
    BudgetedChat(CachedChat(inner, cache), Ledger(max_calls=3)).answer(
        [ask(str(n)) for n in range(6)]
    )
    assert [request.messages[0].parts[0] for request in inner.requests] == ["3", "4", "5"]


def test_cached_replies_need_no_call(cache: Cache) -> None:
    CachedChat(ScriptedChat(echo), cache).answer([ask("a"), ask("b")])
    ledger = Ledger(max_calls=1)
    model = BudgetedChat(CachedChat(ScriptedChat(echo), cache), ledger)
    results = model.answer([ask(text) for text in "abcd"])
    assert [type(r) for r in results] == [Reply, Reply, Reply, Failure]
    assert (ledger.calls, ledger.cached, ledger.replies) == (1, 2, 1)


def test_max_cost_is_not_exceeded() -> None:
    ledger = Ledger(max_cost=1.0)
    model = BudgetedChat(
        ScriptedChat(lambda _: Reply(text="x", usage=Usage(100_000, 10_000))),
        ledger,
        Price(prompt=1.0, completion=10.0),
    )
    results = model.answer([ask(str(n)) for n in range(9)])
    # Twenty cents each: five fit, and the sixth would not.
    assert [type(r) for r in results] == [Reply] * 5 + [Failure] * 4
    assert ledger.cost == pytest.approx(1.0)
    assert all(r.usage.cost == pytest.approx(0.2) for r in results if isinstance(r, Reply))
    assert {r.kind for r in results if isinstance(r, Failure)} == {"budget"}


def test_pending_calls_count_towards_the_limit() -> None:
    ledger = Ledger(max_cost=1.0)
    assert [ledger.admit(0.3) is None for _ in range(5)] == [True, True, True, False, False]
    ledger.record(Reply(text="x", usage=Usage(1, 1, 0.01)))
    ledger.settle()
    # Calls are cheaper than estimated.
    assert ledger.admit(0.3) is None


def test_cached_replies_do_not_lower_the_mean_cost() -> None:
    ledger = Ledger(max_cost=1.0)
    assert ledger.admit(0.1) is None
    ledger.record(Reply(text="x", usage=Usage(1, 1, 0.6)))
    ledger.settle()
    for _ in range(9):
        ledger.record(Reply(text="x", usage=Usage(cost=0.0), cached=True))
    assert isinstance(ledger.admit(0.1), Failure)
    assert (ledger.cached, ledger.replies, ledger.cost) == (9, 1, 0.6)


def test_an_endpoint_without_token_counts_is_not_free() -> None:
    ledger = Ledger(max_cost=1e-4)
    model = BudgetedChat(ScriptedChat(lambda _: Reply(text="x" * 40)), ledger, Price(1.0, 1.0))
    results = model.answer([ask("y" * 40 + str(n), max_tokens=10) for n in range(9)])
    assert isinstance(results[-1], Failure)
    assert 0 < ledger.cost <= 1e-4


def test_failures_are_priced() -> None:
    ledger = Ledger()
    BudgetedChat(ScriptedChat(echo), ledger, Price(1e6, 0.0)).answer([ask("a"), ask("bad")])
    assert (ledger.calls, ledger.replies, dict(ledger.failures)) == (2, 1, {"refusal": 1})
    assert (ledger.prompt_tokens, ledger.cost) == (4, 4.0)


def test_an_unknown_price_is_not_zero() -> None:
    ledger = Ledger()
    BudgetedChat(ScriptedChat(echo), ledger).answer([ask("a")])
    assert ledger.to_dict()["cost"] is None
    assert ledger.unpriced == 1
    with pytest.raises(InputError, match="Expected a price"):
        BudgetedChat(ScriptedChat(echo), Ledger(max_cost=1.0))


def test_one_ledger_serves_several_models() -> None:
    ledger = Ledger(max_calls=3)
    one, two = (BudgetedChat(ScriptedChat(echo), ledger) for _ in range(2))
    one.answer([ask("a"), ask("b")])
    assert [type(r) for r in two.answer([ask("c"), ask("d")])] == [Reply, Failure]


def test_a_stopped_run_leaves_no_pending_calls() -> None:
    ledger = Ledger(max_cost=1.0)
    lines: list[Any] = [Reply(text="x", usage=Usage(1, 1)), InputError("Expected a, got b: c.")]
    model = BudgetedChat(ScriptedChat(lambda _: lines.pop(0)), ledger, Price(1.0, 1.0))
    with pytest.raises(InputError):
        model.answer([ask("a"), ask("b"), ask("c")])
    assert ledger._pending == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ledger(max_calls=-1),
        lambda: Ledger(max_cost=float("nan")),
        lambda: Price(-1.0, 0.0),
        lambda: Price(0.0, float("inf")),
    ],
    ids=["calls", "cost", "negative", "infinite"],
)
def test_invalid_limits_and_prices_raise(make: Any) -> None:
    with pytest.raises(InputError, match="Expected"):
        make()


def test_estimates_count_tokens_and_cost() -> None:
    requests = [ask("x" * 400), ask("x" * 400, Picture(b"1"), max_tokens=50)]
    assert estimate(requests) == Estimate(2, 100 + 1100, 300 + 50, None)
    priced = estimate(requests, Price(1.0, 2.0), tokens_a_picture=800, tokens_a_reply=10)
    assert priced == Estimate(2, 1000, 20, 1040 / 1e6)
    assert estimate([]) == Estimate(0, 0, 0, None)


# Third-party models, and threads.


def test_wrappers_take_any_chat_model(cache: Cache) -> None:
    inner, ledger = Plain(), Ledger(max_calls=20)
    model = BudgetedChat(CachedChat(inner, cache), ledger)
    results = model.answer([ask(str(n)) for n in range(30)])
    assert [type(r) for r in results] == [Reply] * 20 + [Failure] * 10
    assert sum(inner.batch_sizes) == 20
    assert max(inner.batch_sizes) < 20
    with pytest.raises(InputError, match="model has no vision"):
        model.answer([ask("a", Picture(b"1"))])


def test_an_error_stops_new_calls_and_keeps_pending_ones() -> None:
    def work(n: int) -> int:
        if n == 5:
            raise InputError("Expected a, got b: c.")
        return n

    got: list[int] = []
    with pytest.raises(InputError):  # noqa: PT012
        for _, value in concurrently(work, range(1000), workers=4, admit=lambda _: None):
            got.append(value)
    assert set(range(5)) <= set(got)
    assert len(got) < 20


def test_a_consumer_that_stops_stops_the_calls() -> None:
    done: list[int] = []
    for index, _ in concurrently(
        lambda n: done.append(n) or n, range(1000), workers=2, admit=lambda _: None
    ):
        if index >= 5:
            break
    assert len(done) < 20
