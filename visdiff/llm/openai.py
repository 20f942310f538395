"""OpenAI-compatible endpoints: OpenAI, vLLM, Ollama, llama.cpp and others.

Only the chat completions API is used, which all of them support. The SDK retries transient errors
(429 with its Retry-After, 5xx, timeouts, lost connections). Parameters that an endpoint rejects are
dropped or replaced (`visdiff.llm.openai_capabilities`). An invalid reply is requested once more,
with a correction, and is then a failure.
"""

import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai

from visdiff.errors import InputError
from visdiff.llm import Failure, Picture, Reply, Request, Usage
from visdiff.llm.openai_capabilities import EndpointCapabilities
from visdiff.llm.openai_errors import OVERLONG, ErrorMapper, details
from visdiff.llm.streaming import Admit, Result, StreamingChat, admit_all, concurrently
from visdiff.llm.structured import InvalidReplyError, strip_reasoning, validate_reply

# Part of the cache key: increase it when the call sent for the same request changes.
_PROTOCOL = 1
_OPENAI = "https://api.openai.com/v1"
# Maximum number of calls for one request, each with fewer or other parameters.
_MAX_CALLS = 10
_TRUNCATED = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "refusal", "prohibited_content")
# Minimum probability of all choices together.
_MIN_TOTAL = 0.5


class OpenAIChat(StreamingChat):
    """A model behind an OpenAI-compatible endpoint.

    The API key is read only from ``OPENAI_API_KEY``. Without it, endpoints other than OpenAI's are
    used without a key, as local servers are.

    Args:
        model: Name of the model at the endpoint.
        base_url: URL of the endpoint, such as "http://localhost:8000/v1"; by default
            ``$OPENAI_BASE_URL``, else OpenAI's.
        concurrency: Maximum number of concurrent calls.
        timeout: Timeout of a call in seconds.
        max_retries: Maximum number of retries of a rejected or lost call.
        vision: Whether the model accepts images.
        detail: Image resolution ("low", "high", "auto"); the endpoint's default when None.
        **_: Other fields of the configuration, ignored.

    Raises:
        InputError: There is no model name, the URL is invalid, or a number is out of range.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        concurrency: int = 8,
        timeout: float = 90.0,
        max_retries: int = 4,
        vision: bool = True,
        detail: str | None = None,
        **_: Any,
    ) -> None:
        if not model:
            raise InputError(
                "Expected the name of a model for the chat endpoint, got none; set the llm's model."
            )
        if concurrency < 1 or max_retries < 0 or not timeout > 0:
            raise InputError(
                "Expected concurrency of at least 1, max_retries of at least 0 and a positive "
                f"timeout, got {concurrency}, {max_retries} and {timeout}; change them."
            )
        self.model = model
        self.concurrency = concurrency
        self.timeout = float(timeout)
        self.max_retries = max_retries
        self.vision = vision
        self.detail = detail
        self._base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).rstrip("/")
        self.endpoint = _without_secrets(self._base_url)
        self._capabilities = EndpointCapabilities(model, detail)
        self._lock = threading.Lock()
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
                host = urlsplit(self._base_url).hostname or ""
                if not key and (host == "openai.com" or host.endswith(".openai.com")):
                    raise InputError(
                        f"Expected an API key for {self.endpoint}, got none; set OPENAI_API_KEY, "
                        "or the base URL of an endpoint that needs no key."
                    )
                client = openai.OpenAI(
                    api_key=key or "none",
                    base_url=self._base_url,
                    timeout=self.timeout,
                    max_retries=self.max_retries,
                )
                self._ready = client, ErrorMapper(self.endpoint, self.model, key or None)
            return self._ready

    def _send(self, request: Request) -> Result:
        """Calls the endpoint until there is a reply or a failure; runs in a worker thread."""
        client, mapper = self._connect()
        usage, correction, unreadable = Usage(), None, False
        for _ in range(_MAX_CALLS):
            call = self._capabilities.parameters(request, correction)
            try:
                completion = client.chat.completions.create(**call)
            except openai.APIStatusError as error:
                if error.status_code in (400, 422) and self._adapt(call, error):
                    continue
                return _with_usage(mapper.map_status(error, _has_pictures(request)), usage)
            except openai.APITimeoutError:
                return Failure(f"no reply within {self.timeout:g} s", "timeout", usage)
            except openai.APIConnectionError as error:
                if not self._reached and (unreachable := mapper.unreachable(error)):
                    raise unreachable from None
                reason = f"the connection was lost: {mapper.clean(error.__cause__ or error)}"
                return Failure(reason, "connection", usage)
            except (openai.OpenAIError, ValueError) as error:
                # A body that is not JSON, often because it was truncated on the way.
                if not unreadable:
                    unreadable = True
                    continue
                reason = f"the endpoint's response cannot be read: {mapper.clean(error)}"
                return Failure(reason, "http", usage)
            if not hasattr(completion, "choices"):
                if not unreadable:
                    unreadable = True
                    continue
                reason = f"expected a chat completion, got {mapper.clean(completion)!r}"
                return Failure(reason, "http", usage)
            self._reached = True
            usage = add_usage(usage, getattr(completion, "usage", None))
            result = read_reply(completion, request, usage)
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


class InvalidReply:
    """A reply that violates the request's schema or choices."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason


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
    return OpenAIChat(**dict(zip(names, arguments, strict=True)))


