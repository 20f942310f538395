"""Endpoints as users have them: reasoning models, Azure addresses, and servers gone wrong."""

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatserver import Answer, Call, ChatServer, error, says
from hostile import KEY, REPLIES
from PIL import Image
from typer.testing import CliRunner

import visdiff
from visdiff.cache import Cache
from visdiff.captioners.chat import ChatCaptioner
from visdiff.cli.app import app, main
from visdiff.comparison.findings import INCOMPLETE, NO_DIFFERENCE
from visdiff.engine import Runtime
from visdiff.errors import IncompleteError, InputError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.judges import Claim
from visdiff.judges.chat import ChatJudge
from visdiff.llm import ChatModel, Failure, Message, Picture, Reply, Request
from visdiff.llm.budget import BudgetedChat, Ledger, Price
from visdiff.llm.cached import CachedChat
from visdiff.llm.openai import OpenAIChat
from visdiff.proposers import Evidence
from visdiff.proposers.captions_llm import CaptionsLlmProposer
from visdiff.rankers.captions_llm import CaptionsLlmRanker
from visdiff.results import DifferenceReport, Hypothesis, Stage

# Seconds that a call may take in the tests below.
TIMEOUT = 0.3


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VISDIFF_CACHE_DIR", str(tmp_path / "user-cache"))


def ask(text: str = "hello", *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), "test/1", **fields)


