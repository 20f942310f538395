"""The Batch API against a test server: no reply that was paid for is lost or paid for twice."""

import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from batchserver import BatchServer, row, unprocessed_row
from chatserver import Answer, alternatives, error, says
from fakes import Killed, picture
from typer.testing import CliRunner

from visdiff.batch.run import Collected, Submitted, collect, forget, submit
from visdiff.batch.state import BatchState
from visdiff.bench.store import Results
from visdiff.cache import Cache
from visdiff.captioners import Captioner
from visdiff.cli.bench import app as bench_app
from visdiff.cli.caption import app
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.errors import InputError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Failure, Message, Picture, Reply, Request
from visdiff.llm.batch import split_lines, write_lines
from visdiff.llm.batch_openai import BatchChat
from visdiff.llm.cached import CachedChat
from visdiff.llm.openai import OpenAIChat

KEY = "sk-test-0123456789abcdef"
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
DIRECT_CALL = "POST /v1/chat/completions"
BATCH_START = "POST /v1/batches"
DOWNLOAD = "GET /v1/files"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """The user's cache, which the commands use too."""
    monkeypatch.setenv("VISDIFF_CACHE_DIR", str(tmp_path / "cache"))
    with Cache() as cache:
        yield cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "batches"


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(echo, key=KEY) as server:
        yield server


