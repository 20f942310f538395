"""The HTTP client of the OpenAI SDK, with a largest response, a deadline, and without secrets.

A server decides how long a response is and when it ends. The client therefore reads every response
itself, in a thread that it stops waiting for at the deadline, and decompresses at most as much as
it keeps. What the SDK receives is complete, short, and free of the secrets of the request.
"""

import logging
import queue
import re
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import openai

MAX_BYTES = 4_000_000
"""Largest response of a chat completion, decompressed. A tree of Python objects takes up to twenty
times as much memory, and long reasoning with log-probabilities less than half of it."""

PROBLEM = "visdiff.problem"
"""Extension of a response that was not read to its end: the reason, as one clause."""

DEADLINE: ContextVar[float] = ContextVar("deadline", default=float("inf"))
"""Time (`time.monotonic`) at which no further attempt starts and none is waited for."""

ENCODINGS = "gzip, deflate"
"""Accepted encodings: those that zlib decompresses in bounded steps."""

# Long enough for the message of an error.
_MAX_ERROR_BYTES = 100_000
_MAX_REDIRECTS = 5
# Shorter "keys" of local servers ("EMPTY", "test") are words that replies contain.
_MIN_SECRET = 8
_REPLACEMENT = "[key]"
_LOGGERS = ("httpx", "httpx2", "openai._base_client")
_CONNECTION_LOGGERS = ("connection", "http11", "http2", "proxy", "socks")


