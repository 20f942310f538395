"""The contract of all chat models."""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chatserver import Call, ChatServer, says
from test_llm_transformers import save_llama

from visdiff import registry
from visdiff.cache import Cache
from visdiff.errors import InputError
from visdiff.llm import ChatModel, Failure, Message, Picture, Reply, Request
from visdiff.llm.budget import BudgetedChat, Ledger, Price
from visdiff.llm.cached import CachedChat
from visdiff.llm.openai import OpenAIChat
from visdiff.llm.scripted import ScriptedChat
from visdiff.llm.transformers import TransformersChat

KEY = "sk-a-very-secret-key"
NAMES = ("scripted", "openai", "transformers", "cached", "budgeted", "both")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # One token in two ends a reply, so most replies are complete.
    return save_llama(tmp_path_factory.mktemp("llama"), ends=2)


def reply_to(text: str) -> str:
    """Returns a reply that identifies the request."""
    return "yes" if "choose" in text else f"re {text}"


@pytest.fixture(params=NAMES)
def model(
    request: pytest.FixtureRequest,
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ChatModel]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def behave(call: Call) -> Any:
        return says(reply_to(call.text))

    scripted = ScriptedChat(lambda r: reply_to(str(r.messages[-1].parts[0])), vision=False)
    with ChatServer(behave) as server, Cache(tmp_path / "cache") as cache:
        make: dict[str, Callable[[], ChatModel]] = {
            "scripted": lambda: scripted,
            "openai": lambda: OpenAIChat("m", base_url=server.url, vision=False),
            "transformers": lambda: TransformersChat(
                str(llama), device="cpu", max_new_tokens=60, batch_size=3
            ),
            "cached": lambda: CachedChat(scripted, cache),
            "budgeted": lambda: BudgetedChat(scripted, Ledger(), Price(1.0, 1.0)),
            "both": lambda: BudgetedChat(CachedChat(scripted, cache), Ledger()),
        }
        yield make[request.param]()


def ask(text: str, *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), "test/1", **fields)


def test_one_result_per_request_in_order(model: ChatModel) -> None:
    requests = [ask(f"{n} " + "x" * (n % 4)) for n in range(14)]
    together = model.answer(requests)
    assert len(together) == len(requests)
    for request, result in zip(requests, together, strict=True):
        (alone,) = model.answer([request])
        assert getattr(result, "text", None) == getattr(alone, "text", None)
        if isinstance(result, Reply):
            assert result.text.strip()
            assert result.finish_reason == "stop"
            assert result.usage.prompt_tokens > 0
        else:
            assert result.reason
            assert result.kind
    assert sum(isinstance(result, Reply) for result in together) >= 5


def test_no_requests_give_no_results(model: ChatModel) -> None:
    assert model.answer([]) == []


def test_probabilities_are_of_the_choices_and_sum_to_one(model: ChatModel) -> None:
    for result in model.answer([ask(f"choose {n}", choices=("yes", "no")) for n in range(3)]):
        assert isinstance(result, Reply)
        assert result.text in ("yes", "no")
        if result.probabilities:
            assert set(result.probabilities) == {"yes", "no"}
            assert sum(result.probabilities.values()) == pytest.approx(1.0)


def test_invalid_data_is_a_failure(model: ChatModel) -> None:
    for result in model.answer([ask(f"{n}", schema={"type": "integer"}) for n in range(3)]):
        assert isinstance(result, Failure)
        assert result.kind in ("parse", "empty", "length")


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (ask("a", Picture(b"1")), "model has no vision"),
        (Request((), "test/1"), "an empty one"),
        (Request((Message("user", ()),), "test/1"), "an empty one"),
        (Request((Message("robot", ("a",)),), "test/1"), "Expected the role"),
        (ask("a", schema={"type": "integer"}, choices=("a", "b")), "got both"),
        (ask("a", schema={"type": "whole"}), "Expected a JSON schema"),
        (ask("a", choices=("a",)), "two or more different choices"),
        (ask("a", choices=("a", "A ")), "two or more different choices"),
        (ask("a", max_tokens=0), "max_tokens"),
        (ask("a", temperature=-0.1), "temperature"),
    ],
    ids=[
        "picture",
        "no-message",
        "no-part",
        "role",
        "schema-and-choices",
        "schema",
        "one-choice",
        "same-choice",
        "max-tokens",
        "temperature",
    ],
)
def test_invalid_requests_raise_before_the_first_call(
    model: ChatModel, request_: Request, match: str
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        model.answer([ask("first"), request_])
    assert str(caught.value).startswith("Expected ")
    inner: Any = model
    while hasattr(inner, "model") and not isinstance(inner.model, str):
        inner = inner.model
    if isinstance(inner, ScriptedChat):
        assert inner.requests == []


def test_the_identity_is_json_without_api_key(model: ChatModel) -> None:
    text = json.dumps(dict(model.identity))
    assert '"backend"' in text
    assert KEY not in text
    assert KEY not in repr(model)
    assert model.has_vision is False


def test_progress_is_on_stderr_of_a_terminal_and_only_when_requested(
    model: ChatModel, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.answer([ask("warm")])
    capfd.readouterr()
    model.answer([ask("a")])
    assert capfd.readouterr() == ("", "")
    model.answer([ask("b")], progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    model.answer([ask("c")], progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "replies" in err


@pytest.mark.parametrize("name", registry.names("llm"))
def test_backends_ignore_unknown_settings(name: str) -> None:
    backend = registry.load("llm", name)
    names = inspect.signature(backend).parameters
    assert any(p.kind is p.VAR_KEYWORD for p in names.values())
    assert {"scripted", "openai", "transformers"} <= set(registry.names("llm"))


# ScriptedChat.


def test_scripted_replies_are_used_in_order_and_run_out() -> None:
    script = ScriptedChat(["one", Failure("refused", "refusal"), "three"])
    assert [getattr(r, "text", None) for r in script.answer([ask("a"), ask("b")])] == ["one", None]
    assert [getattr(r, "text", None) for r in script.answer([ask("c")])] == ["three"]
    with pytest.raises(InputError, match="no more requests than the 3 replies"):
        script.answer([ask("d")])
    assert [str(r.messages[0].parts[0]) for r in script.requests] == ["a", "b", "c", "d"]


def test_scripted_replies_are_validated_like_those_of_a_model() -> None:
    schema = {"type": "object", "required": ["a"]}
    script = ScriptedChat(['{"a": 1}', '{"b": 1}', "", "maybe", OSError("on purpose")])
    good, wrong, empty = script.answer([ask(str(n), schema=schema) for n in range(3)])
    assert isinstance(good, Reply)
    assert good.data == {"a": 1}
    assert [getattr(r, "kind", None) for r in (wrong, empty)] == ["parse", "empty"]
    (neither,) = script.answer([ask("choose", choices=("yes", "no"))])
    assert isinstance(neither, Failure)
    with pytest.raises(OSError, match="on purpose"):
        script.answer([ask("x")])


def test_different_scripts_have_different_identities() -> None:
    assert ScriptedChat(["a"]).identity != ScriptedChat(["b"]).identity
    assert ScriptedChat(["a"]).identity == ScriptedChat(["a"]).identity