def _without_secrets(base_url: str) -> str:
    """Returns a URL without user, password and query.

    Raises:
        InputError: The URL is invalid.
    """
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise InputError(
            "Expected the base URL of an endpoint, such as http://localhost:8000/v1, got something "
            "else; check base_url and OPENAI_BASE_URL."
        )
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _has_pictures(request: Request) -> bool:
    return any(isinstance(part, Picture) for message in request.messages for part in message.parts)


def _with_usage(failure: Failure, usage: Usage) -> Failure:
    return Failure(failure.reason, failure.kind, usage)


def add_usage(total: Usage, usage: Any) -> Usage:
    """Returns a total plus the usage that a completion reports, if any."""

    def count(name: str) -> int:
        value = getattr(usage, name, None)
        return value if isinstance(value, int) else 0

    return Usage(
        total.prompt_tokens + count("prompt_tokens"),
        total.completion_tokens + count("completion_tokens"),
    )


def read_reply(completion: Any, request: Request, usage: Usage) -> Result | InvalidReply:
    """Extracts and validates the reply of a completion; tolerates missing fields.

    Args:
        completion: As returned by the SDK.
        request: The request.
        usage: Tokens of all calls for the request.
    """
    choice = next(iter(completion.choices or ()), None)
    message = getattr(choice, "message", None)
    if choice is None or message is None:
        return Failure("the endpoint returned a completion without choices", "empty", usage)
    finish = str(getattr(choice, "finish_reason", None) or "unknown")
    refusal = getattr(message, "refusal", None)
    if refusal:
        return Failure(f"refused: {' '.join(str(refusal).split())[:200]}", "refusal", usage)
    if finish.lower() in _FILTERED:
        return Failure(f"refused (finish reason {finish})", "refusal", usage)
    if finish.lower() in _TRUNCATED:
        return Failure(f"reply cut at {usage.completion_tokens} tokens", "length", usage)
    text = strip_reasoning(_text(getattr(message, "content", None)))
    if not text:
        return Failure(f"empty reply (finish reason {finish})", "empty", usage)
    try:
        text, data = validate_reply(request, text)
    except InvalidReplyError as error:
        return InvalidReply(text, str(error))
    identity = getattr(completion, "_request_id", None) or getattr(completion, "id", None)
    return Reply(
        text=text,
        data=data,
        probabilities=_probabilities(choice, request.choices) if request.choices else {},
        finish_reason=finish,
        model=str(getattr(completion, "model", None) or ""),
        request_id=str(identity) if identity else None,
        usage=usage,
    )


def _text(content: Any) -> str:
    if isinstance(content, list):
        # Some servers return a list of parts; the reply is the text parts.
        texts = [p.get("text") if isinstance(p, dict) else getattr(p, "text", "") for p in content]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _probabilities(choice: Any, choices: Sequence[str]) -> dict[str, float]:
    """Returns the probabilities of the choices from the alternatives of the first token.

    Returns:
        Choice → probability; empty if the endpoint returns no log-probabilities, if most of the
        mass is on no choice, or if an alternative is a prefix of two choices.
    """
    tokens = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    first = next((token for token in tokens if str(getattr(token, "token", "")).strip()), None)
    mass = dict.fromkeys(choices, 0.0)
    names = {name.strip().casefold(): name for name in choices}
    for alternative in getattr(first, "top_logprobs", None) or ():
        start = str(alternative.token).strip().casefold()
        logprob = alternative.logprob
        if not start or not isinstance(logprob, (int, float)) or not logprob <= 0.01:
            continue
        matches = [name for text, name in names.items() if text.startswith(start)]
        if len(matches) > 1 and math.exp(logprob) > 0.01:
            return {}
        if len(matches) == 1:
            mass[matches[0]] += math.exp(logprob)
    total = sum(mass.values())
    return {name: value / total for name, value in mass.items()} if total >= _MIN_TOTAL else {}
