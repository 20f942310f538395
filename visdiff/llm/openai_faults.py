"""What an error of an OpenAI-compatible endpoint means: for one request, for the run, for nobody.

No text here holds a key: what servers echo is cleaned first.
"""

import re
from typing import Any

import openai

from visdiff.errors import InputError
from visdiff.llm import Failure

_KEYS = re.compile(r"\b(?:sk|pk|rk|key|gsk|hf|xai)[-_][\w*.\-]{4,}|(?i:bearer)\s+\S+")
OVERLONG = re.compile(
    r"context_length_exceeded|context (?:length|size|window)|maximum context|too many (?:input )?"
    r"tokens|prompt is too long|input is too long|exceeds? the (?:model.s )?maximum (?:number of )?"
    r"(?:input )?tokens",
    re.IGNORECASE,
)
"""What servers say of a text that is longer than the context."""

_BLIND = re.compile(
    r"image input is not supported|not a multimodal model|does not support (?:image|vision|multi)|"
    r"image_url is only supported|at most 0 image|support image input|required for image input|"
    r"(?:image|vision|multimodal)\S* (?:input )?(?:is|are) not supported",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_not_found|(?:unknown|invalid|no such) model\b(?! parameter)|"
    r"model\b.{0,120}(?:does not exist|not found)",
    re.IGNORECASE | re.DOTALL,
)
_UNSAFE = re.compile(
    r"content_filter|content_policy|content management policy|moderation|flagged|invalid_prompt|"
    r"responsible ?ai",
    re.IGNORECASE,
)
_NO_FUNDS = re.compile(r"insufficient_quota|insufficient (?:balance|credits|funds)", re.IGNORECASE)
_SHOWN = 200


class Teller:
    """Says what errors mean, in sentences without secrets.

    Args:
        endpoint: Shown address, without user, password and query.
        model: Asked for.
        key: Taken out of every text; None where there is none.
    """

    def __init__(self, endpoint: str, model: str, key: str | None) -> None:
        self.endpoint = endpoint
        self.model = model
        self._key = key

    def clean(self, text: Any) -> str:
        """Return a server's words on one line, short, without anything that looks like a key."""
        flat = " ".join(str(text).split())
        if self._key:
            flat = flat.replace(self._key, "[key]")
        flat = _KEYS.sub("[key]", flat)
        return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…"

    def status(self, error: openai.APIStatusError, pictures: bool) -> Failure:
        """Say what an HTTP status means once the client has given up.

        Args:
            error: From the client.
            pictures: Whether the request had pictures.

        Returns:
            What is wrong with this request alone.

        Raises:
            InputError: No request of this kind can work.
        """
        said, words = self.clean(error.message), details(error)
        code, where = error.status_code, f"{self.endpoint} (HTTP {error.status_code}: {said})"
        if _UNSAFE.search(words) and code in (400, 403, 422):
            return Failure(f"refused by the endpoint's content filter: {said}", "refusal")
        if code == 402 or _NO_FUNDS.search(words):
            return Failure(f"the account at {where} has nothing left to spend", "budget")
        if code in (401, 403):
            raise InputError(
                f"expected a key that may use model {self.model!r}, got one that is not accepted "
                f"by {where}: set OPENAI_API_KEY to the endpoint's key."
            )
        if code in (400, 413, 422, 500) and OVERLONG.search(words):
            raise InputError(
                f"expected requests that fit the context of model {self.model!r}, got a longer one "
                f"at {where}: send fewer or shorter captions or images, or use another model."
            )
        if pictures and code in (400, 404, 415, 422, 500, 501) and _BLIND.search(words):
            raise InputError(
                f"expected a model that reads pictures, got {self.model!r} at {where}: use a model "
                "with vision, or a method that works on captions."
            )
        if code == 404 or (code == 400 and _NO_MODEL.search(words)):
            raise InputError(
                f"expected an endpoint that serves model {self.model!r}, got none at {where}: "
                "check the model's name and the base URL, which usually ends in /v1."
            )
        return Failure(f"HTTP {code}: {said}", "http")

    def unreachable(self, error: openai.APIConnectionError) -> InputError | None:
        """Return the error of an endpoint where nobody listens; None for a broken connection."""
        # The SDK's transport is httpx or httpx2, depending on its version: known by name only.
        if type(error.__cause__).__name__ != "ConnectError":
            return None
        return InputError(
            f"expected a server at {self.endpoint}, got no connection "
            f"({self.clean(error.__cause__)}): start it, or check the base URL."
        )


def details(error: openai.APIStatusError) -> str:
    """Return all that a server said about an error, its message, code and body."""
    return f"{error.code or ''} {error.message} {error.body or ''}"
