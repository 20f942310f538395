"""A local endpoint with the Batch API; tests decide when and how batches end."""

import email
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from chatserver import Answer

Row = dict[str, Any]
Behave = Callable[[Mapping[str, Any]], Answer]
"""Returns the response to the body of a chat completion, in a batch or alone."""


def row(name: str, answer: Answer) -> Row:
    """Returns the output line of a response."""
    request_id = answer.headers.get("x-request-id")
    response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
    return {"id": f"r-{name[-6:]}", "custom_id": name, "response": response, "error": None}


def unprocessed_row(name: str, code: str) -> Row:
    """Returns the output line of a request that was not processed."""
    return {"id": "r", "custom_id": name, "response": None, "error": {"code": code, "message": "-"}}


class BatchServer:
    """A server on loopback inside a ``with`` block; batches are pending until `end` is called.

    Args:
        behave: Returns the response to a chat completion.
        key: The accepted API key; None accepts any.

    Attributes:
        calls: Method and path of every call, in order.
        keys: Authorization headers received.
        batches: Batches by id, in order of creation.
        files: File contents by id.
        fault: Called with method and path before each call is processed; a response that it returns
            is sent instead.
        spoil: The same, after the call is processed.
        page: Number of batches per page of the list.
    """

    def __init__(self, behave: Behave, key: str | None = None) -> None:
        self.behave = behave
        self.key = key
        self.calls: list[tuple[str, str]] = []
        self.keys: set[str] = set()
        self.batches: dict[str, Row] = {}
        self.files: dict[str, bytes] = {}
        self.fault: Callable[[str, str], Answer | None] = lambda method, path: None
        self.spoil: Callable[[str, str], Answer | None] = lambda method, path: None
        self.page = 2
        self.created = threading.Event()
        self._errors: list[Exception] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._serve(self, "GET")

            def do_POST(self) -> None:
                outer._serve(self, "POST")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

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

    def count(self, path: str) -> int:
        """Returns the number of calls that begin so, for example "POST /v1/batches"."""
        return sum(f"{method} {where}".startswith(path) for method, where in self.calls)

    def requests(self, batch: str) -> list[Row]:
        """Returns the input lines of a batch."""
        data = self.files[self.batches[batch]["input_file_id"]]
        return [json.loads(line) for line in data.split(b"\n") if line]

    def output_rows(self, batch: str) -> list[Row]:
        """Returns the output lines of a batch in which every request has a reply."""
        return [row(one["custom_id"], self.behave(one["body"])) for one in self.requests(batch)]

    def end(
        self,
        batch: str,
        status: str = "completed",
        output: Sequence[Row | bytes] | None = None,
        errors: Sequence[Row] = (),
        message: str | None = None,
    ) -> None:
        """Ends a batch.

        Args:
            batch: Id of the batch.
            status: Final status.
            output: Output lines; by default every request has a reply, in reverse order.
            errors: Lines of the error file.
            message: Why the batch failed.
        """
        lines = self.output_rows(batch)[::-1] if output is None else output
        one = self.batches[batch]
        one["status"] = status
        for name, rows in (("output", lines), ("error", errors)):
            if rows:
                data = [r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows]
                one[f"{name}_file_id"] = self._add_file(b"".join(data))
        if message is not None:
            error = {"code": "invalid", "message": message, "line": 1, "param": None}
            one["errors"] = {"object": "list", "data": [error]}

    def _add_file(self, data: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return name

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        where = urlsplit(handler.path)
        with self._lock:
            self.calls.append((method, handler.path))
            self.keys.add(handler.headers["Authorization"])
        try:
            answer = self.fault(method, where.path) or self._reject_key(handler)
            if answer is None:
                with self._lock:
                    answer = self._answer(method, where.path, parse_qs(where.query), handler, data)
                answer = self.spoil(method, where.path) or answer
        except Exception as error:
            self._errors.append(error)
            answer = Answer({"error": {"message": "the test server is broken"}}, 500)
        self._send(handler, answer)

    def _reject_key(self, handler: BaseHTTPRequestHandler) -> Answer | None:
        sent = handler.headers["Authorization"]
        if self.key is None or sent == f"Bearer {self.key}":
            return None
        message = f"Incorrect API key provided: {sent.removeprefix('Bearer ')}"
        return Answer({"error": {"message": message, "code": "invalid_api_key"}}, 401)

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, list[str]],
        handler: BaseHTTPRequestHandler,
        data: bytes,
    ) -> Answer:
        match method, *path.removeprefix("/v1/").split("/"):
            case "POST", "chat", "completions":
                return self.behave(json.loads(data))
            case "POST", "files":
                return Answer({**self._file(self._add_upload(handler, data)), "purpose": "batch"})
            case "POST", "batches":
                return Answer(self._create(json.loads(data)))
            case "GET", "batches":
                return Answer(self._list(query))
            case "GET", "batches", name if name in self.batches:
                return Answer(self.batches[name])
            case "GET", "files", name, "content" if name in self.files:
                return Answer(
                    self.files[name], headers={"Content-Type": "application/octet-stream"}
                )
        return Answer({"error": {"message": f"no {path}"}}, 404)

    def _add_upload(self, handler: BaseHTTPRequestHandler, data: bytes) -> str:
        head = f"Content-Type: {handler.headers['Content-Type']}\r\n\r\n".encode()
        parts: Any = email.message_from_bytes(head + data).get_payload()
        fields = {part.get_param("name", header="content-disposition"): part for part in parts}
        assert fields["purpose"].get_payload() == "batch"
        assert str(fields["file"].get_filename()).endswith(".jsonl")
        return self._add_file(fields["file"].get_payload(decode=True))

    def _file(self, name: str) -> Row:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "created_at": 0,
            "filename": name,
            "status": "processed",
        }

    def _create(self, body: Mapping[str, Any]) -> Row:
        assert body["endpoint"] == "/v1/chat/completions"
        assert body["completion_window"] == "24h"
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": "24h",
            "created_at": 4_000_000_000 + len(self.batches),
            "status": "in_progress",
            "metadata": body.get("metadata"),
        }
        rows = self.requests(name)
        assert all(r["method"] == "POST" and r["url"] == body["endpoint"] for r in rows)
        assert len({r["custom_id"] for r in rows}) == len(rows)
        self.batches[name]["request_counts"] = {"total": len(rows), "completed": 1, "failed": 0}
        self.created.set()
        return self.batches[name]

    def _list(self, query: Mapping[str, list[str]]) -> Row:
        names = list(self.batches)[::-1]
        if "after" in query:
            names = names[names.index(query["after"][0]) + 1 :]
        page = [self.batches[name] for name in names[: self.page]]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(names) > self.page,
        }

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
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        headers = {"Content-Type": "application/json", **answer.headers}
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
