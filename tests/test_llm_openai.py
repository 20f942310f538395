"""The OpenAI client against servers with all kinds of faults."""

import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from chatserver import Answer, Call, ChatServer, alternatives, completion, error, says

from visdiff.errors import InputError
from visdiff.llm import Failure, Message, Picture, Reply, Request, Usage
from visdiff.llm.openai import OpenAIChat

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
PNG = Picture(b"\x89PNG not really")
Behave = Callable[[Call], Answer]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(text: str = "hello", *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), "test/1", **fields)


def chat(server: ChatServer, **fields: Any) -> OpenAIChat:
    settings = {"model": "m", "base_url": server.url, "timeout": 5.0, "max_retries": 2, **fields}
    return OpenAIChat(**settings)


def only(behave: Behave, request: Request | None = None, **fields: Any) -> tuple[Any, list[Call]]:
    """Sends one request; returns the result and the calls it needed."""
    with ChatServer(behave) as server:
        return chat(server, **fields).answer([request or ask()])[0], server.calls


def test_a_complete_reply() -> None:
    result, calls = only(lambda _: says("hi there"))
    assert result == Reply(
        text="hi there",
        finish_reason="stop",
        model="served-model",
        request_id="req-7",
        usage=Usage(10, 2),
    )
    assert [call.path for call in calls] == ["/v1/chat/completions"]
    # No defaults are sent, since reasoning models reject even those.
    assert set(calls[0].body) == {"model", "messages"}


def test_all_fields_of_a_request_are_sent() -> None:
    request = Request(
        (Message("system", ("Be brief.",)), Message("user", ("What?", PNG))),
        "test/1",
        max_tokens=7,
        temperature=0.5,
        seed=3,
        sample=2,
    )
    _, calls = only(lambda _: says("x"), request, detail="low")
    body = calls[0].body
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {
                    "type": "image_url",
                    "image_url": {
                        "url": "data:image/png;base64,iVBORyBub3QgcmVhbGx5",
                        "detail": "low",
                    },
                },
            ],
        },
    ]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (7, 0.5, 5)