class BoundedClient(openai.DefaultHttpxClient):
    """An HTTP client whose responses are short, on time, and without secrets.

    Args:
        secrets: Texts to cut out of every response (see `secrets_of`).
        max_bytes: Size of the largest response, decompressed.
        key_header: Header that carries the key instead of ``Authorization``, or None.
        **options: Arguments of the SDK's client.
    """

    def __init__(
        self,
        secrets: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        key_header: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._secrets = tuple(secrets)
        self._max_bytes = max_bytes
        self._key_header = key_header

    def __del__(self) -> None:
        # As the SDK's own client: a client that nothing refers to closes its connections.
        with suppress(Exception):
            self.close()

    def send(self, request: Any, **options: Any) -> Any:
        """Sends a request and returns the response, read to its end or to the largest size.

        Args:
            request: The request. Its longest timeout limits the whole attempt.
            **options: Arguments of the SDK's client. Every response is read whole, streamed or not.

        Raises:
            Exception: As the SDK's client, and its timeout error when the attempt takes too long.
        """
        timeouts = request.extensions.get("timeout", {}).values()
        limit = max((t for t in timeouts if t is not None), default=float("inf"))
        ends = min(time.monotonic() + limit, DEADLINE.get())
        if self._key_header and (bearer := request.headers.pop("Authorization", None)):
            request.headers[self._key_header] = bearer.removeprefix("Bearer ")
        options["stream"] = True
        options["follow_redirects"] = False
        found: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                found.put((self._send(request, ends, options), None))
            except Exception as error:
                found.put((None, error))

        remaining = ends - time.monotonic()
        if remaining > 0:
            # A daemon: headers that arrive byte by byte can be abandoned, but not interrupted.
            threading.Thread(target=work, name="visdiff-http", daemon=True).start()
        try:
            response, error = found.get(timeout=max(0.0, min(remaining, threading.TIMEOUT_MAX)))
        except queue.Empty:
            raise _errors().ReadTimeout("the deadline has passed", request=request) from None
        if error is not None:
            raise error
        return response

    def _send(self, request: Any, ends: float, options: dict[str, Any]) -> Any:
        for _ in range(_MAX_REDIRECTS + 1):
            response = super().send(request, **options)
            try:
                following = response.next_request
                # The key is sent to no other host.
                if following is None or following.url.host != request.url.host:
                    return self._read(response, request, ends)
            finally:
                response.close()
            request = following
        raise _errors().TooManyRedirects("too many redirects", request=request)

    def _read(self, response: Any, request: Any, ends: float) -> Any:
        is_error = response.status_code >= 300
        limit = _MAX_ERROR_BYTES if is_error else self._max_bytes
        content, problem = bytearray(), None
        try:
            for part in decompressed(response, limit + 1):
                content += part
                if len(content) > limit:
                    problem = f"the response is larger than {limit / 1e6:g} MB"
                    break
                if time.monotonic() > ends:
                    raise _errors().ReadTimeout("the deadline has passed", request=request)
        except (zlib.error, EncodingError) as error:
            problem = f"the response cannot be decompressed: {error}"
        del content[limit:]
        body = bytes(content)
        content.clear()
        for secret in self._secrets:
            body = _byte_pattern(secret).sub(_REPLACEMENT.encode(), body)
        headers = {
            name: redact(response.headers[name], self._secrets)
            for name in ("content-type", "x-request-id", "retry-after", "retry-after-ms")
            if name in response.headers
        }
        # Without its parameters: some of Python's codecs expand what they decode.
        if "content-type" in headers:
            headers["content-type"] = headers["content-type"].partition(";")[0]
        extensions = {PROBLEM: problem} if problem and not is_error else {}
        return type(response)(
            response.status_code,
            headers=headers,
            content=body,
            request=request,
            extensions=extensions,
        )


class EncodingError(ValueError):
    """A content encoding that is not decompressed."""


def decompressed(response: Any, limit: int) -> Iterator[bytes]:
    """Yields the body of a response, decompressed, in parts of at most ``limit`` bytes.

    Raises:
        EncodingError: The encoding is none of `ENCODINGS`.
        zlib.error: The body is damaged.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        yield from response.iter_raw()
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise EncodingError(f"encoding {encoding[:40]!r}")
    # 32: with the header of gzip or of zlib.
    inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
    first = True
    for raw in response.iter_raw():
        try:
            yield inflate.decompress(raw, limit)
        except zlib.error:
            if not first or encoding != "deflate":
                raise
            # Some servers send deflate without the header.
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            yield inflate.decompress(raw, limit)
        first = False
        while inflate.unconsumed_tail:
            yield inflate.decompress(inflate.unconsumed_tail, limit)


def secrets_of(key: str | None, base_url: str) -> tuple[str, ...]:
    """Returns the texts that must not be kept: the key, and what a URL may hold of the kind.

    Args:
        key: The API key, or None.
        base_url: The URL; its password and the values of its query, except for versions, are
            secrets.
    """
    parts = urlsplit(base_url)
    values = [value for name, value in parse_qsl(parts.query) if "version" not in name.lower()]
    candidates = [key or "", unquote(parts.password or ""), *values]
    return tuple(dict.fromkeys(one for one in candidates if len(one) >= _MIN_SECRET))


def redact(value: Any, secrets: Sequence[str]) -> Any:
    """Returns a JSON value whose texts do not contain the secrets, plain or in JSON's escapes."""
    if isinstance(value, str):
        for secret in secrets:
            value = _pattern(secret).sub(_REPLACEMENT, value)
        return value
    if isinstance(value, list):
        return [redact(item, secrets) for item in value]
    if isinstance(value, dict):
        return {redact(name, secrets): redact(item, secrets) for name, item in value.items()}
    return value


@lru_cache(maxsize=64)
def _pattern(secret: str) -> re.Pattern[str]:
    """Returns a pattern of a text whose characters JSON may have escaped."""
    return re.compile("".join(_character(one) for one in secret))


@lru_cache(maxsize=64)
def _byte_pattern(secret: str) -> re.Pattern[bytes]:
    """Returns the pattern for text that is not decoded."""
    return re.compile(_pattern(secret).pattern.encode())


def _character(one: str) -> str:
    digits = "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in f"{ord(one):04x}")
    return rf"(?:{re.escape(one)}|\\u{digits})"


class _Redacting(logging.Filter):
    """A filter of the HTTP libraries' log records, whose URLs and headers may hold a secret."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: frozenset[str] = frozenset()

    def add(self, secrets: Sequence[str]) -> None:
        """Adds secrets to cut out."""
        self._secrets |= frozenset(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        """Cuts the secrets out of the record's message; keeps every record."""
        message = record.getMessage()
        if any(secret in message for secret in self._secrets):
            record.msg, record.args = redact(message, tuple(self._secrets)), ()
        return True


_REDACTING = _Redacting()


def redact_logs(secrets: Sequence[str]) -> None:
    """Cuts secrets out of the log records of the HTTP libraries, whatever their level."""
    _REDACTING.add(secrets)
    core = (f"{core}.{part}" for core in ("httpcore", "httpcore2") for part in _CONNECTION_LOGGERS)
    for name in (*_LOGGERS, *core):
        # A filter is added once, however often this runs.
        logging.getLogger(name).addFilter(_REDACTING)


def _errors() -> Any:
    """Returns the module of the HTTP library: httpx or httpx2, depending on the SDK's version."""
    base = next(c for c in BoundedClient.__mro__ if c.__module__.startswith("httpx"))
    return sys.modules[base.__module__.partition(".")[0]]
