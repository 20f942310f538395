"""Replies that an endpoint should not send: a table of names and responses.

Every response is small to make and to send at first; the endless ones end when the client leaves or
the server closes.
"""

import gzip
import json
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

from chatserver import Answer, completion, error, says

KEY = "sk-hostile-0123456789abcdef"
DEEP = 100_000
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Write = Callable[[bytes], Any]


def with_fields(**fields: Any) -> Answer:
    """Returns a completion with other top-level fields."""
    return Answer({**completion('{"a": 1}'), **fields})


def choice(**fields: Any) -> Answer:
    """Returns a completion whose only choice has other fields."""
    body = completion("yes")
    body["choices"][0].update(fields)
    return Answer(body)


def message(**fields: Any) -> Answer:
    """Returns a completion whose only message has other fields."""
    return choice(message={"role": "assistant", "content": "yes", **fields})


def literal(name: str, text: str) -> Answer:
    """Returns a completion whose content is a JSON literal that `json.dumps` does not write."""
    body = json.dumps(completion("@")).replace('"@"', text)
    return Answer(body.encode(), headers={"x-case": name})


def alternatives(logprob: str) -> Answer:
    """Returns a completion with a log-probability written as a JSON literal."""
    top = [{"token": "yes", "logprob": "@", "bytes": None}]
    logprobs = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    return Answer(json.dumps(completion("yes", logprobs=logprobs)).replace('"@"', logprob).encode())


def raw(data: bytes) -> Answer:
    """Returns a response of raw bytes, after which the connection closes."""
    return Answer(write=lambda send, _: send(data))


def endless(head: bytes, part: bytes, wait: float = 0.0) -> Answer:
    """Returns a response that repeats a part until the client leaves or the server closes."""

    def write(send: Write, closing: threading.Event) -> None:
        send(head)
        while not closing.wait(wait):
            send(part)

    return Answer(write=write)


def encoded(encoding: str, data: bytes) -> Answer:
    """Returns a response with a content encoding."""
    return Answer(data, headers={"Content-Encoding": encoding})


def nested(depth: int) -> bytes:
    """Returns a list of lists."""
    return b"[" * depth + b"]" * depth


