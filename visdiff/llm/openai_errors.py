"""Maps errors of OpenAI-compatible endpoints to failures of a request or errors of the run.

Messages never contain an API key: text from servers is cleaned first.
"""

import re
from collections.abc import Sequence
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
"""Matches server messages about texts longer than the context."""

_NO_VISION = re.compile(
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
_ONE_PICTURE = re.compile(r"at most (?P<count>[1-9]\d*) image", re.IGNORECASE)
_CUT = re.compile(r"(?:max_tokens|output) limit was reached|max_tokens or model output", re.I)
_UNSAFE = re.compile(
    r"content_filter|content_policy|content management policy|moderation|flagged|invalid_prompt|"
    r"responsible ?ai",
    re.IGNORECASE,
)
_NO_FUNDS = re.compile(r"insufficient_quota|insufficient (?:balance|credits|funds)", re.IGNORECASE)
_MAX_LENGTH = 200


class ErrorMapper:
    """A mapping of one endpoint's errors to failures and errors, without secrets in messages.

    Args:
        endpoint: URL of the endpoint without user, password and query.
        model: Name of the model.
        key: The API key, removed from every message; None without a key.
        secrets: Texts to remove from replies too, such as a password in the URL; a short key is
            not among them, since replies contain short words.
    """

    def __init__(
        self, endpoint: str, model: str, key: str | None, secrets: Sequence[str] = ()
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.secrets = tuple(secrets)
        removed: list[str] = [key] if key else []
        self._removed = (*removed, *secrets)

    def clean(self, text: Any) -> str:
        """Returns a server's message on one short line, without anything that looks like a key."""
        flat = " ".join(_text(text).split())
        for secret in self._removed:
            flat = flat.replace(secret, "[key]")
        flat = _KEYS.sub("[key]", flat)
        return flat if len(flat) <= _MAX_LENGTH else flat[: _MAX_LENGTH - 1] + "…"

    def map_status(self, error: openai.APIStatusError, pictures: bool) -> Failure:
        """Maps an HTTP error, after the client's retries.

        Args:
            error: The client's error.
            pictures: Whether the request contained pictures.

        Returns:
            The failure, if only this request is affected.

        Raises:
            InputError: No such request can succeed.
        """
        message, text = self.clean(error.message), details(error)
        code, where = error.status_code, f"{self.endpoint} (HTTP {error.status_code}: {message})"
        if _UNSAFE.search(text) and code in (400, 403, 422):
            return Failure(f"refused by the endpoint's content filter: {message}", "refusal")
        if code == 402 or _NO_FUNDS.search(text):
            return Failure(f"the account at {where} has nothing left to spend", "budget")
        if code in (401, 403):
            raise InputError(
                f"Expected an API key for model {self.model!r}, got one that is not accepted by "
                f"{where}; set OPENAI_API_KEY to the endpoint's key."
            )
        if code in (400, 413, 422, 500) and OVERLONG.search(text):
            raise InputError(
                f"Expected requests that fit the context of model {self.model!r}, got a longer one "
                f"at {where}; send fewer or shorter captions or images, or use another model."
            )
        if pictures and code in (400, 404, 415, 422, 500, 501) and _NO_VISION.search(text):
            raise InputError(
                f"Expected a model that accepts images, got {self.model!r} at {where}; use a model "
                "with vision, or a method that works on captions."
            )
        if pictures and code in (400, 422) and (found := _ONE_PICTURE.search(text)):
            raise InputError(
                f"Expected requests of at most {found['count']} images for model {self.model!r}, "
                f"got more at {where}; use proposer.layout='grid', which sends one."
            )
        if code == 404 or (code == 400 and _NO_MODEL.search(text)):
            raise InputError(
                f"Expected an endpoint that serves model {self.model!r}, got none at {where}; "
                "check the model's name and the base URL, which usually ends in /v1 (for Azure in "
                "/openai/v1, or /openai/deployments/NAME?api-version=VERSION)."
            )
        return Failure(f"HTTP {code}: {message}", "http")

    def unreachable(self, error: openai.APIConnectionError) -> InputError | None:
        """Returns the error for a refused connection; None for a connection that broke."""
        # By name, since the SDK uses httpx or httpx2, depending on its version.
        if type(error.__cause__).__name__ != "ConnectError":
            return None
        return InputError(
            f"Expected a server at {self.endpoint}, got no connection "
            f"({self.clean(error.__cause__)}); start it, or check the base URL."
        )


def is_cut(error: openai.APIStatusError) -> bool:
    """Returns whether a call was rejected because reasoning took all of the reply's limit."""
    return error.status_code == 400 and _CUT.search(details(error)) is not None


def details(error: openai.APIStatusError) -> str:
    """Returns code, message and body of an error as one text."""
    return f"{_text(error.code or '')} {error.message} {_text(error.body or '')}"


def _text(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:
        return "a deeply nested value"
