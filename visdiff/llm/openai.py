"""OpenAI-compatible endpoints: OpenAI, vLLM, Ollama, llama.cpp and others.

Only the chat completions API is used, which all of them support. The SDK retries transient errors
(429 with its Retry-After, 5xx, timeouts, lost connections). Parameters that an endpoint rejects are
dropped or replaced (`visdiff.llm.openai_capabilities`). An invalid reply is requested once more,
with a correction, and is then a failure. A truncated reply without text, which is what a reasoning
model returns, is requested once more with a higher limit. Responses have a largest size, calls have
a deadline, and the key is cut out of what the endpoint returns (`visdiff.llm.openai_http`).
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import openai

from visdiff.errors import InputError
from visdiff.llm import Failure, Picture, Request, Usage
from visdiff.llm.openai_address import Address
from visdiff.llm.openai_capabilities import EndpointCapabilities
from visdiff.llm.openai_errors import OVERLONG, ErrorMapper, details, is_cut
from visdiff.llm.openai_http import (
    DEADLINE,
    ENCODINGS,
    MAX_BYTES,
    PROBLEM,
    BoundedClient,
    redact_logs,
    secrets_of,
)
from visdiff.llm.openai_replies import (
    InvalidReply,
    add_usage,
    is_cut_reasoning,
    parse_json,
    read_reply,
    without_secrets,
)
from visdiff.llm.streaming import Admit, Result, StreamingChat, admit_all, concurrently
from visdiff.llm.structured import cut_reply, raise_limit

# Part of the cache key: increase it when the call sent for the same request changes.
_PROTOCOL = 1
_OPENAI = "https://api.openai.com/v1"
# Maximum number of calls for one request, each with fewer or other parameters.
_MAX_CALLS = 10


class OpenAIChat(StreamingChat):
    """A model behind an OpenAI-compatible endpoint.

    The API key is read only from ``OPENAI_API_KEY``. Without it, endpoints other than OpenAI's are
    used without a key, as local servers are.

    Args:
        model: Name of the model at the endpoint.
        base_url: URL of the endpoint, such as "http://localhost:8000/v1"; by default
            ``$OPENAI_BASE_URL``, else OpenAI's.
        concurrency: Maximum number of concurrent calls.
        timeout: Longest time of a call in seconds, to the last byte of its response.
        max_retries: Maximum number of retries of a rejected or lost call.
        vision: Whether the model accepts images.
        detail: Image resolution ("low", "high", "auto"); the endpoint's default when None.
        deadline: Time in seconds after which no further call for a request starts.
        **_: Other fields of the configuration, ignored.

    Raises:
        InputError: There is no model name, the URL is invalid, or a number is out of range.
    """

    _max_bytes: ClassVar[int] = MAX_BYTES

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        concurrency: int = 8,
        timeout: float = 90.0,
        max_retries: int = 4,
        vision: bool = True,
        detail: str | None = None,
        deadline: float = 600.0,
        **_: Any,
    ) -> None:
        if not model:
            raise InputError(
                "Expected the name of a model for the chat endpoint, got none; set the llm's model."
            )
        if concurrency < 1 or max_retries < 0 or not (timeout > 0 and deadline > 0):
            raise InputError(
                "Expected concurrency of at least 1, max_retries of at least 0 and a positive "
                f"timeout and deadline, got {concurrency}, {max_retries}, {timeout} and "
                f"{deadline}; change them."
            )
        self.model = model
        self.concurrency = concurrency
        self.timeout = float(timeout)
        self.max_retries = max_retries
        self.vision = vision
        self.detail = detail
        self.deadline = float(deadline)
        self._base_url = base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        self._address = Address.of(self._base_url)
        self.endpoint = self._address.endpoint
        self._capabilities = EndpointCapabilities(model, detail)
        self._lock = threading.Lock()
        self._parsing = threading.Lock()
        self._ready: tuple[Any, ErrorMapper] | None = None
        self._reached = False

    def __repr__(self) -> str:
        return f"OpenAIChat({self.model!r}, base_url={self.endpoint!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled without the client and the key: the other process has its own.
        return _rebuild, (
            self.model,
            self._base_url,
            self.concurrency,
            self.timeout,
            self.max_retries,
            self.vision,
            self.detail,
            self.deadline,
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend, protocol version, endpoint, model and image detail."""
        identity: dict[str, Any] = {
            "backend": "openai",
            "protocol": _PROTOCOL,
            "endpoint": self.endpoint,
            "model": self.model,
        }
        if self.detail is not None:
            identity["detail"] = self.detail
        return identity

    @property
    def has_vision(self) -> bool:
        """Whether the model accepts images: the argument ``vision``."""
        return self.vision

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Parameters and features that the endpoint has rejected so far."""
        return self._capabilities.unsupported

    def check(self, requests: Sequence[Request]) -> None:
        """Checks requests and API key, without a call.

        Raises:
            InputError: A request is invalid, or OpenAI's endpoint has no key.
        """
        super().check(requests)
        self._connect()

    def stream(
        self, requests: Sequence[Request], admit: Admit = admit_all
    ) -> Iterator[tuple[int, Result]]:
        """Yields a result for every request as replies arrive (see `StreamingChat.stream`).

        Raises:
            InputError: The key is invalid, the model unknown, a text longer than the context, the
                model without vision gets images, or the endpoint cannot be reached.
        """
        self.check(requests)
        breaker = _CircuitBreaker(max_lost=2 * self.concurrency)

        def admit_call(request: Request) -> Result | None:
            return breaker.open_failure() or admit(request)

        def send(request: Request) -> Result:
            return breaker.record(self._send(request))

        yield from concurrently(send, requests, workers=self.concurrency, admit=admit_call)

    def _connect(self) -> tuple[Any, ErrorMapper]:
        with self._lock:
            if self._ready is None:
                key = os.environ.get("OPENAI_API_KEY", "").strip()
                if not key and self._address.needs_key:
                    raise InputError(
                        f"Expected an API key for {self.endpoint}, got none; set OPENAI_API_KEY, "
                        "or the base URL of an endpoint that needs no key."
                    )
                if not (key.isascii() and (key.isprintable() or not key)):
                    raise InputError(
                        "Expected an API key of printable ASCII characters in OPENAI_API_KEY, got "
                        "others; copy the key again."
                    )
                secrets = secrets_of(key, self._base_url)
                redact_logs(secrets)
                client = openai.OpenAI(
                    api_key=key or "none",
                    base_url=self._address.base_url,
                    default_query=self._address.query,
                    default_headers={"Accept-Encoding": ENCODINGS},
                    timeout=self.timeout,
                    max_retries=self.max_retries,
                    http_client=BoundedClient(
                        secrets, self._max_bytes, self._address.key_header, timeout=self.timeout
                    ),
                )
                mapper = ErrorMapper(self.endpoint, self.model, key or None, secrets)
                self._ready = client, mapper
            return self._ready

    def _send(self, request: Request) -> Result:
        """Calls the endpoint until there is a reply or a failure; runs in a worker thread."""
        client, mapper = self._connect()
        ends = time.monotonic() + self.deadline
        DEADLINE.set(ends)
        usage, correction, unreadable, raised = Usage(), None, False, False
        for _ in range(_MAX_CALLS):
            if time.monotonic() > ends:
                return Failure(f"no reply within {self.deadline:g} s", "timeout", usage)
            call = self._capabilities.parameters(request, correction)
            raising = not raised and request.max_tokens is not None
            try:
                response = client.chat.completions.with_raw_response.create(**call).http_response
                problem = response.extensions.get(PROBLEM)
                if problem is not None:
                    return Failure(problem, "http", usage)
                # Objects take many times the memory of their text: one response at a time.
                with self._parsing:
                    completion = parse_json(response.content)
            except openai.APIStatusError as error:
                if is_cut(error):
                    if not raising:
                        return cut_reply(request, usage)
                    request, raised = raise_limit(request), True
                    continue
                if error.status_code in (400, 422) and self._adapt(call, error):
                    continue
                return _with_usage(mapper.map_status(error, _has_pictures(request)), usage)
            except openai.APITimeoutError:
                seconds = min(self.timeout, self.deadline)
                return Failure(f"no reply within {seconds:g} s", "timeout", usage)
            except openai.APIConnectionError as error:
                if not self._reached and (unreachable := mapper.unreachable(error)):
                    raise unreachable from None
                reason = f"the connection was lost: {mapper.clean(error.__cause__ or error)}"
                return Failure(reason, "connection", usage)
            except (openai.OpenAIError, ValueError, RecursionError) as error:
                # A body that is not JSON, often because it was truncated on the way.
                if not unreadable:
                    unreadable = True
                    continue
                reason = f"the endpoint's response cannot be read: {mapper.clean(error)}"
                return Failure(reason, "http", usage)
            if not isinstance(completion, dict) or "choices" not in completion:
                if not unreadable:
                    unreadable = True
                    continue
                reason = f"expected a chat completion, got {mapper.clean(completion)!r}"
                return Failure(reason, "http", usage)
            self._reached = True
            usage = add_usage(usage, completion.get("usage"))
            identity = response.headers.get("x-request-id")
            result = read_reply(completion, request, usage, identity, mapper.clean)
            if raising and is_cut_reasoning(completion, result):
                request, raised = raise_limit(request), True
                continue
            result = without_secrets(result, mapper.secrets)
            if not isinstance(result, InvalidReply):
                return result
            if correction is not None:
                return Failure(result.reason, "parse", usage)
            self._capabilities.learn_from_invalid_reply(call)
            correction = result.text, result.reason
        return Failure("the endpoint rejects every form of the request", "http", usage)

    def _adapt(self, call: Mapping[str, Any], error: openai.APIStatusError) -> bool:
        """Adapts the parameters to a rejected call; returns whether another call may succeed."""
        message = details(error)
        # The error of a text longer than the context mentions max_tokens too.
        if OVERLONG.search(message):
            return False
        param = error.param if isinstance(error.param, str) else None
        return self._capabilities.learn_from_rejection(call, param, message)


class _CircuitBreaker:
    """A circuit breaker, which stops a run when all further calls would fail.

    Args:
        max_lost: Number of consecutive calls without a response that stops the run.
    """

    def __init__(self, max_lost: int) -> None:
        self._lock = threading.Lock()
        self._max_lost = max_lost
        self._lost = 0
        self._fatal: Failure | None = None

    def record(self, result: Result) -> Result:
        """Records a result and returns it."""
        with self._lock:
            lost = isinstance(result, Failure) and result.kind in ("connection", "timeout")
            self._lost = self._lost + 1 if lost else 0
            if isinstance(result, Failure) and result.kind == "budget":
                self._fatal = Failure(f"not sent: {result.reason}", "budget")
            return result

    def open_failure(self) -> Failure | None:
        """Returns the failure of all further calls, or None while calls may succeed."""
        with self._lock:
            if self._fatal is not None:
                return self._fatal
            if self._lost >= self._max_lost:
                reason = f"not sent: the last {self._lost} calls had no response"
                return Failure(reason, "connection")
            return None


def _rebuild(*arguments: Any) -> OpenAIChat:
    names = ("model", "base_url", "concurrency", "timeout", "max_retries", "vision", "detail")
    names = (*names, "deadline")
    return OpenAIChat(**dict(zip(names, arguments, strict=True)))


def _has_pictures(request: Request) -> bool:
    return any(isinstance(part, Picture) for message in request.messages for part in message.parts)


def _with_usage(failure: Failure, usage: Usage) -> Failure:
    return Failure(failure.reason, failure.kind, usage)