def bomb(megabytes: int) -> bytes:
    """Returns a gzip file of a JSON text of spaces."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block depends on nothing before it.
    block = packer.compress(b" " * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * megabytes


def _crlf(*lines: str) -> bytes:
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


ESCAPED_KEY = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
BOMB = bomb(300)
BIG = b'{"choices": [' + b"[]," * 190_000 + b"[]]}"

REPLIES: dict[str, Answer] = {
    # Bodies that are no completion.
    "empty": Answer(b""),
    "null": Answer(b"null"),
    "number": Answer(b"5"),
    "list": Answer(b"[]"),
    "text": Answer(b'"text"'),
    "object": Answer(b"{}"),
    "truncated": Answer(b'{"choices": [{"message": {"content": "ye'),
    "brackets": Answer(b"[" * DEEP),
    "braces": Answer(b'{"a":' * DEEP),
    "deep-choices": Answer(b'{"choices": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "many-values": Answer(BIG),
    "too-many-values": Answer(b'{"choices": [' + b"[]," * 300_000 + b"[]]}"),
    "html": Answer(b"<html>login</html>", headers={"Content-Type": "text/html"}),
    "events": Answer(b"data: {}\n\n" * 50, headers={"Content-Type": "text/event-stream"}),
    "utf-16": Answer(json.dumps(completion("yes")).encode("utf-16")),
    "latin-1": Answer(b'{"choices": [{"message": {"content": "\xe9"}}]}'),
    "nul": Answer(b"\0" * 1000),
    "codec": Answer(b"x" * 100, headers={"Content-Type": "application/json; charset=zlib"}),
    "bad-codec": Answer(b"x" * 100, 500, {"Content-Type": "text/plain; charset=undefined"}),
    # Nested as deeply as can be parsed, but hardly be printed.
    "nested-list": Answer(nested(940)),
    "nested-refusal": literal("refusal", f'"x", "refusal": {nested(930).decode()}'),
    "nested-code": Answer(b'{"error": {"code": ' + nested(930) + b"}}", 400),
    # Completions with odd fields.
    "choices-number": with_fields(choices=5),
    "choices-text": with_fields(choices="abc"),
    "choices-null": with_fields(choices=None),
    "choices-empty": with_fields(choices=[]),
    "choices-object": with_fields(choices={"0": {}}),
    "choices-numbers": with_fields(choices=[5, None, []]),
    "message-number": choice(message=5),
    "message-list": choice(message=[{}]),
    "content-number": message(content=5),
    "content-bool": message(content=True),
    "content-object": message(content={"text": "yes"}),
    "content-parts": message(content=[5, None, {"text": 5}, {"type": "text", "text": "yes"}]),
    "content-null": message(content=None),
    "content-brackets": says("[" * DEEP),
    "content-braces": says('{"a":' * DEEP),
    "content-nested": says("[1," * DEEP),
    "content-long": says("yes " * 250_000),
    "content-stars": says("**a " * 10_000),
    "surrogate": literal("surrogate", r'"\ud800 yes"'),
    "long-number": literal("number", "1" + "0" * 5000),
    "infinity": literal("infinity", "Infinity"),
    "finish-object": choice(finish_reason={"a": 1}),
    "finish-number": choice(finish_reason=5),
    "refusal-object": message(refusal={"why": "no"}),
    "refusal-long": message(refusal="no " * 100_000),
    "thinking": says("<think>" + "hm " * 1000),
    "reasoning-only": message(content="", reasoning_content="hm " * 1000),
    "cut": says("", finish="length"),
    "usage-number": with_fields(usage=5),
    "usage-text": with_fields(usage={"prompt_tokens": "x", "completion_tokens": []}),
    "usage-huge": Answer(
        json.dumps({**completion("yes"), "usage": {"prompt_tokens": "@"}})
        .replace('"@"', "1" + "0" * 400)
        .encode()
    ),
    "usage-negative": with_fields(usage={"prompt_tokens": -5, "completion_tokens": -1}),
    "model-list": with_fields(model=[KEY], id={"a": KEY}),
    "logprobs-number": choice(logprobs=5),
    "logprobs-numbers": choice(logprobs={"content": [5, {"token": 5, "top_logprobs": 5}]}),
    "logprob-text": alternatives('"x"'),
    "logprob-nan": alternatives("NaN"),
    "logprob-huge": alternatives("-1" + "0" * 400),
    # Statuses and headers.
    "no-content": Answer(b"", 204),
    "redirect-loop": Answer(b"", 307, {"Location": "/v1/chat/completions"}),
    "redirect-away": Answer(b"", 307, {"Location": "http://localhost:9/v1/chat/completions"}),
    "redirect-file": Answer(b"", 302, {"Location": "file:///etc/passwd"}),
    "redirect-nowhere": Answer(b"", 301),
    "unauthorized": error(401, f"Incorrect API key provided: {KEY}"),
    "not-found": Answer(b"", 404),
    "deep-error": Answer(b"[" * DEEP, 400),
    "error-number": Answer({"error": 5}, 500),
    "retry-late": error(429, "slow down", retry_after="1e9"),
    "retry-never": error(503, "down", retry_after="soon"),
    "brotli": encoded("br", b"\x00" * 100),
    "twice-packed": encoded("gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
    "damaged-gzip": encoded("gzip", b"\x1f\x8b" + b"x" * 100),
    "gzip-bomb": encoded("gzip", BOMB),
    "error-bomb": Answer(BOMB, 500, {"Content-Encoding": "gzip"}),
    "bare-deflate": encoded("deflate", zlib.compress(b"{}")[2:-4]),
    # The wire.
    "reset": Answer(reset=True),
    "closed": raw(b""),
    "garbage": raw(struct.pack("64B", *range(64))),
    "no-head": raw(b"hello"),
    "bad-length": raw(_HEAD + b"Content-Length: -5\r\n\r\n{}"),
    "short-body": raw(_HEAD + b"Content-Length: 500\r\n\r\n{}"),
    "bad-chunk": raw(_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    "long-header": raw(_HEAD + b"X-A: " + b"a" * 300_000 + b"\r\n\r\n{}"),
    "endless": endless(_crlf(_HEAD.decode().rstrip()), b"[" * 60_000),
    "endless-error": endless(_crlf("HTTP/1.1 500 Oops"), b"x" * 60_000),
    "endless-continue": endless(b"", _crlf("HTTP/1.1 103 Early Hints"), wait=0.01),
    "endless-headers": endless(_HEAD, b"X", wait=0.05),
    "trickle": endless(_crlf(_HEAD.decode().rstrip()), b" ", wait=0.05),
    "silence": Answer(wait=30.0),
    # The key, sent back.
    "key-in-text": says(f"the key is {KEY}"),
    "key-in-json": says(json.dumps({"hypotheses": [f"key {KEY}"], "score": 1, "reason": KEY})),
    "key-escaped": says(
        f'{{"hypotheses": ["key {ESCAPED_KEY}"], "score": 1, "reason": "{ESCAPED_KEY}"}}'
    ),
    "key-escaped-twice": literal("escaped", f'"the key is {ESCAPED_KEY}"'),
    "key-in-refusal": message(refusal=f"not with {KEY}"),
    "key-in-model": with_fields(model=KEY, id=KEY),
    "key-in-finish": choice(finish_reason=KEY),
    "key-in-error": error(400, f"bad header Bearer {KEY}"),
    "key-in-page": Answer(f"<html>{KEY}</html>".encode(), 500),
    "key-in-headers": Answer(completion("yes"), headers={"x-request-id": KEY, "X-Echo": KEY}),
    "key-in-reason": raw(f"HTTP/1.1 418 {KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
}