def message_text(body: Mapping[str, Any]) -> str:
    """Returns the text of a call, for any form of its messages."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def echo(body: Mapping[str, Any]) -> Answer:
    return says(f"re {message_text(body)}")


def make_request(text: str = "hello", *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), "test/1", **fields)


def make_requests(n: int) -> list[Request]:
    return [make_request(f"q{i}") for i in range(n)]


MODELS: WeakKeyDictionary[BatchServer, BatchChat] = WeakKeyDictionary()


def server_model(server: BatchServer, **fields: Any) -> BatchChat:
    """Returns a model at the server, the same one for the same settings.

    Creating one loads a certificate store, which takes longer than everything else here.
    """
    if not fields and server in MODELS:
        return MODELS[server]
    settings = {"model": "m", "base_url": server.url, "timeout": 5.0, "max_retries": 0, **fields}
    chat = BatchChat(**settings)
    return chat if fields else MODELS.setdefault(server, chat)


def submit_requests(
    server: BatchServer, requests: list[Request], cache: Cache, folder: Path, **more: Any
):
    return submit(server_model(server), requests, cache, folder, **{"try_out": False, **more})


def collect_replies(server: BatchServer, cache: Cache, folder: Path, **more: Any) -> Collected:
    def connect(name: str) -> BatchChat:
        assert name == "m"
        return server_model(server)

    return collect(connect, cache, folder, **more)


def answer_directly(
    server: BatchServer, requests: list[Request], cache: Cache
) -> list[Reply | Failure]:
    """Answers as the ordinary command does, with a client without batches behind the cache."""
    chat = OpenAIChat("m", server.url, timeout=5.0, max_retries=0)
    return CachedChat(chat, cache).answer(requests)


def reply_texts(results: list[Reply | Failure]) -> list[str]:
    return [result.text for result in results if isinstance(result, Reply)]


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


# --- from submission to replies -----------------------------------------------------------------


def results_file(path: Path) -> Path:
    """Writes a run with ten hypotheses and a null pair, which is not judged."""
    header: dict[str, Any] = {"benchmark": "Tiny", "proposer": "p", "ranker": "r", "purity": 1.0}
    header |= {"directions": "A", "top": 10, "config": Config().model_dump(mode="json")}
    results = Results.open(path, {**header, "judge": {"judge": "human"}})
    for split_, n in (("easy", 10), ("null", 2)):
        hypotheses = [
            {"text": f"{split_} thing {i}", "direction": "AB"[i % 2], "auroc": 0.9,
             "confirmed": True, "score": None, "reason": "not judged"}
            for i in range(n)
        ]  # fmt: skip
        results.append({
            "pair": f"{split_}/0", "split": split_, "status": "done", "a": "things", "b": "none",
            "n_a": 10, "n_b": 10, "missing": 0, "unreadable": 0, "warnings": [], "found": n,
            "confirmed": n, "hypotheses": hypotheses,
        })  # fmt: skip
    return path


def verdict(body: Mapping[str, Any]) -> Answer:
    """Returns a verdict that depends on the request, so that misassigned verdicts are detected."""
    (number,) = map(int, re.findall(r"easy thing (\d+)", message_text(body)))
    return says(json.dumps({"score": number % 3, "reason": f"number {number}"}))


def invoke(what: Any, *arguments: object) -> Any:
    return CliRunner().invoke(what, [str(a) for a in arguments])


def test_after_collect_the_ordinary_command_makes_no_call(
    tmp_path: Path, cache: Cache, folder: Path
) -> None:
    results = results_file(tmp_path / "r.jsonl")
    with BatchServer(verdict, key=KEY) as server:
        address = f"base_url={server.url}"
        judge = ("--judge-llm", "m", "--judge-set", address)
        model = ("--set", f"llm.{address}")
        ran = invoke(bench_app, "submit", results, *judge, "--no-try-out")
        assert ran.exit_code == 0, ran.stderr
        assert "10 requests: 0 cached, 0 submitted before, 10 to submit" in ran.stderr
        assert ran.stdout == "10 requests submitted (batch_0)\n"
        early = invoke(bench_app, "collect", *model)
        assert early.exit_code == 3
        assert "batch_0 is in progress (10 requests, 1 done)" in early.stdout
        server.end("batch_0")
        late = invoke(bench_app, "collect", *model)
        assert late.exit_code == 0, late.output
        assert late.stdout.endswith("10 replies, 0 failures, 0 requests pending\n")
        assert server.count(DIRECT_CALL) == 0

        before = len(server.calls)
        judged = tmp_path / "judged.jsonl"
        scored = invoke(
            bench_app, "score", results, "--judge", "chat", "--out", judged, *judge, "--json"
        )
        assert scored.exit_code == 0, scored.output
        assert len(server.calls) == before
        found = Results.read(judged).records["easy/0"]["hypotheses"]
        assert [h["score"] for h in found] == [(i % 3) / 2 for i in range(10)]
        assert [h["reason"] for h in found] == [f"number {i}" for i in range(10)]
        again = invoke(bench_app, "submit", results, *judge, "--json")
        assert json.loads(again.stdout)["cached"] == 10
        assert len(server.batches) == 1
    assert server.keys == {f"Bearer {KEY}"}
    assert KEY.encode() not in all_bytes(tmp_path)
    assert all(KEY not in one.output for one in (ran, early, late, scored, again))


def test_batch_replies_are_stored_like_direct_replies(server: BatchServer, tmp_path: Path) -> None:
    def behave(body: Mapping[str, Any]) -> Answer:
        if "response_format" in body:
            return says('Sure: {"n": 3}')
        if "logprobs" in body:
            return says("Yes.", logprobs=alternatives(Yes=0.6, No=0.3))
        return says("<think>hm</think> [text]", tokens=(7, 5))

    server.behave = behave
    requests = [
        make_request("a", max_tokens=9, temperature=1),
        make_request("b", Picture(b"\x89PNG not really"), seed=3, sample=2),
        make_request("c", schema=SCHEMA),
        make_request("d", choices=("yes", "no")),
    ]
    exported = []
    for name in ("batch", "direct"):
        with Cache(tmp_path / name) as cache:
            if name == "batch":
                submit_requests(server, requests, cache, tmp_path / "state")
                server.end("batch_0")
                assert collect_replies(server, cache, tmp_path / "state").replies == 4
            else:
                assert len(reply_texts(answer_directly(server, requests, cache))) == 4
            cache.export(tmp_path / f"{name}.jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()]
        exported.append([{k: v for k, v in row.items() if k != "created"} for row in rows])
    assert exported[0] == exported[1]
    assert len(exported[0]) == 4
    # The request of a line equals the direct call, including images.
    sent = [row["body"] for row in server.requests("batch_0")]
    assert sent[1]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png")
    assert sent[0]["max_tokens"] == 9
    # Images are sent but not stored.
    assert b"image/png;base64" not in all_bytes(tmp_path / "state")


def test_tokens_are_counted(server: BatchServer, cache: Cache, folder: Path) -> None:
    submit_requests(server, make_requests(3), cache, folder)
    server.end("batch_0")
    found = collect_replies(server, cache, folder)
    assert (found.prompt_tokens, found.completion_tokens) == (30, 6)


# --- idempotence --------------------------------------------------------------------------------


def test_submitted_or_cached_requests_are_not_submitted_again(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    answer_directly(server, [make_request("q0")], cache)
    first = submit_requests(server, [*make_requests(4), make_request("q1")], cache, folder)
    assert (first.batches, first.requests) == (("batch_0",), 3)
    assert submit_requests(server, make_requests(4), cache, folder) == Submitted((), 0, 0, ())
    third = submit_requests(server, make_requests(5), cache, folder)
    assert [message_text(r["body"]) for r in server.requests(third.batches[0])] == ["q4"]
    server.end("batch_0")
    collect_replies(server, cache, folder)
    assert submit_requests(server, make_requests(5), cache, folder).batches == ()
    assert len(server.batches) == 2


def test_a_second_collect_downloads_nothing_and_changes_nothing(
    server: BatchServer, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    submit_requests(server, make_requests(3), cache, folder)
    server.end("batch_0")
    assert collect_replies(server, cache, folder).replies == 3
    state, calls = (folder / "batches.json").read_bytes(), len(server.calls)
    assert collect_replies(server, cache, folder) == Collected()
    assert len(server.calls) == calls
    assert (folder / "batches.json").read_bytes() == state
    # Unless it is requested, because the cache was lost.
    with Cache(tmp_path / "other") as other:
        assert collect_replies(server, other, folder, again=True).replies == 3
        assert reply_texts(answer_directly(server, make_requests(3), other)) == [
            "re q0",
            "re q1",
            "re q2",
        ]
    assert server.count(DIRECT_CALL) == 0


def test_a_cached_reply_is_not_replaced(server: BatchServer, cache: Cache, folder: Path) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    answer_directly(server, [make_request("q0")], cache)
    server.behave = lambda body: says("another answer")
    server.end("batch_0")
    collect_replies(server, cache, folder)
    assert reply_texts(answer_directly(server, make_requests(2), cache)) == [
        "re q0",
        "another answer",
    ]


SUBMIT = """
import sys
from pathlib import Path
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.llm import Message, Request
from visdiff.llm.batch_openai import BatchChat
from visdiff.batch.run import submit
requests = [Request((Message("user", (f"q{i}",)),), "test/1") for i in range(4)]
with Cache() as cache:
    chat = BatchChat("m", sys.argv[1], timeout=60, max_retries=0)
    submit(chat, requests, cache, Path(sys.argv[2]), try_out=False)