@pytest.mark.parametrize(
    ("first", "tries"),
    [
        (error(429, "slow down", retry_after="0.05"), 2),
        (error(500, "oops"), 2),
        (error(503, "loading"), 2),
        (Answer(reset=True), 2),
        (Answer(completion("cut"), keep=20), 2),
        (Answer(b'{"choices": [{"mess'), 2),
        (Answer(b"<html>gateway</html>", headers={"Content-Type": "text/html"}), 2),
    ],
    ids=["429", "500", "503", "reset", "cut-on-the-wire", "cut-json", "html"],
)
def test_transient_errors_are_retried(first: Answer, tries: int) -> None:
    result, calls = only(lambda call: first if call.attempt == 1 else says("at last"))
    assert isinstance(result, Reply)
    assert result.text == "at last"
    assert len(calls) == tries


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (error(429, "slow down"), "http", 3),
        (error(500, "oops"), "http", 3),
        (error(418, "teapot"), "http", 1),
        (error(400, "cannot process image"), "http", 1),
        (error(400, "filtered", code="content_filter"), "refusal", 1),
        (error(403, "Your input was flagged by moderation"), "refusal", 1),
        (Answer(b'{"choices": [{"mess'), "http", 2),
        (Answer(b"[]"), "http", 2),
        (Answer(b"<html></html>", headers={"Content-Type": "text/html"}), "http", 2),
        (Answer({**completion("x"), "choices": []}), "empty", 1),
        (Answer({**completion("x"), "choices": None}), "empty", 1),
        (says(""), "empty", 1),
        (says(None), "empty", 1),
        (says(" \n"), "empty", 1),
        (says(None, finish="tool_calls"), "empty", 1),
        (says(None, refusal="I will not."), "refusal", 1),
        (says("partly", finish="content_filter"), "refusal", 1),
        (says("a stump", finish="length"), "length", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_permanent_errors_are_failures(answer: Answer, kind: str, tries: int) -> None:
    result, calls = only(lambda _: answer)
    assert isinstance(result, Failure), result
    assert (result.kind, len(calls)) == (kind, tries)
    assert result.reason


def test_timeouts_and_resets_are_failures_after_all_retries() -> None:
    def behave(call: Call) -> Answer:
        return Answer(reset=True) if "reset" in call.text else Answer(wait=4.0)

    with ChatServer(behave) as server:
        model = chat(server, timeout=1.5, max_retries=0)
        results = model.answer([ask("reset"), ask("silence")])
    assert [result.kind for result in results if isinstance(result, Failure)] == [
        "connection",
        "timeout",
    ]


def test_a_failure_reports_its_usage() -> None:
    result, _ = only(lambda _: says("x", finish="length", tokens=(30, 8)))
    assert result.usage == Usage(30, 8)
    assert "8 tokens" in result.reason


@pytest.mark.parametrize(
    ("answer", "request_", "match"),
    [
        (error(401, "Incorrect API key provided"), ask(), "OPENAI_API_KEY"),
        (error(403, "no access to this project"), ask(), "OPENAI_API_KEY"),
        (error(404, "The model 'm' does not exist", "model_not_found"), ask(), "serves model 'm'"),
        (error(400, "invalid model: m"), ask(), "serves model 'm'"),
        (
            error(400, "This model's maximum context length is 8 tokens, max_tokens 9"),
            ask(max_tokens=9),
            "fit the context",
        ),
        (error(400, "m is not a multimodal model"), ask("what?", PNG), "model with vision"),
        (error(500, "image input is not supported"), ask("what?", PNG), "model with vision"),
    ],
    ids=["401", "403", "404", "400-model", "context", "blind", "blind-500"],
)
def test_errors_of_all_requests_raise_one_clear_sentence(
    answer: Answer, request_: Request, match: str
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        only(lambda _: answer, request_)
    assert str(caught.value).startswith("Expected ")
    assert "\n" not in str(caught.value)


def test_an_unreachable_server_raises_at_once() -> None:
    with ChatServer(lambda _: says("x")) as server:
        url = server.url
    model = OpenAIChat("m", base_url=url, max_retries=0)
    with pytest.raises(InputError, match=r"Expected a server at http://127\.0\.0\.1"):
        model.answer([ask(str(n)) for n in range(50)])


def test_calls_stop_after_the_server_is_lost() -> None:
    def behave(call: Call) -> Answer:
        return says("x") if call.text == "0" else Answer(reset=True)

    with ChatServer(behave) as server:
        results = chat(server, max_retries=0, concurrency=2).answer(
            [ask(str(n)) for n in range(50)]
        )
        assert len(server.calls) < 12
    assert [getattr(result, "kind", "reply") for result in results] == ["reply"] + [
        "connection"
    ] * 49


def test_an_exhausted_account_stops_the_run_and_keeps_earlier_replies() -> None:
    def behave(call: Call) -> Answer:
        broke = int(call.text) >= 5
        return error(429, "You exceeded your quota", "insufficient_quota") if broke else says("x")

    with ChatServer(behave) as server:
        results = chat(server, concurrency=1).answer([ask(str(n)) for n in range(40)])
        assert len(server.calls) == 5 + 3
    assert [type(result) for result in results[:5]] == [Reply] * 5
    assert {result.kind for result in results[5:] if isinstance(result, Failure)} == {"budget"}


# Unsupported parameters.


def reject_parameter(name: str, message: str, param: str | None = None) -> Behave:
    """Returns a behaviour that rejects every call with the parameter."""

    def behave(call: Call) -> Answer:
        return error(400, message, param=param) if name in call.body else says('{"n": 1}')

    return behave


@pytest.mark.parametrize(
    ("behave", "request_", "gone"),
    [
        (
            reject_parameter(
                "temperature", "Unsupported value: only 1 is supported", "temperature"
            ),
            ask("{}", temperature=0.0),
            "temperature",
        ),
        (
            reject_parameter("temperature", "`temperature` is deprecated for this model"),
            ask("{}", temperature=0.0),
            "temperature",
        ),
        (
            reject_parameter("seed", "body.seed: extra fields not permitted"),
            ask("{}", seed=1),
            "seed",
        ),
        (
            reject_parameter("max_tokens", "Use 'max_completion_tokens' instead.", "max_tokens"),
            ask("{}", max_tokens=9),
            "max_tokens",
        ),
        (
            reject_parameter("response_format", "response_format json_schema is not available"),
            ask("{}", schema=SCHEMA),
            "response_format",
        ),
    ],
    ids=["temperature", "temperature-in-text", "seed", "max_tokens", "response_format"],
)
def test_a_rejected_parameter_is_dropped_from_all_later_calls(
    behave: Behave, request_: Request, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ChatServer(behave) as server, caplog.at_level(logging.WARNING, "visdiff"):
        model = chat(server)
        (first,) = model.answer([request_])
        learning = len(server.calls) - 1
        assert isinstance(first, Reply), first
        assert learning >= 1
        (second,) = model.answer([request_])
        assert isinstance(second, Reply)
        assert len(server.calls) == learning + 2
        assert gone not in server.calls[-1].body
        if gone == "max_tokens":
            # Renamed rather than dropped: it limits what a reply can cost.
            assert server.calls[-1].body["max_completion_tokens"] == 9
        else:
            assert model.unsupported
            assert len(caplog.records) >= 1


def test_several_rejected_parameters_are_dropped_within_one_request() -> None:
    def behave(call: Call) -> Answer:
        for name in ("temperature", "seed", "logprobs", "max_tokens"):
            if name in call.body:
                hint = " Use max_completion_tokens." if name == "max_tokens" else ""
                return error(400, f"Unsupported parameter: '{name}'.{hint}", param=name)
        return says("yes")

    request = ask(temperature=0.0, seed=1, max_tokens=5, choices=("yes", "no"))
    result, calls = only(behave, request)
    assert result.text == "yes"
    assert len(calls) == 5


def test_a_rejected_value_of_max_tokens_does_not_drop_it() -> None:
    # Without the limit, the cost of a reply is unbounded.
    message = "max_tokens is too large: 90. This model supports at most 16 completion tokens"
    result, calls = only(lambda _: error(400, message, param="max_tokens"), ask(max_tokens=90))
    assert result.kind == "http"
    assert "too large" in result.reason
    assert all("max_tokens" in call.body for call in calls)


def test_threads_share_the_detected_capabilities() -> None:
    with ChatServer(
        reject_parameter("temperature", "no temperature here", "temperature")
    ) as server:
        results = chat(server, concurrency=4).answer(
            [ask(f"{n}", temperature=0.0) for n in range(20)]
        )
        assert all(isinstance(result, Reply) for result in results)
        # Only calls that were pending at the first rejection are sent twice.
        assert len(server.calls) <= 24


def test_the_last_response_format_is_an_instruction() -> None:
    def behave(call: Call) -> Answer:
        if "response_format" in call.body:
            return error(400, "response_format: unknown field")
        return says('Sure!\n```json\n{"n": 4}\n```')

    with ChatServer(behave) as server:
        model = chat(server)
        (result,) = model.answer([ask("how many?", schema=SCHEMA)])
        styles = [call.body.get("response_format", {}).get("type") for call in server.calls]
    assert isinstance(result, Reply)
    assert result.data == {"n": 4}
    assert styles == ["json_schema", "json_object", None]
    assert '"integer"' in server.calls[-1].text
    assert model.unsupported == ("json_schema", "json_object")


def test_a_rejected_schema_falls_back_to_a_weaker_format() -> None:
    message = (
        "Invalid schema for response_format 'reply': In context=(), 'minItems' is not permitted"
    )

    def behave(call: Call) -> Answer:
        if call.body.get("response_format", {}).get("type") == "json_schema":
            return error(400, message, "invalid_request_error", "response_format")
        return says('{"n": 4}')

    result, calls = only(behave, ask(schema=SCHEMA))
    assert result.data == {"n": 4}
    assert len(calls) == 2


def test_a_schema_is_strict_if_possible() -> None:
    _, calls = only(lambda _: says('{"n": 1}'), ask(schema=SCHEMA))
    assert calls[0].body["response_format"]["json_schema"]["strict"] is True
    _, calls = only(lambda _: says('{"n": 1}'), ask(schema={"type": "object"}))
    assert calls[0].body["response_format"]["json_schema"]["strict"] is False


def test_a_model_that_ignores_the_format_gets_an_instruction_from_then_on() -> None:
    def behave(call: Call) -> Answer:
        return says('{"n": 2}' if "JSON schema" in call.text else "There are two.")

    with ChatServer(behave) as server:
        model = chat(server)
        (first,) = model.answer([ask("a", schema=SCHEMA)])
        assert isinstance(first, Reply)
        assert first.data == {"n": 2}
        # The usage is that of both calls.
        assert first.usage == Usage(20, 4)
        assert "There are two." in server.calls[1].text
        (second,) = model.answer([ask("b", schema=SCHEMA)])
        assert isinstance(second, Reply)
        assert len(server.calls) == 3


@pytest.mark.parametrize("text", ["no idea", '{"n": "two"}', '{"n": 1} {"n": 2}', "null"])
def test_an_invalid_reply_is_retried_once_and_then_a_failure(text: str) -> None:
    result, calls = only(lambda _: says(text), ask(schema=SCHEMA))
    assert (result.kind, len(calls), result.usage) == ("parse", 2, Usage(20, 4))


# Choices.


def test_choices_are_scored_by_the_alternatives_of_the_first_token() -> None:
    logprobs = alternatives(**{" Yes": 0.5, "yes": 0.1, "No": 0.2, "Maybe": 0.15})
    result, calls = only(lambda _: says("Yes", logprobs=logprobs), ask(choices=("yes", "no")))
    assert result.text == "yes"
    assert result.probabilities == pytest.approx({"yes": 0.75, "no": 0.25})
    assert calls[0].body["top_logprobs"] == 20


@pytest.mark.parametrize(
    ("logprobs", "choices"),
    [
        (None, ("yes", "no")),
        (alternatives(The=0.9, yes=0.05), ("yes", "no")),
        (alternatives(no=0.4, yes=0.6), ("yes", "no", "not sure")),
    ],
    ids=["none", "mostly-neither", "beginning-of-two"],
)
def test_ambiguous_alternatives_give_no_probabilities(
    logprobs: Any, choices: tuple[str, ...]
) -> None:
    result, _ = only(lambda _: says("no", logprobs=logprobs), ask(choices=choices))
    assert (result.text, result.probabilities) == ("no", {})


def test_fewer_alternatives_are_requested_after_a_limit() -> None:
    def behave(call: Call) -> Answer:
        if call.body.get("top_logprobs", 0) > 5:
            return error(
                400, "Requested sample logprobs of 20, which is greater than max allowed: 5"
            )
        return says("no", logprobs=alternatives(no=0.8, yes=0.2))

    result, calls = only(behave, ask(choices=("yes", "no")))
    assert result.probabilities == pytest.approx({"yes": 0.2, "no": 0.8})
    assert [call.body["top_logprobs"] for call in calls] == [20, 5]


def test_an_error_text_is_not_a_choice() -> None:
    # The original scored its own error text, which has "no" in it, as a no.
    result, _ = only(lambda _: says("Cannot get response."), ask(choices=("yes", "no")))
    assert isinstance(result, Failure)
    assert result.kind == "parse"


# Order, concurrency, interruption.


def test_order_is_kept_and_concurrency_is_bounded() -> None:
    def behave(call: Call) -> Answer:
        return Answer(completion(f"re {call.text}"), wait=0.03 if int(call.text) % 3 == 0 else 0.0)

    with ChatServer(behave) as server:
        results = chat(server, concurrency=3).answer([ask(str(n)) for n in range(24)])
        assert 2 <= server.busiest <= 3
    assert [getattr(result, "text", None) for result in results] == [f"re {n}" for n in range(24)]


def test_replies_before_an_error_are_yielded_first() -> None:
    def behave(call: Call) -> Answer:
        return error(401, "key revoked") if call.text == "6" else says("x")

    got: list[int] = []
    with ChatServer(behave) as server, pytest.raises(InputError, match="OPENAI_API_KEY"):  # noqa: PT012
        for index, result in chat(server, concurrency=2).stream([ask(str(n)) for n in range(40)]):
            assert isinstance(result, Reply)
            got.append(index)
    assert {0, 1, 2, 3, 4, 5} <= set(got)
    # No reply is dropped, and the remaining requests are not sent.
    assert len(got) == len(server.calls) - 1 < 30


def test_ctrl_c_waits_for_pending_calls_and_yields_their_replies() -> None:
    release = threading.Event()

    def behave(call: Call) -> Answer:
        release.wait(5)
        return says("x")

    def admit(request: Request) -> None:
        if request.messages[0].parts[0] == "3":
            release.set()
            raise KeyboardInterrupt

    got: list[int] = []
    with ChatServer(behave) as server:
        stream = chat(server, concurrency=8).stream([ask(str(n)) for n in range(40)], admit)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            for index, _ in stream:
                got.append(index)
        assert len(server.calls) == 3
    assert sorted(got) == [0, 1, 2]


# API keys.

KEY = "verysecret123"


def test_a_missing_key_for_openai_raises_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="set OPENAI_API_KEY"):
        OpenAIChat("gpt-4").answer([ask()])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    OpenAIChat("gpt-4").check([ask()])


def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatServer(lambda _: says("x")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        (result,) = OpenAIChat("m").answer([ask()])
    assert isinstance(result, Reply)


def test_the_key_is_sent_and_never_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def behave(call: Call) -> Answer:
        assert call.headers["authorization"] == f"Bearer {KEY}"
        status = 401 if "wrong" in call.text else 418
        return error(status, f"Incorrect key {KEY}, header Bearer {KEY}, sk-other-key-1234")

    with ChatServer(behave) as server, caplog.at_level(logging.DEBUG):
        model = chat(server)
        (failure,) = model.answer([ask()])
        with pytest.raises(InputError) as caught:
            model.answer([ask("wrong")])
    assert caught.value.__cause__ is None
    outputs = [repr(model), str(model.identity), repr(failure), str(caught.value), caplog.text]
    assert not any(secret in text for text in outputs for secret in (KEY, "sk-other", "verysecret"))
    assert KEY.encode() not in pickle.dumps(model)


def test_secrets_in_the_base_url_are_not_logged() -> None:
    model = OpenAIChat("m", base_url="https://user:hidden@host:81/v1?key=hidden")
    assert model.identity["endpoint"] == "https://host:81/v1"
    assert "hidden" not in repr(model)


def test_the_identity_holds_only_what_affects_replies() -> None:
    one = OpenAIChat("m", base_url="http://localhost:1/v1/", concurrency=1, timeout=3)
    two = OpenAIChat("m", base_url="http://localhost:1/v1", concurrency=9, max_retries=0)
    assert one.identity == two.identity
    assert one.identity != OpenAIChat("m", base_url="http://localhost:2/v1").identity


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None},
        {"base_url": "localhost:8000"},
        {"base_url": "http://[bad"},
        {"concurrency": 0},
        {"timeout": 0},
        {"max_retries": -1},
    ],
    ids=str,
)
def test_invalid_settings_raise(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Expected"):
        OpenAIChat(**{"model": "m", "base_url": "http://localhost/v1", **fields})


def test_pictures_for_a_model_without_vision_raise_before_any_call() -> None:
    with ChatServer(lambda _: says("x")) as server:
        with pytest.raises(InputError, match="model has no vision"):
            chat(server, vision=False).answer([ask("a"), ask("b", PNG)])
        assert server.calls == []
