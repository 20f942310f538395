"""A local chat endpoint whose behaviour, faults included, is set by the test."""

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Call:
    """One HTTP request.

    Attributes:
        path: Path, such as "/v1/chat/completions".
        body: The JSON body.
        headers: Headers by lower-case name.
        text: The text of all messages, one line each.
        attempt: Number of calls with this text so far, this one included.
    """

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    text: str
    attempt: int


@dataclass(frozen=True)
class Answer:
    """An HTTP response.

    Attributes:
        body: Sent as JSON; bytes are sent unchanged.
        status: HTTP status.
        headers: Headers in addition to length and type.
        keep: Number of bytes sent before the connection is closed; None sends all.
        reset: Whether the connection is reset instead.
        wait: Seconds to wait before the response.
        write: Writes the whole response instead, given a function that sends bytes and an event
            that is set when the server closes.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    keep: int | None = None
    reset: bool = False
    wait: float = 0.0
    write: Callable[[Callable[[bytes], Any], threading.Event], None] | None = None


def completion(
    content: Any,
    *,
    finish: str | None = "stop",
    refusal: str | None = None,
    logprobs: Any = None,
    tokens: tuple[int, int] = (10, 2),
    model: str = "served-model",
) -> dict[str, Any]:
    """Returns a chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
        },
    }


def says(content: Any, **more: Any) -> Answer:
    """Returns a response with a chat completion."""
    return Answer(completion(content, **more), headers={"x-request-id": "req-7"})


def error(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    retry_after: str | None = "0.01",
) -> Answer:
    """Returns an error response in the format of OpenAI, with a short Retry-After."""
    body = {"error": {"message": message, "type": "error", "code": code, "param": param}}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Answer(body, status, headers)


def alternatives(**probabilities: float) -> dict[str, Any]:
    """Returns the log-probabilities of a reply of one token."""
    import math

    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in probabilities.items()]
    return {"content": [{**top[0], "top_logprobs": top}], "refusal": None}


class ChatServer:
    """A server on loopback that runs inside a ``with`` block.

    Args:
        behave: Returns the response to a call; may be replaced while the server runs.

    Attributes:
        calls: All calls, in order.
        busiest: Maximum number of concurrent calls.

    Raises:
        Exception: An error of ``behave``, at the end of the block.
    """

    def __init__(self, behave: Callable[[Call], Answer]) -> None:
        self.behave = behave
        self.calls: list[Call] = []
        self.busiest = 0
        self._busy = 0
        self._attempts: Counter[str] = Counter()
        self._errors: list[Exception] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Without this, each response of two packets waits 40 ms for an acknowledgement.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # Some tests disconnect the client on purpose.

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = _text(body)
        with self._lock:
            self._attempts[text] += 1
            headers = {name.lower(): value for name, value in handler.headers.items()}
            call = Call(handler.path, body, headers, text, self._attempts[text])
            self.calls.append(call)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            answer = self.behave(call)
        except Exception as error:
            self._errors.append(error)
            raise
        else:
            self._send(handler, answer)
        finally:
            with self._lock:
                self._busy -= 1

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.wait:
            self._closing.wait(answer.wait)
        if answer.reset:
            # A linger time of zero makes the kernel send RST.
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.close_connection = True
            handler.connection.close()
            return
        if answer.write is not None:
            handler.close_connection = True
            answer.write(handler.connection.sendall, self._closing)
            return
        raw = isinstance(answer.body, bytes)
        data = answer.body if raw else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        headers = {"Content-Type": "application/json", **answer.headers}
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data if answer.keep is None else data[: answer.keep])
        if answer.keep is not None:
            handler.wfile.flush()
            handler.close_connection = True


def _text(body: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for message in body.get("messages", ()):
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        lines += [part["text"] for part in parts if "text" in part]
    return "\n".join(lines)
