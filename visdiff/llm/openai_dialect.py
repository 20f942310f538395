"""What an OpenAI-compatible endpoint understands, found out by asking it.

Servers and models differ in the parameters they take. A request begins with everything it wants;
what the endpoint refuses by name is dropped, renamed or asked for in a weaker form, for this and
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

# From what holds a model to the schema, to what only asks it nicely.
_FORMATS = ("json_schema", "json_object", "text")
_FORMAT_NAMES = r"response_format|json_schema|json_object|structured.outputs?|guided_|grammar"
_LENGTHS = ("max_tokens", "max_completion_tokens")
# Fewer alternatives where an endpoint has a lower limit; 0 asks for none.
_TOP_LOGPROBS = (20, 5, 0)
_OPTIONAL = ("temperature", "seed")


class Dialect:
    """The parameters of a call, and what has been learned about them; threads may share one.

    Args:
        model: Sent with every call.
        detail: Resolution at which pictures are read: "low", "high", "auto", or None, the
            endpoint's own.
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
    def left_out(self) -> tuple[str, ...]:
        """What this endpoint does not take: parameters, formats, log-probabilities."""
        with self._lock:
            return (
                *sorted(self._dropped),
                *_FORMATS[: self._format],
                *(("logprobs",) if not _TOP_LOGPROBS[self._logprobs] else ()),
            )

    def parameters(
        self, request: Request, correction: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        """Write a call.

        Args:
            request: What is asked.
            correction: An answer that was not what was asked for, and why; it is asked again.
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
            # Another sample of the same question is another answer.
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
            told = f"That does not fit: {reason}. {instruction(request)}"
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": told},
            ]
        elif request.schema is not None and style != "json_schema":
            messages.append({"role": "user", "content": instruction(request)})
        return {name: value for name, value in call.items() if name not in dropped}

    def refused(self, sent: Mapping[str, Any], param: str | None, text: str) -> bool:
        """Learn from a call that was refused.

        Args:
            sent: The call's parameters.
            param: The parameter that the endpoint blames, where it says so in a field.
            text: What it says.

        Returns:
            Whether the same request, written anew, is worth another call.
        """
        blamed = param.partition(".")[0] if param else None

        def named(pattern: str) -> bool:
            if blamed in sent:
                return re.fullmatch(pattern, str(blamed)) is not None
            return re.search(rf"(?<![a-z_])(?:{pattern})", text, re.IGNORECASE) is not None

        with self._lock:
            if "response_format" in sent and named(_FORMAT_NAMES):
                return self._weaken(_style(sent))
            if "top_logprobs" in sent and named("top_logprobs|logprobs?"):
                # A limit on their number says so; anything else is about log-probabilities at all.
                place = _TOP_LOGPROBS.index(sent["top_logprobs"])
                limited = place == 0 and re.search(r"top_logprobs|max|less|at most|range", text)
                place = place + 1 if limited else len(_TOP_LOGPROBS) - 1
                self._note(self._logprobs < place, "logprobs" if not limited else "20 top_logprobs")
                self._logprobs = max(self._logprobs, place)
                return True
            for name in _OPTIONAL:
                if name in sent and named(name):
                    self._note(name not in self._dropped, name)
                    self._dropped.add(name)
                    return True
            # Never left out: without it, a reply may cost any amount. Only a wrong name is changed.
            if _LENGTHS[0] in sent and (
                _LENGTHS[1] in text
                or (named(_LENGTHS[0]) and re.search("(?i)unsupported|not support", text))
            ):
                self._length = 1
                return True
        return False

    def ignored(self, sent: Mapping[str, Any]) -> None:
        """Learn from a whole answer that the format it was asked for in did not hold."""
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
            logger.warning("%s does not take %s: it is left out from now on", self.model, what)

    def _message(self, message: Message) -> dict[str, Any]:
        if not any(isinstance(part, Picture) for part in message.parts):
            # Some servers take lists only from models with vision.
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
