"""A chat model with predefined replies, for tests and documentation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.llm import Failure, Reply, Request, Usage
from visdiff.llm.streaming import Admit, Result, StreamingChat, admit_all
from visdiff.llm.structured import InvalidReplyError, strip_reasoning, validate_reply

Line = str | Reply | Failure | BaseException


class ScriptedChat(StreamingChat):
    """A chat model that replies from a list, in order, or by a function of the request.

    Texts are validated like the replies of a real model: against the schema or the choices of the
    request. An invalid text is a failure.

    Args:
        replies: Texts, replies, failures, or exceptions to raise; or a function that returns one.
        vision: Whether the model accepts images.
        name: Part of the cache key, in addition to the texts of a list.
        **_: Other fields of the configuration, ignored.

    Attributes:
        requests: The requests so far, in order.
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
        self._position = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend, name, and the digest of a list's texts."""
        identity = {"backend": "scripted", "name": self.name}
        if self._function is None:
            texts = [line if isinstance(line, str) else repr(line) for line in self._lines]
            identity["replies"] = digest_bytes(canonical_json(texts).encode())
        return identity

    @property
    def has_vision(self) -> bool:
        """Whether the model accepts images."""
        return self.vision

    def stream(
        self, requests: Sequence[Request], admit: Admit = admit_all
    ) -> Iterator[tuple[int, Result]]:
        """Yields the next replies.

        Raises:
            InputError: There are fewer replies than requests.
        """
        self.check(requests)
        for index, request in enumerate(requests):
            refused = admit(request)
            yield index, refused or self._next_reply(request)

    def _next_reply(self, request: Request) -> Result:
        self.requests.append(request)
        if self._function is not None:
            line = self._function(request)
        elif self._position < len(self._lines):
            line = self._lines[self._position]
            self._position += 1
        else:
            raise InputError(
                f"Expected no more requests than the {len(self._lines)} replies of the script, got "
                "another one; add a reply, or pass a function."
            )
        if isinstance(line, BaseException):
            raise line
        if not isinstance(line, str):
            return line
        # Words stand in for tokens, so that tests can check the counting.
        words = [p for m in request.messages for p in m.parts if isinstance(p, str)]
        usage = Usage(len(" ".join(words).split()), len(line.split()))
        text = strip_reasoning(line)
        if not text:
            return Failure("empty reply", "empty", usage)
        try:
            text, data = validate_reply(request, text)
        except InvalidReplyError as error:
            return Failure(str(error), "parse", usage)
        return Reply(text=text, data=data, model=self.name, usage=usage)
