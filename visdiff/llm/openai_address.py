"""The base URL of an OpenAI-compatible endpoint: path, query, and how the key is sent.

Azure OpenAI has two forms. The older one names a deployment and has the API version in its query
(``https://NAME.openai.azure.com/openai/deployments/MODEL?api-version=2024-10-21``); it takes the
key in the header ``api-key``. The newer one (``https://NAME.openai.azure.com/openai/v1``) is like
OpenAI's, with or without a version in its query.
"""

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from visdiff.errors import InputError

_CALL = "/chat/completions"
_VERSION = "api-version"


@dataclass(frozen=True)
class Address:
    """A base URL in its parts.

    Attributes:
        base_url: URL without query, to which the SDK appends the path of a call.
        query: Parameters that are sent with every call.
        endpoint: URL without user, password and query, for messages and cache keys.
    """

    base_url: str
    query: dict[str, str]
    endpoint: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Parses a base URL, with or without a query; the URL of the call itself is accepted too.

        Raises:
            InputError: The URL is invalid.
        """
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            parts, host, port, query = None, None, None, {}
        if parts is None or parts.scheme not in ("http", "https") or not host:
            raise InputError(
                "Expected the base URL of an endpoint, such as http://localhost:8000/v1, got "
                "something else; check base_url and OPENAI_BASE_URL."
            )
        path = parts.path.rstrip("/").removesuffix(_CALL)
        host = f"[{host}]" if ":" in host else host
        place = f"{host}{f':{port}' if port else ''}"
        if "/openai/deployments/" in path and _VERSION not in query:
            raise InputError(
                f"Expected a base URL of an Azure deployment with its {_VERSION} in the query, got "
                f"{parts.scheme}://{place}{path} without one; append ?{_VERSION}=2024-10-21, or "
                "use the newer form, which ends in /openai/v1."
            )
        return cls(
            f"{parts.scheme}://{parts.netloc}{path}", query, f"{parts.scheme}://{place}{path}"
        )

    @property
    def needs_key(self) -> bool:
        """Whether the endpoint is OpenAI's own, which answers no call without a key."""
        host = urlsplit(self.endpoint).hostname or ""
        return host == "openai.com" or host.endswith(".openai.com")

    @property
    def key_header(self) -> str | None:
        """The header that carries the key; None for ``Authorization``, which most endpoints use."""
        return "api-key" if _VERSION in self.query and not self.endpoint.endswith("/v1") else None
