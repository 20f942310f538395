"""A chat model that says what it is told to, for tests and documentation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.llm import Failure, Reply, Request, Usage
from visdiff.llm.streaming import Admit, Result, StreamingChat, always
from visdiff.llm.structured import UnfitError, fitted, spoken

Line = str | Reply | Failure | BaseException


class ScriptedChat(StreamingChat):
    """Answers from a list, in order, or by a function of the request.

    A text goes through the same checks as a real model's: with a schema it has to be JSON that
    fits, and with choices one of them; otherwise it is a failure.

    Args:
        replies: Texts, replies, failures, or exceptions to raise; or a function that returns one.
        vision: Whether pictures may be in a message.
        name: Part of the cache key, beside the texts of a list.
        **_: Fields of the configuration that mean nothing here.

    Attributes:
        requests: What was asked so far, in order.
    """

    def __init__(
        self,
        replies: Sequence[Line] | Callable[[Request], Line],
        vision: bool = True,
        name: str = "scripted",
        **_: Any,
    ) -> None:
        self.name = name
        self.vision = vision
        self.requests: list[Request] = []
        self._function = replies if callable(replies) else None
        self._lines: list[Line] = [] if callable(replies) else list(replies)
        self._said = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend, name, and the digest of a list's texts."""
        identity = {"backend": "scripted", "name": self.name}
        if self._function is None:
            texts = [line if isinstance(line, str) else repr(line) for line in self._lines]
            identity["replies"] = digest_bytes(canonical_json(texts).encode())
        return identity

    @property
    def sees(self) -> bool:
        """Whether pictures may be in a message."""
        return self.vision

    def stream(
        self, requests: Sequence[Request], admit: Admit = always
    ) -> Iterator[tuple[int, Result]]:
        """Say the next lines.

        Raises:
            InputError: There are fewer lines than requests.
        """
        self.check(requests)
        for index, request in enumerate(requests):
            refused = admit(request)
            yield index, refused or self._say(request)

    def _say(self, request: Request) -> Result:
        self.requests.append(request)
        if self._function is not None:
            line = self._function(request)
        elif self._said < len(self._lines):
            line = self._lines[self._said]
            self._said += 1
        else:
            raise InputError(
                f"expected no more requests than the {len(self._lines)} replies of the script, got "
                "another one: add a reply, or give a function."
            )
        if isinstance(line, BaseException):
            raise line
        if not isinstance(line, str):
            return line
        # Blanks stand for tokens: enough to see in a test that something is counted.
        words = [p for m in request.messages for p in m.parts if isinstance(p, str)]
        usage = Usage(len(" ".join(words).split()), len(line.split()))
        text = spoken(line)
        if not text:
            return Failure("empty reply", "empty", usage)
        try:
            text, data = fitted(request, text)
        except UnfitError as error:
            return Failure(str(error), "parse", usage)
        return Reply(text=text, data=data, model=self.name, usage=usage)
