"""Batches against a server that speaks them: what is paid for once is kept, whatever happens."""

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
from batchserver import BatchServer, row, unasked
from chatserver import Answer, alternatives, error, says
from fakes import Killed, picture
from typer.testing import CliRunner

from visdiff.batch.run import Collected, Submitted, collect, forget, submit
from visdiff.batch.state import BatchState
from visdiff.bench.store import Results
from visdiff.cache import Cache
from visdiff.captioners import Captioner
from visdiff.cli.batch import app
from visdiff.cli.bench import app as bench_app
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.errors import InputError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Failure, Message, Picture, Reply, Request
from visdiff.llm.batch import lines, split
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
ALONE = "POST /v1/chat/completions"
STARTED = "POST /v1/batches"
CONTENTS = "GET /v1/files"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """The user's cache, which commands use too."""
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


def words(body: Mapping[str, Any]) -> str:
    """The text of a call, whatever form its messages have."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def echo(body: Mapping[str, Any]) -> Answer:
    return says(f"re {words(body)}")


def ask(text: str = "hello", *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), "test/1", **fields)


def asks(n: int) -> list[Request]:
    return [ask(f"q{i}") for i in range(n)]


MODELS: WeakKeyDictionary[BatchServer, BatchChat] = WeakKeyDictionary()


def model(server: BatchServer, **fields: Any) -> BatchChat:
    """A model at the server, the same one as before unless it is another; each reads a store of
    certificates, which takes longer than all else here."""
    if not fields and server in MODELS:
        return MODELS[server]
    settings = {"model": "m", "base_url": server.url, "timeout": 5.0, "max_retries": 0, **fields}
    made = BatchChat(**settings)
    return made if fields else MODELS.setdefault(server, made)


def send(server: BatchServer, requests: list[Request], cache: Cache, folder: Path, **more: Any):
    return submit(model(server), requests, cache, folder, **{"try_out": False, **more})


def fetch(server: BatchServer, cache: Cache, folder: Path, **more: Any) -> Collected:
    def connect(name: str) -> BatchChat:
        assert name == "m"
        return model(server)

    return collect(connect, cache, folder, **more)


def ordinary(server: BatchServer, requests: list[Request], cache: Cache) -> list[Reply | Failure]:
    """What the ordinary command does: a client that knows nothing of batches, behind the cache."""
    chat = OpenAIChat("m", server.url, timeout=5.0, max_retries=0)
    return CachedChat(chat, cache).answer(requests)


def texts(results: list[Reply | Failure]) -> list[str]:
    return [result.text for result in results if isinstance(result, Reply)]


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


# --- the whole way ------------------------------------------------------------------------------


def results_file(path: Path) -> Path:
    """A run of ten hypotheses, and a null pair that no judge is asked about."""
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
    """Judge by what is asked, so that a verdict that goes astray shows."""
    (number,) = map(int, re.findall(r"easy thing (\d+)", words(body)))
    return says(json.dumps({"score": number % 3, "reason": f"number {number}"}))


def command(what: Any, *arguments: object) -> Any:
    return CliRunner().invoke(what, [str(a) for a in arguments])


def test_after_collect_the_ordinary_command_makes_no_call(
    tmp_path: Path, cache: Cache, folder: Path
) -> None:
    results = results_file(tmp_path / "r.jsonl")
    with BatchServer(verdict, key=KEY) as server:
        asked = ("--llm-set", "model=m", "--llm-set", f"base_url={server.url}")
        ran = command(app, "submit", "judge", results, *asked, "--no-try-out")
        assert ran.exit_code == 0, ran.stderr
        assert "10 requests: 0 cached, 0 submitted before, 10 to submit" in ran.stderr
        assert ran.stdout == "10 requests submitted (batch_0)\n"
        early = command(app, "collect", *asked)
        assert early.exit_code == 3
        assert "batch_0 is in progress (10 requests, 1 done)" in early.stdout
        server.end("batch_0")
        late = command(app, "collect", *asked)
        assert late.exit_code == 0, late.output
        assert late.stdout.endswith("10 replies, 0 failures, 0 requests to come\n")
        assert server.count(ALONE) == 0

        before = len(server.calls)
        judged = tmp_path / "judged.jsonl"
        scored = command(
            bench_app, "score", results, "--judge", "chat", "--out", judged, *asked, "--json"
        )
        assert scored.exit_code == 0, scored.output
        assert len(server.calls) == before
        found = Results.read(judged).records["easy/0"]["hypotheses"]
        assert [h["score"] for h in found] == [(i % 3) / 2 for i in range(10)]
        assert [h["reason"] for h in found] == [f"number {i}" for i in range(10)]
        again = command(app, "submit", "judge", results, *asked, "--json")
        assert json.loads(again.stdout)["cached"] == 10
        assert len(server.batches) == 1
    assert server.keys == {f"Bearer {KEY}"}
    assert KEY.encode() not in everything(tmp_path)
    assert all(KEY not in one.output for one in (ran, early, late, scored, again))


def test_a_reply_is_stored_as_one_that_came_alone(server: BatchServer, tmp_path: Path) -> None:
    def behave(body: Mapping[str, Any]) -> Answer:
        if "response_format" in body:
            return says('Sure: {"n": 3}')
        if "logprobs" in body:
            return says("Yes.", logprobs=alternatives(Yes=0.6, No=0.3))
        return says("<think>hm</think> [text]", tokens=(7, 5))

    server.behave = behave
    requests = [
        ask("a", max_tokens=9, temperature=1),
        ask("b", Picture(b"\x89PNG not really"), seed=3, sample=2),
        ask("c", schema=SCHEMA),
        ask("d", choices=("yes", "no")),
    ]
    exported = []
    for name in ("batch", "alone"):
        with Cache(tmp_path / name) as cache:
            if name == "batch":
                send(server, requests, cache, tmp_path / "state")
                server.end("batch_0")
                assert fetch(server, cache, tmp_path / "state").replies == 4
            else:
                assert len(texts(ordinary(server, requests, cache))) == 4
            cache.export(tmp_path / f"{name}.jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()]
        exported.append([{k: v for k, v in row.items() if k != "created"} for row in rows])
    assert exported[0] == exported[1]
    assert len(exported[0]) == 4
    # The request of a line is the call that is made alone, too: pictures and all.
    sent = [row["body"] for row in server.requests("batch_0")]
    assert sent[1]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png")
    assert sent[0]["max_tokens"] == 9
    # Pictures are sent, and not kept.
    assert b"image/png;base64" not in everything(tmp_path / "state")


def test_tokens_are_counted(server: BatchServer, cache: Cache, folder: Path) -> None:
    send(server, asks(3), cache, folder)
    server.end("batch_0")
    found = fetch(server, cache, folder)
    assert (found.prompt_tokens, found.completion_tokens) == (30, 6)


# --- idempotence --------------------------------------------------------------------------------


def test_what_is_submitted_or_cached_is_not_submitted_again(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    ordinary(server, [ask("q0")], cache)
    first = send(server, [*asks(4), ask("q1")], cache, folder)
    assert (first.batches, first.requests) == (("batch_0",), 3)
    assert send(server, asks(4), cache, folder) == Submitted((), 0, 0, ())
    third = send(server, asks(5), cache, folder)
    assert [words(r["body"]) for r in server.requests(third.batches[0])] == ["q4"]
    server.end("batch_0")
    fetch(server, cache, folder)
    assert send(server, asks(5), cache, folder).batches == ()
    assert len(server.batches) == 2


def test_a_second_collect_downloads_nothing_and_changes_nothing(
    server: BatchServer, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    send(server, asks(3), cache, folder)
    server.end("batch_0")
    assert fetch(server, cache, folder).replies == 3
    state, calls = (folder / "batches.json").read_bytes(), len(server.calls)
    assert fetch(server, cache, folder) == Collected()
    assert len(server.calls) == calls
    assert (folder / "batches.json").read_bytes() == state
    # Unless it is wanted, since the cache was lost.
    with Cache(tmp_path / "other") as other:
        assert fetch(server, other, folder, again=True).replies == 3
        assert texts(ordinary(server, asks(3), other)) == ["re q0", "re q1", "re q2"]
    assert server.count(ALONE) == 0


def test_a_reply_that_is_in_the_cache_already_stays(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    send(server, asks(2), cache, folder)
    ordinary(server, [ask("q0")], cache)
    server.behave = lambda body: says("another answer")
    server.end("batch_0")
    fetch(server, cache, folder)
    assert texts(ordinary(server, asks(2), cache)) == ["re q0", "another answer"]


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
def test_a_kill_before_the_batch_is_remembered_pays_nothing_twice(
    server: BatchServer, cache: Cache, folder: Path, finish: str
) -> None:
    # Others of the account, on another page of the list.
    for i in range(3):
        send(server, [ask(f"other {i}")], cache, folder.with_name("other"))
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
        send(server, [ask(f"more {i}")], cache, folder.with_name("other"))
    assert [one.status for one in BatchState.read(folder).entries] == ["planned"]
    if finish == "submit":
        assert send(server, asks(4), cache, folder) == Submitted((), 0, 0, ("batch_3",))
    server.end("batch_3")
    assert fetch(server, cache, folder).replies == 4
    assert texts(ordinary(server, asks(4), cache)) == ["re q0", "re q1", "re q2", "re q3"]
    assert len(server.batches) == 7
    assert server.count(ALONE) == 0


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
            with pytest.raises(VisdiffError, match="starting a batch did not work"):
                send(server, asks(3), cache, folder)
        else:
            patch.setattr(BatchChat, "create", killed)
            with pytest.raises(Killed):
                send(server, asks(3), cache, folder)
    server.fault = lambda method, path: None
    assert [one.status for one in BatchState.read(folder).entries] == ["planned"]
    assert len(server.files) == uploaded
    assert send(server, asks(3), cache, folder) == Submitted(("batch_0",), 3, 0, ())
    # What the killed run left is gone.
    assert len(BatchState.read(folder).entries) == len(list(folder.glob("*.jsonl"))) == 1


def test_a_batch_that_never_was_is_said_when_collecting(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    server.fault = lambda method, path: Answer(status=500) if path == "/v1/files" else None
    with pytest.raises(VisdiffError, match=r"uploading .*HTTP 500"):
        send(server, asks(3), cache, folder)
    server.fault = lambda method, path: None
    found = fetch(server, cache, folder)
    assert found.sentences == [f"A batch of 3 requests never reached {server.url}: submit again."]
    assert BatchState.read(folder).entries == []


@pytest.mark.parametrize("spoilt", [Answer(reset=True), error(500, "oops"), Answer(b"{", 200)])
def test_a_lost_answer_starts_no_second_batch(
    server: BatchServer, cache: Cache, folder: Path, spoilt: Answer
) -> None:
    server.spoil = lambda method, path: spoilt if (method, path) == (
        "POST", "/v1/batches"
    ) else None  # fmt: skip
    # Whoever allows the client repeats gets none here.
    done = submit(model(server, max_retries=3), asks(3), cache, folder, try_out=False)
    assert done.batches == ("batch_0",)
    assert server.count(STARTED) == len(server.batches) == 1


def test_one_process_at_a_time(server: BatchServer, cache: Cache, folder: Path) -> None:
    with BatchState.locked(folder), pytest.raises(InputError, match="wait until it is done"):
        send(server, asks(1), cache, folder)
    assert server.calls == []


# --- what may come back -------------------------------------------------------------------------


def test_failures_are_counted_never_cached_and_submitted_again(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    requests = [*asks(7), ask("n", schema=SCHEMA)]
    send(server, requests, cache, folder)
    sent = server.requests("batch_0")
    name = [r["custom_id"] for r in sent]
    whole = json.dumps(row(name[6], says("re q6"))).encode()
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
            whole[: len(whole) // 2],
        ],
        errors=[row(name[5], error(400, f"bad request with {KEY}", "bad"))],
    )
    found = fetch(server, cache, folder)
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
    assert "lines about requests that are not in it, not used: 1" in sentence
    assert KEY not in sentence + str(found.reasons)
    assert cache.stats()["entries"] == 1
    again = send(server, requests, cache, folder)
    assert [r["custom_id"] for r in server.requests(again.batches[0])] == name[1:]
    server.end("batch_1", output=[row(n, says('{"n": 1}')) for n in name[1:]])
    assert fetch(server, cache, folder).replies == 7
    calls = len(server.calls)
    assert texts(ordinary(server, requests, cache))[0] == "re\u2028q0?"
    assert len(server.calls) == calls


def test_an_answer_counts_rather_than_a_failure_and_the_first_of_two(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    send(server, asks(2), cache, folder)
    a, b = (r["custom_id"] for r in server.requests("batch_0"))
    bad = row(a, error(500, "oops"))
    good = [row(a, says("one")), row(a, says("two")), row(b, says("three"))]
    server.end("batch_0", output=[bad, *good], errors=[bad])
    fetch(server, cache, folder)
    assert texts(ordinary(server, asks(2), cache)) == ["one", "three"]


ENDS: list[tuple[str, str | None, str, str]] = [
    ("expired", "batch_expired", "timeout", "has expired: 1 of 4 .* the batch expired before"),
    ("expired", None, "timeout", "has expired: 1 of 4 .* the batch expired before"),
    ("cancelled", "batch_cancelled", "http", "was cancelled: 1 of 4 .* was cancelled before"),
    ("completed", None, "empty", "has completed: 1 of 4 .* ended without an answer"),
    ("completed", "server_error", "http", "has completed: 1 of 4 .*3 × -"),
    ("completed", "insufficient_quota", "budget", "nothing left to spend"),
    ("completed", "content_filter", "refusal", "content filter"),
]


@pytest.mark.parametrize(("status", "code", "kind", "said"), ENDS)
def test_what_a_batch_did_not_come_to(
    server: BatchServer,
    cache: Cache,
    folder: Path,
    status: str,
    code: str | None,
    kind: str,
    said: str,
) -> None:
    send(server, asks(4), cache, folder)
    name = [r["custom_id"] for r in server.requests("batch_0")]
    server.end(
        "batch_0",
        status,
        output=server.answered("batch_0")[:1],
        errors=[unasked(n, code) for n in name[1:]] if code else [],
    )
    found = fetch(server, cache, folder)
    assert (found.replies, found.failures) == (1, {kind: 3})
    assert re.search(said, found.sentences[0])
    assert len(send(server, asks(4), cache, folder).batches) == 1
    assert len(server.requests("batch_1")) == 3


def test_a_batch_that_is_refused_as_a_whole(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    send(server, asks(2), cache, folder)
    server.end("batch_0", "failed", output=[], said=f"Enqueued token limit reached for {KEY}")
    found = fetch(server, cache, folder)
    assert (found.replies, found.failures) == (0, {"http": 2})
    assert found.sentences == [
        "Batch batch_0 has failed: 0 of 2 requests are answered, 2 failed (2 × the batch was "
        "refused: Enqueued token limit reached for [key]); submit again to ask for them, at new "
        "cost."
    ]
    assert server.count(CONTENTS) == 0


def test_a_batch_that_is_gone_is_said_and_can_be_given_up(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    send(server, asks(2), cache, folder)
    send(server, [ask("more")], cache, folder)
    server.end("batch_1")
    lost = server.batches.pop("batch_0")
    found = fetch(server, cache, folder)
    assert (found.replies, found.pending) == (1, 2)
    assert "another account's, or was removed; give it up with --forget" in found.sentences[0]
    assert send(server, asks(2), cache, folder).batches == ()
    assert forget(folder, "batch_0") == 2
    with pytest.raises(InputError, match=r"\(batch_1\), got 'batch_9'"):
        forget(folder, "batch_9")
    server.batches["lost"] = lost
    assert send(server, asks(2), cache, folder).requests == 2


def test_replies_that_cannot_be_kept_stay_to_be_collected(
    server: BatchServer, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    send(server, asks(2), cache, tmp_path / "state")
    server.end("batch_0")
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    with Cache(blocked) as broken:
        found = fetch(server, broken, tmp_path / "state")
    assert (found.replies, found.pending) == (0, 2)
    assert "collect again; nothing is lost" in found.sentences[0]
    assert fetch(server, cache, tmp_path / "state").replies == 2
    with pytest.raises(InputError, match="mode rw"), Cache(mode="ro") as shut:
        fetch(server, shut, tmp_path / "state", again=True)


def test_a_damaged_state_is_never_taken_for_an_empty_one(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    send(server, asks(2), cache, folder)
    server.end("batch_0")
    (parts,) = folder.glob("*.jsonl")
    whole = parts.read_bytes()
    parts.write_bytes(whole[: len(whole) // 2])
    found = fetch(server, cache, folder)
    assert found.pending == 2
    assert "restore it, or give the batch up" in found.sentences[0]
    parts.write_bytes(whole)
    assert fetch(server, cache, folder).replies == 2
    (folder / "batches.json").write_bytes(b'{"version": 1, "batches": [{')
    with pytest.raises(InputError, match="expected the file of `visdiff batch`"):
        send(server, asks(2), cache, folder)
    (folder / "batches.json").write_bytes(b'{"version": 2, "batches": []}')
    with pytest.raises(InputError, match="version 2"):
        fetch(server, cache, folder)


# --- the endpoint -------------------------------------------------------------------------------


def test_a_wrong_key_is_one_sentence_without_it(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    server.key = "another"
    with pytest.raises(InputError, match="set OPENAI_API_KEY") as caught:
        send(server, asks(2), cache, folder)
    assert KEY not in str(caught.value)
    assert server.count(STARTED) == 0


def test_an_endpoint_without_batches_is_said(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    server.fault = lambda method, path: error(404, "no such route") if "files" in path else None
    with pytest.raises(InputError, match="expected an endpoint with the Batch API"):
        send(server, asks(2), cache, folder)


def test_another_endpoint_gets_no_key(server: BatchServer, cache: Cache, folder: Path) -> None:
    send(server, asks(2), cache, folder)
    server.end("batch_0")
    calls = len(server.calls)
    found = collect(lambda name: BatchChat(name, "http://127.0.0.1:9/v1"), cache, folder)
    assert found.pending == 2
    assert f"batch_0 is at {server.url}, not at http://127.0.0.1:9/v1" in found.sentences[0]
    assert len(server.calls) == calls


def test_the_first_request_is_tried_and_teaches_what_the_endpoint_takes(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    def picky(body: Mapping[str, Any]) -> Answer:
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return error(400, said, "unsupported_parameter", "max_tokens")
        return echo(body)

    server.behave = picky
    requests = [ask(f"q{i}", max_tokens=5) for i in range(4)]
    chat = model(server)
    done = submit(chat, requests[:3], cache, folder)
    assert (done.answered, done.requests) == (1, 2)
    assert server.count(ALONE) == 2
    assert all(r["body"]["max_completion_tokens"] == 5 for r in server.requests("batch_0"))
    # Once is enough.
    assert submit(chat, requests, cache, folder).answered == 0
    assert server.count(ALONE) == 2
    for name in ("batch_0", "batch_1"):
        server.end(name)
    assert fetch(server, cache, folder).replies == 3
    assert len(texts(ordinary(server, requests, cache))) == 4
    assert server.count(ALONE) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [(error(404, "The model m does not exist"), "serves model"), (error(500, "oops"), "HTTP 500")],
)
def test_what_cannot_work_is_found_out_before_a_batch(
    server: BatchServer, cache: Cache, folder: Path, answer: Answer, said: str
) -> None:
    server.behave = lambda body: answer
    with pytest.raises(VisdiffError, match=said):
        submit(model(server), asks(3), cache, folder)
    assert len(server.batches) == len(server.files) == 0


# --- files --------------------------------------------------------------------------------------


def test_batches_are_cut_at_the_limits(server: BatchServer, cache: Cache, folder: Path) -> None:
    written = list(lines(model(server).identity, asks(10), model(server).parameters))
    assert [len(part) for part in split(written, max_requests=4)] == [4, 4, 2]
    size = len(written[0].data)
    parts = list(split(written, max_bytes=3 * size))
    assert [line for part in parts for line in part] == written
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert [len(part) for part in split(written, max_bytes=3 * size - 1)] == [2] * 5
    with pytest.raises(InputError, match="send smaller or fewer pictures"):
        list(split(written, max_bytes=size - 1))
    done = send(server, asks(10), cache, folder, max_requests=4)
    assert [len(server.requests(name)) for name in done.batches] == [4, 4, 2]
    for name in done.batches:
        server.end(name)
    assert fetch(server, cache, folder).replies == 10
    assert texts(ordinary(server, asks(10), cache)) == [f"re q{i}" for i in range(10)]
    assert server.count(ALONE) == 0


# --- commands -----------------------------------------------------------------------------------


class Seeing(Captioner):
    """A captioner that asks a chat model."""

    name = "seeing"
    asks = True

    def __init__(self, llm: Callable[[], ChatModel]) -> None:
        self.llm = llm

    def captions(self, images: ImageSet) -> Applied:
        data = [images.raw(i)[0] or b"" for i in range(len(images))]
        requests = [ask("What is this?", Picture(one), max_tokens=20) for one in data]
        replies = self.llm().answer(requests)
        values = [reply.text if isinstance(reply, Reply) else None for reply in replies]
        return Applied(values, {i: "no" for i, value in enumerate(values) if value is None})


def images(folder: Path, n: int = 5) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        picture("red", rng).save(folder / f"{i}.png")
    return folder


def test_captions_are_submitted_and_then_found(
    server: BatchServer, cache: Cache, tmp_path: Path
) -> None:
    photos = images(tmp_path / "photos")

    def caption(body: Mapping[str, Any]) -> Answer:
        sent = body["messages"][0]["content"][1]["image_url"]["url"]
        return says(f"image {zlib.crc32(sent.encode())}")

    server.behave = caption
    asked = ("--llm-set", "model=m", "--llm-set", f"base_url={server.url}")
    job = ("submit", "caption", photos, "--captioner", "test_batch:Seeing", *asked)
    ran = command(app, *job)
    assert ran.exit_code == 0, ran.output
    # The first is asked alone.
    assert "4 requests submitted (batch_0), 1 answered at once" in ran.stdout
    assert server.count(ALONE) == 1
    server.end("batch_0")
    assert command(app, "collect", *asked, "--json").exit_code == 0
    chat = CachedChat(OpenAIChat("m", server.url), cache)
    found = Seeing(lambda: chat).captions(ImageSet.open(photos))
    assert not found.failures
    assert len(set(found.values)) == 5
    assert server.count(ALONE) == 1
    assert "4 replies" not in command(app, "collect", *asked).stdout


def test_dry_run_says_what_it_would_take_and_calls_nobody(
    server: BatchServer, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    results = results_file(tmp_path / "r.jsonl")
    asked = ["--llm-set", "model=m", "--llm-set", f"base_url={server.url}"]
    priced = ["--llm-set", "prompt_price=1000", "--llm-set", "completion_price=0"]
    plain = command(app, "submit", "judge", results, *asked, "--dry-run", "--samples", 3)
    assert plain.exit_code == 0, plain.output
    assert "30 to submit" in plain.stdout
    assert "cost unknown" in plain.stdout
    ran = command(app, "submit", "judge", results, *asked, *priced, "--dry-run", "--json")
    totals = json.loads(ran.stdout)
    assert totals["fresh"] == totals["requests"] == 10
    assert totals["cost"] == pytest.approx(totals["prompt_tokens"] / 1000)
    for limit, said in (("max_calls=9", "max_calls=9"), ("max_cost=0.01", "at most 0.01 US")):
        over = command(app, "submit", "judge", results, *asked, *priced, "--llm-set", limit)
        assert isinstance(over.exception, InputError)
        assert said in str(over.exception)
    assert server.calls == []
    assert not (tmp_path / "cache" / "batches").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--captioner", "fakes:ColourCaptioner"), "a captioner that asks a chat model"),
        (("--llm-set", "backend=transformers"), "the llm 'openai' for batches"),
        (("--captioner", "test_batch:Seeing", "--llm-set", "vision=false"), "that sees"),
        (("--llm-set", "prompt_price=1", "--captioner", "test_batch:Seeing"), "got one of"),
    ],
)
def test_jobs_that_make_no_batch_are_one_sentence(
    cache: Cache, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    photos = images(tmp_path / "photos", 1)
    ran = command(app, "submit", "caption", photos, "--llm-set", "model=m", *arguments)
    assert isinstance(ran.exception, InputError)
    assert said in str(ran.exception)


def test_a_batch_can_be_forgotten_from_the_command_line(
    server: BatchServer, cache: Cache, folder: Path
) -> None:
    send(server, asks(2), cache, folder)
    ran = command(app, "collect", "--forget", "batch_0")
    assert ran.stdout == "2 requests of batch batch_0 may be submitted again\n"
    assert BatchState.read(folder).held() == set()