def images(n: int = 1, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    return ImageSet.open([Image.fromarray(one) for one in pixels], name=f"set {seed}")


# Hostile replies.


def caption(llm: ChatModel, runtime: Runtime) -> Any:
    return ChatCaptioner(lambda: llm, runtime=runtime).captions(images())


def propose(llm: ChatModel, runtime: Runtime, structured: bool = True) -> Any:
    proposer = CaptionsLlmProposer(lambda: llm, structured=structured, runtime=runtime)
    evidence = Evidence(images(), images(), ["a dog"], ["a cat"])
    return proposer.propose(evidence, rng=np.random.default_rng(0))


def propose_lines(llm: ChatModel, runtime: Runtime) -> Any:
    return propose(llm, runtime, structured=False)


def judge(llm: ChatModel, runtime: Runtime) -> Any:
    return ChatJudge(lambda: llm).judge([Claim("dogs", "A", "dogs", "cats")])


def rank(llm: ChatModel, runtime: Runtime) -> Any:
    ranker = CaptionsLlmRanker(lambda: llm, runtime=runtime)
    return ranker.score([Hypothesis("a dog", "A", "manual")], images(), ["a dog"]).tolist()


USES: tuple[Callable[[ChatModel, Runtime], Any], ...] = (
    caption,
    propose,
    propose_lines,
    judge,
    rank,
)


@pytest.fixture(scope="module")
def hostile() -> Iterator[ChatServer]:
    with ChatServer(lambda _: says("x")) as server:
        yield server


@pytest.fixture(scope="module")
def model(hostile: ChatServer) -> OpenAIChat:
    """Returns one client for all replies: making one takes longer than all calls of a reply."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_API_KEY", KEY)
        model = OpenAIChat("m", hostile.url, timeout=TIMEOUT, max_retries=0)
        model.check([ask()])
    return model


@pytest.mark.parametrize("name", REPLIES)
def test_a_hostile_reply_is_a_result_or_one_sentence(
    name: str,
    hostile: ChatServer,
    model: OpenAIChat,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outputs: list[str] = []
    problems: list[str] = []
    hostile.behave = lambda _: REPLIES[name]
    with caplog.at_level(logging.DEBUG), Cache(tmp_path / "cache") as cache:
        chat = BudgetedChat(CachedChat(model, cache), ledger := Ledger(), Price(1.0, 1.0))
        for use in USES:
            start = time.monotonic()
            try:
                outputs.append(repr(use(chat, Runtime(cache=cache))))
            except VisdiffError as problem:
                problems.append(str(problem))
            # Each question may be sent twice. An endless response would take for ever.
            assert time.monotonic() - start < 10.0, use
    assert ledger.cost >= 0
    assert all(re.fullmatch(r"Expected \S.*\.", problem) for problem in problems)
    outputs += [*problems, caplog.text, json.dumps(ledger.to_dict()), repr(dict(ledger.reasons))]
    assert not [text for text in outputs if KEY in text]
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_there_are_about_seventy_kinds_of_hostile_replies() -> None:
    assert len(REPLIES) >= 70


def test_secrets_of_the_address_are_cut_out_too(caplog: pytest.LogCaptureFixture) -> None:
    secret = "token-in-the-query"
    with ChatServer(lambda call: says(f"your path is {call.path}")) as server:
        address = f"{server.url}?token={secret}&api-version=2024-06-01"
        with caplog.at_level(logging.DEBUG):
            (reply,) = OpenAIChat("m", address).answer([ask()])
        assert secret in server.calls[0].path
    assert isinstance(reply, Reply)
    assert reply.text.endswith("?token=[key]&api-version=2024-06-01")
    assert secret not in caplog.text


def test_a_short_key_of_a_local_server_stays_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "empty")
    with ChatServer(lambda _: says("an empty street")) as server:
        (reply,) = OpenAIChat("m", server.url).answer([ask()])
    assert isinstance(reply, Reply)
    assert reply.text == "an empty street"


@pytest.mark.parametrize("key", ["ключ-от-всего", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_one_sentence(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        OpenAIChat("m", "http://127.0.0.1:9/v1").answer([ask()])
    assert key not in str(caught.value)


# Bounds.

_MEMORY = """
from pathlib import Path
from hostile import REPLIES
from chatserver import ChatServer
from visdiff.llm import Message, Request
from visdiff.llm.openai import OpenAIChat

names = ("gzip-bomb", "endless", "many-values", "error-bomb", "content-long")
with ChatServer(lambda call: REPLIES[str(call.body["model"])]) as server:
    for name in names:
        model = OpenAIChat(name, server.url, timeout=5.0, max_retries=0, concurrency=8)
        requests = [Request((Message("user", (str(n),)),), "test/1") for n in range(8)]
        for result in model.answer(requests):
            assert type(result).__name__ == "Failure", result
# Not ru_maxrss, which counts the process that forked this one.
status = Path("/proc/self/status").read_text().splitlines()
print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


def test_memory_is_bounded_whatever_arrives() -> None:
    # In a process of its own, whose peak is that of the replies; client and server together.
    tests = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", _MEMORY],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join([*map(str, (tests, tests / "field")), *sys.path])},
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 1_000_000  # kilobytes


def test_a_request_has_a_deadline_over_all_its_calls() -> None:
    with ChatServer(lambda _: REPLIES["trickle"]) as server:
        start = time.monotonic()
        model = OpenAIChat("m", server.url, timeout=20.0, deadline=0.3, max_retries=0)
        (failure,) = model.answer([ask()])
        assert time.monotonic() - start < 5.0
    assert isinstance(failure, Failure)
    assert failure.kind == "timeout"
    assert "0.3 s" in failure.reason


def test_a_compressed_reply_is_read() -> None:
    import gzip

    body = gzip.compress(json.dumps(says("a dog").body).encode())
    with ChatServer(lambda _: Answer(body, headers={"Content-Encoding": "gzip"})) as server:
        (reply,) = OpenAIChat("m", server.url).answer([ask()])
    assert isinstance(reply, Reply)
    assert reply.text == "a dog"


def test_a_redirect_on_the_same_host_is_followed_and_no_other() -> None:
    def behave(call: Call) -> Answer:
        if call.path.startswith("/v1"):
            host = "localhost" if "away" in call.text else "127.0.0.1"
            port = server.url.rpartition(":")[2].partition("/")[0]
            return Answer(b"", 307, {"Location": f"http://{host}:{port}/v2/chat/completions"})
        return says("moved")

    with ChatServer(behave) as server:
        reply, failure = OpenAIChat("m", server.url, max_retries=0, concurrency=1).answer(
            [ask("here"), ask("away")]
        )
        assert [call.path[:3] for call in server.calls] == ["/v1", "/v2", "/v1"]
    assert isinstance(reply, Reply)
    assert isinstance(failure, Failure)


# Azure.


@dataclass
class _Sent:
    path: str
    authorization: str | None
    api_key: str | None


def sent_to(suffix: str) -> _Sent:
    """Sends one request to a base URL with another path, and returns what arrived."""
    with ChatServer(lambda _: says("x")) as server:
        (reply,) = OpenAIChat("m", server.url.removesuffix("/v1") + suffix).answer([ask()])
        headers = server.calls[0].headers
    assert isinstance(reply, Reply)
    return _Sent(server.calls[0].path, headers.get("authorization"), headers.get("api-key"))


AZURE = "/openai/deployments/d"


@pytest.mark.parametrize("form", ["{}?{}", "{}/?{}", "{}/chat/completions?{}"])
def test_the_query_of_an_azure_deployment_stays_a_query(form: str) -> None:
    sent = sent_to(form.format(AZURE, "api-version=2024-06-01"))
    assert sent.path == f"{AZURE}/chat/completions?api-version=2024-06-01"
    assert (sent.authorization, sent.api_key) == (None, KEY)


@pytest.mark.parametrize("query", ["", "?api-version=preview"])
def test_the_newer_form_of_azure_is_like_openai(query: str) -> None:
    sent = sent_to(f"/openai/v1/{query}")
    assert sent.path == f"/openai/v1/chat/completions{query}"
    assert (sent.authorization, sent.api_key) == (f"Bearer {KEY}", None)


def test_any_query_is_kept_and_is_no_part_of_the_identity() -> None:
    assert sent_to("/v1?a=1&b=x%20y").path == "/v1/chat/completions?a=1&b=x+y"
    model = OpenAIChat("m", "http://127.0.0.1:9/v1?a=1")
    assert model.identity["endpoint"] == "http://127.0.0.1:9/v1"


def test_a_deployment_without_a_version_is_one_sentence() -> None:
    with pytest.raises(InputError, match="api-version"):
        OpenAIChat("m", f"http://127.0.0.1:9{AZURE}")


# Reasoning models.


def reasoning(tokens: int, answer: Callable[[Call], str], mode: str = "null") -> Any:
    """Returns a model that thinks for a number of tokens before it answers, as reported."""

    def behave(call: Call) -> Answer:
        if "max_tokens" in call.body:
            return error(
                400, "Unsupported parameter: use 'max_completion_tokens'", param="max_tokens"
            )
        for name in ("temperature", "logprobs"):
            if name in call.body:
                return error(400, f"Unsupported value: '{name}'", param=name)
        if call.body.get("max_completion_tokens", 10**6) > tokens:
            return says(answer(call), tokens=(10, tokens))
        if mode == "400":
            return error(400, "Could not finish the message because max_tokens or model output "
                              "limit was reached.")  # fmt: skip
        text = {"null": None, "empty": "", "tag": "<think>hm hm"}[mode]
        limit = call.body["max_completion_tokens"]
        return says(text, finish="length", tokens=(10, limit))

    return behave


@pytest.mark.parametrize("mode", ["null", "empty", "tag", "400"])
def test_a_reply_cut_while_reasoning_is_asked_again_with_four_times_the_limit(mode: str) -> None:
    with ChatServer(reasoning(100, lambda _: "a dog", mode)) as server:
        (reply,) = OpenAIChat("m", server.url).answer([ask(max_tokens=40)])
        limits = [c.body.get("max_completion_tokens") for c in server.calls]
    assert isinstance(reply, Reply), reply
    assert limits == [None, 40, 160]


def test_it_is_asked_again_once_and_then_the_setting_is_named() -> None:
    request = ask(max_tokens=40, limit_setting="proposer.max_tokens")
    with ChatServer(reasoning(1000, lambda _: "a dog")) as server:
        (failure,) = OpenAIChat("m", server.url).answer([request])
        assert len(server.calls) == 3
    assert isinstance(failure, Failure)
    assert failure.kind == "length"
    assert "160 tokens" in failure.reason
    assert "raise proposer.max_tokens" in failure.reason


def test_a_reply_with_text_is_not_asked_again() -> None:
    with ChatServer(lambda _: says("a stump", finish="length")) as server:
        (failure,) = OpenAIChat("m", server.url).answer([ask(max_tokens=40)])
        assert len(server.calls) == 1
    assert isinstance(failure, Failure)


def test_reasoning_is_not_the_reply() -> None:
    def behave(call: Call) -> Answer:
        answer = says("<think>a cat?</think>a dog" if "tag" in call.text else "a dog")
        answer.body["choices"][0]["message"]["reasoning_content"] = "a cat?"
        return answer

    with ChatServer(behave) as server:
        replies = OpenAIChat("m", server.url).answer([ask("tag"), ask("field")])
    assert [getattr(reply, "text", None) for reply in replies] == ["a dog", "a dog"]


def test_several_images_for_a_model_of_one_name_the_setting() -> None:
    message = "At most 1 image(s) may be provided in one request."
    with (
        ChatServer(lambda _: error(400, message)) as server,
        pytest.raises(InputError, match=r"proposer\.layout='grid'"),
    ):
        OpenAIChat("m", server.url).answer([ask("a", Picture(b"1"), Picture(b"2"))])


# A comparison that got nothing is not "no difference found".


def settings(server: ChatServer, **more: Any) -> dict[str, Any]:
    return {
        "captioner": "chat",
        "ranker": "captions-lexical",
        "llm__model": "gpt-5-mini",
        "llm__base_url": server.url,
        "progress": False,
        **more,
    }


TOO_FEW = "too few images to confirm anything"
"""The verdict of a complete run on 30 images a side, which are not enough for two halves."""


def compare(server: ChatServer, tmp_path: Path, **more: Any) -> DifferenceReport:
    with Cache(tmp_path / "cache") as cache:
        sets = images(30, 1), images(30, 2)
        return visdiff.compare(*sets, **settings(server, **more), cache=cache)


def test_captions_that_are_all_cut_are_no_verdict(tmp_path: Path) -> None:
    with ChatServer(reasoning(320, lambda _: "a dog")) as server:
        report = compare(server, tmp_path)
        assert report.verdict.startswith(INCOMPLETE)
        assert NO_DIFFERENCE not in report.verdict
        assert "0 of 60 captions" in report.verdict
        assert "captioner.max_new_tokens" in report.verdict
        assert not report.is_complete
        assert DifferenceReport.from_json(report.to_json()).stages == report.stages
        for text in (report.to_html(), report.to_markdown()):
            assert "0 of 60 captions" in text
            assert NO_DIFFERENCE not in text.lower()
        # The setting that it names is the remedy.
        report = compare(server, tmp_path, captioner__max_new_tokens=400)
    assert report.verdict == TOO_FEW
    assert report.is_complete


def test_answers_of_the_ranker_that_are_all_cut_are_no_verdict(tmp_path: Path) -> None:
    def answer(call: Call) -> str:
        # Both the caption and the hypothesis.
        return "yes" if call.text.count("a dog") > 1 else "no"

    manual = {"backend": "manual", "hypotheses": ("A: a dog",)}
    more: dict[str, Any] = {"proposer": manual, "captioner": "manifest", "ranker": "captions-llm"}
    sets = [tmp_path / "a" / "manifest.csv", tmp_path / "b" / "manifest.csv"]
    for file, text in zip(sets, ("a dog", "a cat"), strict=True):
        write_captioned(file.parent, [text] * 50)
    with ChatServer(reasoning(320, answer)) as server, Cache(tmp_path / "cache") as cache:
        options = settings(server, **more)
        report = visdiff.compare(*sets, **options, cache=cache)
        assert report.verdict.startswith(INCOMPLETE)
        assert "ranker.max_tokens" in report.verdict
        assert any("ranker.max_tokens" in warning for warning in report.warnings)
        assert not report.is_complete
        report = visdiff.compare(*sets, **options, ranker__max_tokens=400, cache=cache)
        assert "1 difference confirmed" in report.verdict


def test_fewer_than_half_are_no_verdict_and_half_are() -> None:
    assert Stage("captions", 10, 4).failed
    assert not Stage("captions", 10, 5).failed
    assert not Stage("captions", 0, 0).failed
    assert not Stage("captions", 10, 9).is_complete


def test_a_proposer_that_only_apologises_is_no_verdict(tmp_path: Path) -> None:
    def answer(call: Call) -> str:
        return "I'm sorry, I cannot help." if "Group A" in call.text else "a dog"

    more = {"proposer": {"backend": "captions-llm", "structured": False}}
    with ChatServer(reasoning(1, answer)) as server:
        report = compare(server, tmp_path, **more)
        assert report.verdict.startswith(INCOMPLETE)
    with ChatServer(reasoning(1, lambda call: "None.")) as server:
        report = compare(server, tmp_path / "other", **more)
        assert report.verdict == TOO_FEW


def write_captioned(folder: Path, captions: list[str]) -> None:
    folder.mkdir()
    rows = ["path,caption"]
    for index, text in enumerate(captions):
        image = images(1, 1000 * ord(folder.name[0]) + index).image(0)
        image.save(folder / f"{index}.png")
        rows.append(f"{index}.png,{text}")
    (folder / "manifest.csv").write_text("\n".join(rows))


@pytest.mark.parametrize("proposer", ["ngrams", "captions-llm"])
def test_the_command_exits_with_status_3(
    proposer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_captioned(tmp_path / name, ["a dog"] * 20)
    captioner = "chat" if proposer == "ngrams" else "manifest"
    a, b = (str(tmp_path / name / "manifest.csv") for name in "ab")
    with ChatServer(reasoning(10**5, lambda _: "a dog")) as server:
        arguments = [
            *("compare", a, b, "--json"),
            *("--captioner", captioner, "--proposer", proposer, "--ranker", "captions-lexical"),
            *("--llm", "gpt-5", "--set", f"llm.base_url={server.url}"),
        ]
        if proposer == "ngrams":
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 3
            assert json.loads(result.stdout)["verdict"].startswith(INCOMPLETE)
            return
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, IncompleteError)
        assert "proposer.max_tokens" in str(result.exception)
        monkeypatch.setattr(sys, "argv", ["visdiff", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 3
