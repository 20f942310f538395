"""Any OpenAI-compatible endpoint: OpenAI, vLLM, Ollama, llama.cpp and others.

Chat completions are what all of them have in common. Retries of what may pass (429 with its
Retry-After, 5xx, timeouts, lost connections) are the SDK's; what an endpoint does not understand is
learned (`visdiff.llm.openai_dialect`); a reply that is not what was asked for is asked for once
more, and then is a failure.
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
from visdiff.llm.openai_dialect import Dialect
from visdiff.llm.openai_faults import OVERLONG, Teller, details
from visdiff.llm.streaming import Admit, Result, StreamingChat, always, concurrently
from visdiff.llm.structured import UnfitError, fitted, spoken

# Part of the cache key: raise it when what is sent for the same request changes.
_PROTOCOL = 1
_OPENAI = "https://api.openai.com/v1"
# Calls for one request, each after learning something new about the endpoint.
_MOST_CALLS = 10
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "refusal", "prohibited_content")
_WHOLE_MASS = 0.5


class OpenAIChat(StreamingChat):
    """A model behind an OpenAI-compatible endpoint.

    The key is read from ``OPENAI_API_KEY`` and from nowhere else. Endpoints other than OpenAI's are
    used without one when it is not set, as local servers are.

    Args:
        model: Name that the endpoint knows it by.
        base_url: Address of the endpoint, such as "http://localhost:8000/v1"; by default
            ``$OPENAI_BASE_URL``, else OpenAI's.
        concurrency: Most calls at a time.
        timeout: Seconds to wait for an answer.
        max_retries: Repeats of a call that was turned away or lost.
        vision: Whether the model reads pictures.
        detail: Resolution at which it reads them ("low", "high", "auto"); None is its own.
        **_: Fields of the configuration that mean nothing here.

    Raises:
        InputError: No model is named, the address is none, or a number is out of range.
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
                "expected the name of a model for the chat endpoint, got none: set the llm's model."
            )
        if concurrency < 1 or max_retries < 0 or not timeout > 0:
            raise InputError(
                "expected concurrency of at least 1, max_retries of at least 0 and a positive "
                f"timeout, got {concurrency}, {max_retries} and {timeout}: change them."
            )
        self.model = model
        self.concurrency = concurrency
        self.timeout = float(timeout)
        self.max_retries = max_retries
        self.vision = vision
        self.detail = detail
        self._base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).rstrip("/")
        self.endpoint = _shown(self._base_url)
        self._dialect = Dialect(model, detail)
        self._lock = threading.Lock()
        self._ready: tuple[Any, Teller] | None = None
        self._answered = False

    def __repr__(self) -> str:
        return f"OpenAIChat({self.model!r}, base_url={self.endpoint!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent to another process: without the connection and the key, which that one has its own.
        return _rebuilt, (
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
        """Backend, endpoint, model."""
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
    def sees(self) -> bool:
        """Whether pictures may be in a message: what ``vision`` says."""
        return self.vision

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was asked for so far, and this endpoint does not take."""
        return self._dialect.left_out

    def check(self, requests: Sequence[Request]) -> None:
        """Find out, without a call, whether requests can be put to the endpoint.

        Raises:
            InputError: One cannot, or there is no key for OpenAI.
        """
        super().check(requests)
        self._connect()

    def stream(
        self, requests: Sequence[Request], admit: Admit = always
    ) -> Iterator[tuple[int, Result]]:
        """Answer every request as replies arrive (see `StreamingChat.stream`).

        Raises:
            InputError: A wrong key, an unknown model, a text longer than the context, pictures for
                a model that does not see, or nobody listens at the address.
        """
        self.check(requests)
        watch = _Watch(most_lost=2 * self.concurrency)

        def admitted(request: Request) -> Result | None:
            return watch.verdict() or admit(request)

        def ask(request: Request) -> Result:
            return watch.saw(self._ask(request))

        yield from concurrently(ask, requests, workers=self.concurrency, admit=admitted)

    def _connect(self) -> tuple[Any, Teller]:
        with self._lock:
            if self._ready is None:
                key = os.environ.get("OPENAI_API_KEY", "").strip()
                host = urlsplit(self._base_url).hostname or ""
                if not key and (host == "openai.com" or host.endswith(".openai.com")):
                    raise InputError(
                        f"expected a key for {self.endpoint}, got none: set OPENAI_API_KEY, or "
                        "give the base URL of an endpoint that needs no key."
                    )
                client = openai.OpenAI(
                    api_key=key or "none",
                    base_url=self._base_url,
                    timeout=self.timeout,
                    max_retries=self.max_retries,
                )
                self._ready = client, Teller(self.endpoint, self.model, key or None)
            return self._ready

    def _ask(self, request: Request) -> Result:
        """Ask until there is an answer or a reason; runs in a worker thread."""
        client, teller = self._connect()
        spent, correction, garbled = Usage(), None, False
        for _ in range(_MOST_CALLS):
            sent = self._dialect.parameters(request, correction)
            try:
                completion = client.chat.completions.create(**sent)
            except openai.APIStatusError as error:
                if error.status_code in (400, 422) and self._learned(sent, error):
                    continue
                return _costing(teller.status(error, _has_pictures(request)), spent)
            except openai.APITimeoutError:
                return Failure(f"no answer within {self.timeout:g} s", "timeout", spent)
            except openai.APIConnectionError as error:
                if not self._answered and (wrong := teller.unreachable(error)):
                    raise wrong from None
                reason = f"the connection was lost: {teller.clean(error.__cause__ or error)}"
                return Failure(reason, "connection", spent)
            except (openai.OpenAIError, ValueError) as error:
                # A body that is no JSON, although it says so: cut on its way, often.
                if not garbled:
                    garbled = True
                    continue
                reason = f"the endpoint's answer cannot be read: {teller.clean(error)}"
                return Failure(reason, "http", spent)
            if not hasattr(completion, "choices"):
                if not garbled:
                    garbled = True
                    continue
                reason = f"expected a chat completion, got {teller.clean(completion)!r}"
                return Failure(reason, "http", spent)
            self._answered = True
            spent = added(spent, getattr(completion, "usage", None))
            result = read_reply(completion, request, spent)
            if not isinstance(result, Unfit):
                return result
            if correction is not None:
                return Failure(result.reason, "parse", spent)
            self._dialect.ignored(sent)
            correction = result.text, result.reason
        return Failure("the endpoint refuses every form of the request", "http", spent)

    def _learned(self, sent: Mapping[str, Any], error: openai.APIStatusError) -> bool:
        words = details(error)
        # A text over the context names max_tokens too, and is nothing to be learned from.
        if OVERLONG.search(words):
            return False
        param = error.param if isinstance(error.param, str) else None
        return self._dialect.refused(sent, param, words)


class Unfit:
    """An answer that is not what was asked for."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason


class _Watch:
    """Stops a run in which every further call would fail in the same way."""

    def __init__(self, most_lost: int) -> None:
        self._lock = threading.Lock()
        self._most_lost = most_lost
        self._lost = 0
        self._broke: Failure | None = None

    def saw(self, result: Result) -> Result:
        """Take note of a result."""
        with self._lock:
            lost = isinstance(result, Failure) and result.kind in ("connection", "timeout")
            self._lost = self._lost + 1 if lost else 0
            if isinstance(result, Failure) and result.kind == "budget":
                self._broke = Failure(f"not asked: {result.reason}", "budget")
            return result

    def verdict(self) -> Failure | None:
        """Return what stands in for a call that is not worth making."""
        with self._lock:
            if self._broke is not None:
                return self._broke
            if self._lost >= self._most_lost:
                reason = f"not asked: the last {self._lost} calls had no answer"
                return Failure(reason, "connection")
            return None


def _rebuilt(*arguments: Any) -> OpenAIChat:
    names = ("model", "base_url", "concurrency", "timeout", "max_retries", "vision", "detail")
    return OpenAIChat(**dict(zip(names, arguments, strict=True)))


def _shown(base_url: str) -> str:
    """Return an address without the secrets that may be in it.

    Raises:
        InputError: It is no address.
    """
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise InputError(
            "expected the base URL of an endpoint, such as http://localhost:8000/v1, got something "
            "else: check base_url and OPENAI_BASE_URL."
        )
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _has_pictures(request: Request) -> bool:
    return any(isinstance(part, Picture) for message in request.messages for part in message.parts)


def _costing(failure: Failure, spent: Usage) -> Failure:
    return Failure(failure.reason, failure.kind, spent)


def added(spent: Usage, usage: Any) -> Usage:
    """Return what was spent with what a completion says that it took."""

    def count(name: str) -> int:
        value = getattr(usage, name, None)
        return value if isinstance(value, int) else 0

    return Usage(
        spent.prompt_tokens + count("prompt_tokens"),
        spent.completion_tokens + count("completion_tokens"),
    )


def read_reply(completion: Any, request: Request, spent: Usage) -> Result | Unfit:
    """Take the answer out of a completion, whatever shape the server gave it."""
    choice = next(iter(completion.choices or ()), None)
    message = getattr(choice, "message", None)
    if choice is None or message is None:
        return Failure("the endpoint gave an answer without choices", "empty", spent)
    finish = str(getattr(choice, "finish_reason", None) or "unknown")
    refusal = getattr(message, "refusal", None)
    if refusal:
        return Failure(f"refused: {' '.join(str(refusal).split())[:200]}", "refusal", spent)
    if finish.lower() in _FILTERED:
        return Failure(f"refused (finish reason {finish})", "refusal", spent)
    if finish.lower() in _CUT:
        return Failure(f"reply cut at {spent.completion_tokens} tokens", "length", spent)
    text = spoken(_text(getattr(message, "content", None)))
    if not text:
        return Failure(f"empty reply (finish reason {finish})", "empty", spent)
    try:
        text, data = fitted(request, text)
    except UnfitError as error:
        return Unfit(text, str(error))
    identity = getattr(completion, "_request_id", None) or getattr(completion, "id", None)
    return Reply(
        text=text,
        data=data,
        probabilities=_probabilities(choice, request.choices) if request.choices else {},
        finish_reason=finish,
        model=str(getattr(completion, "model", None) or ""),
        request_id=str(identity) if identity else None,
        usage=spent,
    )


def _text(content: Any) -> str:
    if isinstance(content, list):
        # Some servers answer in parts, of which those with a text are the answer.
        texts = [p.get("text") if isinstance(p, dict) else getattr(p, "text", "") for p in content]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _probabilities(choice: Any, choices: Sequence[str]) -> dict[str, float]:
    """Grade choices by the probabilities of the first word's alternatives.

    Returns:
        Nothing where the endpoint tells none, where the alternatives are mostly no choice, and
        where one could be the beginning of two choices.
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
        meant = [name for text, name in names.items() if text.startswith(start)]
        if len(meant) > 1 and math.exp(logprob) > 0.01:
            return {}
        if len(meant) == 1:
            mass[meant[0]] += math.exp(logprob)
    total = sum(mass.values())
    return {name: value / total for name, value in mass.items()} if total >= _WHOLE_MASS else {}
