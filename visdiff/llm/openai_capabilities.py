"""The parameters that an OpenAI-compatible endpoint accepts, detected from its errors.

Servers and models differ in the parameters that they accept. The first call uses all of them. A
parameter that the endpoint rejects is dropped, renamed or replaced by a weaker one, for this and
all later calls.
"""

import base64
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from visdiff.llm import Message, Picture, Request
from visdiff.llm.structured import instruction, is_strict

logger = logging.getLogger(__name__)

# From constrained decoding to an instruction in the prompt.
_FORMATS = ("json_schema", "json_object", "text")
_FORMAT_NAMES = r"response_format|json_schema|json_object|structured.outputs?|guided_|grammar"
_LENGTHS = ("max_tokens", "max_completion_tokens")
# Numbers of alternatives to try, since some endpoints have a lower limit; 0 requests none.
_TOP_LOGPROBS = (20, 5, 0)
_OPTIONAL = ("temperature", "seed")


class EndpointCapabilities:
    """The parameters that an endpoint accepts; thread-safe.

    Args:
        model: Name of the model, sent with every call.
        detail: Image resolution: "low", "high" or "auto"; the endpoint's default when None.
    """

    def __init__(self, model: str, detail: str | None = None) -> None:
        self.model = model
        self.detail = detail
        self._lock = threading.Lock()
        self._format = 0
        self._length = 0
        self._logprobs = 0
        self._dropped: set[str] = set()

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Parameters, response formats and log-probabilities that the endpoint has rejected."""
        with self._lock:
            return (
                *sorted(self._dropped),
                *_FORMATS[: self._format],
                *(("logprobs",) if not _TOP_LOGPROBS[self._logprobs] else ()),
            )

    def parameters(
        self, request: Request, correction: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        """Returns the parameters of a call.

        Args:
            request: The request.
            correction: An invalid reply and the reason, when the request is repeated.
        """
        with self._lock:
            style, length = _FORMATS[self._format], _LENGTHS[self._length]
            top, dropped = _TOP_LOGPROBS[self._logprobs], set(self._dropped)
        messages = [self._message(message) for message in request.messages]
        call: dict[str, Any] = {"model": self.model, "messages": messages}
        if request.max_tokens is not None:
            call[length] = request.max_tokens
        if request.temperature is not None:
            call["temperature"] = request.temperature
        if request.seed is not None:
            # Each sample of the same question needs its own seed.
            call["seed"] = request.seed + request.sample
        if request.choices and top:
            call["logprobs"] = True
            call["top_logprobs"] = top
        if request.schema is not None and style == "json_schema":
            call["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": "reply",
                    "schema": dict(request.schema),
                    "strict": is_strict(request.schema),
                },
            }
        elif request.schema is not None and style == "json_object":
            call["response_format"] = {"type": "json_object"}
        if correction is not None:
            text, reason = correction
            correction_text = f"That does not fit: {reason}. {instruction(request)}"
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": correction_text},
            ]
        elif request.schema is not None and style != "json_schema":
            messages.append({"role": "user", "content": instruction(request)})
        return {name: value for name, value in call.items() if name not in dropped}

    def learn_from_rejection(self, sent: Mapping[str, Any], param: str | None, text: str) -> bool:
        """Adapts to a rejected call.

        Args:
            sent: Parameters of the call.
            param: The rejected parameter, if the error names it in a field.
            text: The error message.

        Returns:
            Whether the same request should be sent again, with the adapted parameters.
        """
        blamed = param.partition(".")[0] if param else None

        def mentions(pattern: str) -> bool:
            if blamed in sent:
                return re.fullmatch(pattern, str(blamed)) is not None
            return re.search(rf"(?<![a-z_])(?:{pattern})", text, re.IGNORECASE) is not None

        with self._lock:
            if "response_format" in sent and mentions(_FORMAT_NAMES):
                return self._weaken(_style(sent))
            if "top_logprobs" in sent and mentions("top_logprobs|logprobs?"):
                # Either their number is limited, or log-probabilities are not supported at all.
                place = _TOP_LOGPROBS.index(sent["top_logprobs"])
                limited = place == 0 and re.search(r"top_logprobs|max|less|at most|range", text)
                place = place + 1 if limited else len(_TOP_LOGPROBS) - 1
                self._note(self._logprobs < place, "logprobs" if not limited else "20 top_logprobs")
                self._logprobs = max(self._logprobs, place)
                return True
            for name in _OPTIONAL:
                if name in sent and mentions(name):
                    self._note(name not in self._dropped, name)
                    self._dropped.add(name)
                    return True
            # Renamed but never dropped: without it the cost of a reply is unbounded.
            if _LENGTHS[0] in sent and (
                _LENGTHS[1] in text
                or (mentions(_LENGTHS[0]) and re.search("(?i)unsupported|not support", text))
            ):
                self._length = 1
                return True
        return False

    def learn_from_invalid_reply(self, sent: Mapping[str, Any]) -> None:
        """Uses a weaker response format after a complete but invalid reply."""
        with self._lock:
            if "response_format" in sent:
                self._weaken(_style(sent))

    def _weaken(self, style: str) -> bool:
        place = _FORMATS.index(style) + 1
        self._note(self._format < place, style)
        self._format = max(self._format, place)
        return True

    def _note(self, new: bool, what: str) -> None:
        if new:
            logger.warning("%s does not accept %s; it is omitted from now on", self.model, what)

    def _message(self, message: Message) -> dict[str, Any]:
        if not any(isinstance(part, Picture) for part in message.parts):
            # Some servers accept lists of parts only for models with vision.
            text = "\n".join(part for part in message.parts if isinstance(part, str))
            return {"role": message.role, "content": text}
        return {"role": message.role, "content": [self._part(part) for part in message.parts]}

    def _part(self, part: str | Picture) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        data = base64.b64encode(part.data).decode("ascii")
        image = {"url": f"data:{part.media_type};base64,{data}"}
        if self.detail is not None:
            image["detail"] = self.detail
        return {"type": "image_url", "image_url": image}


def _style(sent: Mapping[str, Any]) -> str:
    return sent["response_format"]["type"]