"""


@pytest.mark.parametrize("finish", ["submit", "collect"])
def test_a_kill_before_the_batch_is_stored_submits_nothing_twice(
    server: BatchServer, cache: Cache, folder: Path, finish: str
) -> None:
    # Other batches of the account, on another page of the list.
    for i in range(3):
        submit_requests(server, [make_request(f"other {i}")], cache, folder.with_name("other"))
    server.created.clear()
    server.spoil = lambda method, path: (
        Answer(wait=30) if (method, path) == ("POST", "/v1/batches") else None
    )
    process = subprocess.Popen([sys.executable, "-c", SUBMIT, server.url, str(folder)])
    try:
        assert server.created.wait(60)
    finally:
        process.kill()
        process.wait()
    server.spoil = lambda method, path: None
    for i in range(3):
        submit_requests(server, [make_request(f"more {i}")], cache, folder.with_name("other"))
    assert [one.status for one in BatchState.read(folder).entries] == ["planned"]
    if finish == "submit":
        assert submit_requests(server, make_requests(4), cache, folder) == Submitted(
            (), 0, 0, ("batch_3",)
        )
    server.end("batch_3")
    assert collect_replies(server, cache, folder).replies == 4
    assert reply_texts(answer_directly(server, make_requests(4), cache)) == [
        "re q0",
        "re q1",
        "re q2",
        "re q3",
    ]
    assert len(server.batches) == 7
    assert server.count(DIRECT_CALL) == 0


@pytest.mark.parametrize("uploaded", [False, True])
def test_a_kill_before_the_batch_exists_submits_it_once(
    server: BatchServer, cache: Cache, folder: Path, uploaded: bool, monkeypatch: Any
) -> None:
    def killed(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        if uploaded:
            server.fault = lambda method, path: (
                Answer(reset=True) if (method, path) == ("POST", "/v1/batches") else None
            )
            with pytest.raises(VisdiffError, match="Expected success in starting a batch"):
                submit_requests(server, make_requests(3), cache, folder)
        else:
            patch.setattr(BatchChat, "create", killed)
            with pytest.raises(Killed):
                submit_requests(server, make_requests(3), cache, folder)
    server.fault = lambda method, path: None
    assert [one.status for one in BatchState.read(folder).entries] == ["planned"]
    assert len(server.files) == uploaded
    assert submit_requests(server, make_requests(3), cache, folder) == Submitted(
        ("batch_0",), 3, 0, ()
    )
    # Nothing of the killed run is left.
    assert len(BatchState.read(folder).entries) == len(list(folder.glob("*.jsonl"))) == 1


def test_a_batch_that_never_existed_is_reported_when_collecting(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    server.fault = lambda method, path: Answer(status=500) if path == "/v1/files" else None
    with pytest.raises(VisdiffError, match=r"uploading .*HTTP 500"):
        submit_requests(server, make_requests(3), cache, folder)
    server.fault = lambda method, path: None
    found = collect_replies(server, cache, folder)
    assert found.sentences == [
        f"A batch of 3 requests never reached {server.url}; submit it again."
    ]
    assert BatchState.read(folder).entries == []


@pytest.mark.parametrize("spoilt", [Answer(reset=True), error(500, "oops"), Answer(b"{", 200)])
def test_a_lost_response_starts_no_second_batch(
    server: BatchServer, cache: Cache, folder: Path, spoilt: Answer
) -> None:
    server.spoil = lambda method, path: spoilt if (method, path) == (
        "POST", "/v1/batches"
    ) else None  # fmt: skip
    # Retries do not apply to the start of a batch.
    done = submit(
        server_model(server, max_retries=3), make_requests(3), cache, folder, try_out=False
    )
    assert done.batches == ("batch_0",)
    assert server.count(BATCH_START) == len(server.batches) == 1


def test_one_process_at_a_time(server: BatchServer, cache: Cache, folder: Path) -> None:
    with BatchState.locked(folder), pytest.raises(InputError, match="wait until it is done"):
        submit_requests(server, make_requests(1), cache, folder)
    assert server.calls == []


# --- results ------------------------------------------------------------------------------------


def test_failures_are_counted_never_cached_and_submitted_again(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    requests = [*make_requests(7), make_request("n", schema=SCHEMA)]
    submit_requests(server, requests, cache, folder)
    sent = server.requests("batch_0")
    name = [r["custom_id"] for r in sent]
    complete = json.dumps(row(name[6], says("re q6"))).encode()
    server.end(
        "batch_0",
        output=[
            row(name[7], says('{"n": "many"}')),
            row(name[1], says(None, refusal="I will not")),
            row("v1-unknown", says("whose is this?")),
            row(name[2], says("half a sen", finish="length")),
            row(name[0], says("re\u2028q0\ud800")),
            row(name[3], says("")),
            row(name[4], Answer({"no": "choices"})),
            b"[]\n",
            complete[: len(complete) // 2],
        ],
        errors=[row(name[5], error(400, f"bad request with {KEY}", "bad"))],
    )
    found = collect_replies(server, cache, folder)
    assert found.replies == 1
    assert found.failures == {"refusal": 1, "length": 1, "empty": 1, "parse": 1, "http": 3}
    assert (found.unknown, found.unreadable, found.pending) == (1, 2, 0)
    assert found.reasons["refusal"] == "refused: I will not"
    assert found.reasons["length"] == "reply cut at 2 tokens"
    (sentence,) = found.sentences
    assert sentence.startswith(
        "Batch batch_0 has completed: 1 of 8 requests are answered, 7 failed"
    )
    assert "unreadable lines in its results: 2 (collect with --again" in sentence
    assert "ignored lines for requests that are not in it: 1" in sentence
    assert KEY not in sentence + str(found.reasons)
    assert cache.stats()["entries"] == 1
    again = submit_requests(server, requests, cache, folder)
    assert [r["custom_id"] for r in server.requests(again.batches[0])] == name[1:]
    server.end("batch_1", output=[row(n, says('{"n": 1}')) for n in name[1:]])
    assert collect_replies(server, cache, folder).replies == 7
    calls = len(server.calls)
    assert reply_texts(answer_directly(server, requests, cache))[0] == "re\u2028q0?"
    assert len(server.calls) == calls


def test_a_reply_has_priority_over_a_failure_and_the_first_over_later_ones(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    a, b = (r["custom_id"] for r in server.requests("batch_0"))
    bad = row(a, error(500, "oops"))
    good = [row(a, says("one")), row(a, says("two")), row(b, says("three"))]
    server.end("batch_0", output=[bad, *good], errors=[bad])
    collect_replies(server, cache, folder)
    assert reply_texts(answer_directly(server, make_requests(2), cache)) == ["one", "three"]


ENDS: list[tuple[str, str | None, str, str]] = [
    ("expired", "batch_expired", "timeout", "has expired: 1 of 4 .* the batch expired before"),
    ("expired", None, "timeout", "has expired: 1 of 4 .* the batch expired before"),
    ("cancelled", "batch_cancelled", "http", "was cancelled: 1 of 4 .* was cancelled before"),
    ("completed", None, "empty", "has completed: 1 of 4 .* ended without a reply"),
    ("completed", "server_error", "http", "has completed: 1 of 4 .*3 × -"),
    ("completed", "insufficient_quota", "budget", "nothing left to spend"),
    ("completed", "content_filter", "refusal", "content filter"),
]


@pytest.mark.parametrize(("status", "code", "kind", "message"), ENDS)
def test_unanswered_requests_of_a_batch_are_failures(
    server: BatchServer,
    cache: Cache,
    folder: Path,
    status: str,
    code: str | None,
    kind: str,
    message: str,
) -> None:
    submit_requests(server, make_requests(4), cache, folder)
    name = [r["custom_id"] for r in server.requests("batch_0")]
    server.end(
        "batch_0",
        status,
        output=server.output_rows("batch_0")[:1],
        errors=[unprocessed_row(n, code) for n in name[1:]] if code else [],
    )
    found = collect_replies(server, cache, folder)
    assert (found.replies, found.failures) == (1, {kind: 3})
    assert re.search(message, found.sentences[0])
    assert len(submit_requests(server, make_requests(4), cache, folder).batches) == 1
    assert len(server.requests("batch_1")) == 3


def test_a_rejected_batch(server: BatchServer, cache: Cache, folder: Path) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    server.end("batch_0", "failed", output=[], message=f"Enqueued token limit reached for {KEY}")
    found = collect_replies(server, cache, folder)
    assert (found.replies, found.failures) == (0, {"http": 2})
    assert found.sentences == [
        "Batch batch_0 has failed: 0 of 2 requests are answered, 2 failed (2 × the batch was "
        "refused: Enqueued token limit reached for [key]); submit them again, at new cost."
    ]
    assert server.count(DOWNLOAD) == 0


def test_a_missing_batch_is_reported_and_can_be_dropped(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    submit_requests(server, [make_request("more")], cache, folder)
    server.end("batch_1")
    lost = server.batches.pop("batch_0")
    found = collect_replies(server, cache, folder)
    assert (found.replies, found.pending) == (1, 2)
    assert (
        "it belongs to another account, or was removed; give it up with --forget"
        in found.sentences[0]
    )
    assert submit_requests(server, make_requests(2), cache, folder).batches == ()
    assert forget(folder, "batch_0") == 2
    with pytest.raises(InputError, match=r"\(batch_1\), got 'batch_9'"):
        forget(folder, "batch_9")
    server.batches["lost"] = lost
    assert submit_requests(server, make_requests(2), cache, folder).requests == 2


def test_replies_that_cannot_be_cached_can_be_collected_later(
    server: BatchServer, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    submit_requests(server, make_requests(2), cache, tmp_path / "state")
    server.end("batch_0")
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    with Cache(blocked) as broken:
        found = collect_replies(server, broken, tmp_path / "state")
    assert (found.replies, found.pending) == (0, 2)
    assert "collect again (nothing is lost)" in found.sentences[0]
    assert collect_replies(server, cache, tmp_path / "state").replies == 2
    with pytest.raises(InputError, match="mode rw"), Cache(mode="ro") as shut:
        collect_replies(server, shut, tmp_path / "state", again=True)


def test_a_damaged_state_is_not_treated_as_empty(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    server.end("batch_0")
    (parts,) = folder.glob("*.jsonl")
    complete = parts.read_bytes()
    parts.write_bytes(complete[: len(complete) // 2])
    found = collect_replies(server, cache, folder)
    assert found.pending == 2
    assert "restore it, or drop the batch with --forget" in found.sentences[0]
    parts.write_bytes(complete)
    assert collect_replies(server, cache, folder).replies == 2
    (folder / "batches.json").write_bytes(b'{"version": 1, "batches": [{')
    with pytest.raises(InputError, match="Expected the file of `visdiff batch`"):
        submit_requests(server, make_requests(2), cache, folder)
    (folder / "batches.json").write_bytes(b'{"version": 2, "batches": []}')
    with pytest.raises(InputError, match="version 2"):
        collect_replies(server, cache, folder)


# --- the endpoint -------------------------------------------------------------------------------


def test_a_wrong_key_is_an_input_error_without_the_key(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    server.key = "another"
    with pytest.raises(InputError, match="set OPENAI_API_KEY") as caught:
        submit_requests(server, make_requests(2), cache, folder)
    assert KEY not in str(caught.value)
    assert server.count(BATCH_START) == 0


def test_an_endpoint_without_batches_is_an_input_error(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    server.fault = lambda method, path: error(404, "no such route") if "files" in path else None
    with pytest.raises(InputError, match="Expected an endpoint with the Batch API"):
        submit_requests(server, make_requests(2), cache, folder)


def test_another_endpoint_gets_no_key(server: BatchServer, cache: Cache, folder: Path) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    server.end("batch_0")
    calls = len(server.calls)
    found = collect(lambda name: BatchChat(name, "http://127.0.0.1:9/v1"), cache, folder)
    assert found.pending == 2
    assert f"batch_0 is at {server.url}, not at http://127.0.0.1:9/v1" in found.sentences[0]
    assert len(server.calls) == calls


def test_the_first_request_is_sent_directly_to_test_the_parameters(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    def picky(body: Mapping[str, Any]) -> Answer:
        if "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return error(400, text, "unsupported_parameter", "max_tokens")
        return echo(body)

    server.behave = picky
    requests = [make_request(f"q{i}", max_tokens=5) for i in range(4)]
    chat = server_model(server)
    done = submit(chat, requests[:3], cache, folder)
    assert (done.answered, done.requests) == (1, 2)
    assert server.count(DIRECT_CALL) == 2
    assert all(r["body"]["max_completion_tokens"] == 5 for r in server.requests("batch_0"))
    # The test is done once.
    assert submit(chat, requests, cache, folder).answered == 0
    assert server.count(DIRECT_CALL) == 2
    for name in ("batch_0", "batch_1"):
        server.end(name)
    assert collect_replies(server, cache, folder).replies == 3
    assert len(reply_texts(answer_directly(server, requests, cache))) == 4
    assert server.count(DIRECT_CALL) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [(error(404, "The model m does not exist"), "serves model"), (error(500, "oops"), "HTTP 500")],
)
def test_errors_of_the_first_request_stop_the_submission(
    server: BatchServer, cache: Cache, folder: Path, answer: Answer, message: str
) -> None:
    server.behave = lambda body: answer
    with pytest.raises(VisdiffError, match=message):
        submit(server_model(server), make_requests(3), cache, folder)
    assert len(server.batches) == len(server.files) == 0


# --- files --------------------------------------------------------------------------------------


def test_batches_are_split_at_the_limits(server: BatchServer, cache: Cache, folder: Path) -> None:
    written = list(
        write_lines(
            server_model(server).identity, make_requests(10), server_model(server).parameters
        )
    )
    assert [len(part) for part in split_lines(written, max_requests=4)] == [4, 4, 2]
    size = len(written[0].data)
    parts = list(split_lines(written, max_bytes=3 * size))
    assert [line for part in parts for line in part] == written
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert [len(part) for part in split_lines(written, max_bytes=3 * size - 1)] == [2] * 5
    with pytest.raises(InputError, match="send smaller or fewer pictures"):
        list(split_lines(written, max_bytes=size - 1))
    done = submit_requests(server, make_requests(10), cache, folder, max_requests=4)
    assert [len(server.requests(name)) for name in done.batches] == [4, 4, 2]
    for name in done.batches:
        server.end(name)
    assert collect_replies(server, cache, folder).replies == 10
    assert reply_texts(answer_directly(server, make_requests(10), cache)) == [
        f"re q{i}" for i in range(10)
    ]
    assert server.count(DIRECT_CALL) == 0


# --- commands -----------------------------------------------------------------------------------


class ChatCaptioner(Captioner):
    """A captioner that uses a chat model."""

    name = "chat-captioner"
    asks = True

    def __init__(self, llm: Callable[[], ChatModel]) -> None:
        self.llm = llm

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"backend": self.name}

    def captions(self, images: ImageSet) -> Applied:
        data = [images.raw(i)[0] or b"" for i in range(len(images))]
        requests = [make_request("What is this?", Picture(one), max_tokens=20) for one in data]
        replies = self.llm().answer(requests)
        values = [reply.text if isinstance(reply, Reply) else None for reply in replies]
        return Applied(values, {i: "no" for i, value in enumerate(values) if value is None})


def write_images(folder: Path, n: int = 5) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        picture("red", rng).save(folder / f"{i}.png")
    return folder


def test_captions_are_submitted_and_then_cached(
    server: BatchServer, cache: Cache, tmp_path: Path
) -> None:
    photos = write_images(tmp_path / "photos")

    def caption(body: Mapping[str, Any]) -> Answer:
        sent = body["messages"][0]["content"][1]["image_url"]["url"]
        return says(f"image {zlib.crc32(sent.encode())}")

    server.behave = caption
    address = ("--set", f"llm.base_url={server.url}")
    captioner = ("--captioner", "test_batch:ChatCaptioner")
    job = ("submit", photos, *captioner, "--llm", "m", *address)
    ran = invoke(app, *job)
    assert ran.exit_code == 0, ran.output
    # The first request is sent directly.
    assert "4 requests submitted (batch_0), 1 answered at once" in ran.stdout
    assert server.count(DIRECT_CALL) == 1
    server.end("batch_0")
    assert invoke(app, "collect", *address, "--json").exit_code == 0
    chat = CachedChat(OpenAIChat("m", server.url), cache)
    found = ChatCaptioner(lambda: chat).captions(ImageSet.open(photos))
    assert not found.failures
    assert len(set(found.values)) == 5
    assert server.count(DIRECT_CALL) == 1
    assert "4 replies" not in invoke(app, "collect", *address).stdout


def test_dry_run_estimates_the_cost_without_calls(
    server: BatchServer, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    results = results_file(tmp_path / "r.jsonl")
    job = ["submit", results, "--judge-llm", "m", "--judge-set", f"base_url={server.url}"]
    priced = ["--judge-set", "prompt_price=1000", "--judge-set", "completion_price=0"]
    plain = invoke(bench_app, *job, "--dry-run", "--samples", 3)
    assert plain.exit_code == 0, plain.output
    assert "30 to submit" in plain.stdout
    assert "cost unknown" in plain.stdout
    ran = invoke(bench_app, *job, *priced, "--dry-run", "--json")
    totals = json.loads(ran.stdout)
    assert totals["fresh"] == totals["requests"] == 10
    assert totals["cost"] == pytest.approx(totals["prompt_tokens"] / 1000)
    limits = (
        (("--max-calls", 9), "at most 9 requests (--max-calls)"),
        (("--max-cost", 0.01), "at most 0.01 US dollars (--max-cost)"),
    )
    for limit, message in limits:
        over = invoke(bench_app, *job, *priced, *limit)
        assert isinstance(over.exception, InputError)
        assert message in str(over.exception)
    assert server.calls == []
    assert not (tmp_path / "cache" / "batches").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--captioner", "fakes:ColourCaptioner"), "a captioner that uses a chat model"),
        (("--set", "llm.backend=transformers"), "the llm 'openai' for batches"),
        (
            ("--captioner", "test_batch:ChatCaptioner", "--set", "llm.vision=false"),
            "that accepts images",
        ),
        (("--set", "llm.prompt_price=1", "--captioner", "test_batch:ChatCaptioner"), "got one of"),
    ],
)
def test_invalid_jobs_are_input_errors(
    cache: Cache, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    photos = write_images(tmp_path / "photos", 1)
    ran = invoke(app, "submit", photos, "--llm", "m", *arguments)
    assert isinstance(ran.exception, InputError)
    assert message in str(ran.exception)


def test_a_batch_can_be_forgotten_from_the_command_line(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    submit_requests(server, make_requests(2), cache, folder)
    ran = invoke(app, "collect", "--forget", "batch_0")
    assert ran.stdout == "2 requests of batch batch_0 may be submitted again\n"
    assert BatchState.read(folder).pending_keys() == set()
