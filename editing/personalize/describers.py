"""Models that write training captions: a captioner of visdiff, or a chat model with vision.

A chat model follows an instruction and can be asked again. A captioner writes what it writes:
BLIP-2 over-describes some subjects and never describes others, and the captions are checked alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from editing.personalize.instructions import VERSION
from visdiff.captioners import Captioner
from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Failure, Message, Picture, Request
from visdiff.llm.pictures import encode_jpeg

Turns = Sequence[str]
"""A conversation about one image: question, reply, question, …; the last is a question."""


@dataclass(frozen=True)
class Described:
    """What a model wrote about images.

    Attributes:
        texts: One text per image, in order; None for failures.
        failures: Index → reason, for exactly the images without a text.
    """

    texts: Sequence[str | None]
    failures: Mapping[int, str] = field(default_factory=dict)


class Describer(Protocol):
    """A model that writes a text about an image.

    Attributes:
        name: What the manifest of captions records.
        follows: Whether it reads the questions of a conversation.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def follows(self) -> bool: ...  # noqa: D102

    def describe(self, images: ImageSet, turns: Sequence[Turns]) -> Described:
        """Describes every image, given one conversation for each."""
        ...


@dataclass(frozen=True)
class CaptionerDescriber:
    """A captioner, which ignores the questions.

    Attributes:
        captioner: The captioner; one that continues a beginning has it as its setting ``prompt``.
        name: What the manifest records.
    """

    captioner: Captioner
    name: str
    follows: bool = field(default=False, init=False)

    def describe(self, images: ImageSet, turns: Sequence[Turns]) -> Described:
        """Captions every image (see `Describer`)."""
        applied = self.captioner.captions(images)
        return Described(applied.values, applied.failures)


@dataclass(frozen=True)
class ChatDescriber:
    """A chat model with vision, which is sent the image with the first question.

    Attributes:
        chat: The chat model.
        max_tokens: Most tokens of a reply; a longer one is a failure and is not cut.
        side: Longest side of the image as sent, in pixels.
        progress: Show a progress bar on stderr.
    """

    chat: ChatModel
    max_tokens: int = 300
    side: int = 768
    progress: bool = False
    follows: bool = field(default=True, init=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return str(dict(self.chat.identity).get("model") or self.chat.identity["backend"])

    def describe(self, images: ImageSet, turns: Sequence[Turns]) -> Described:
        """Asks about every image (see `Describer`).

        Raises:
            InputError: The model has no vision, or cannot be called at all.
        """
        if not self.chat.has_vision:
            raise InputError(
                f"Expected a chat model with vision, got {self.name!r}; choose another model or "
                "the captioner 'blip'."
            )
        texts: list[str | None] = [None] * len(images)
        failures: dict[int, str] = {}
        requests: dict[int, Request] = {}
        for index, conversation in enumerate(turns):
            try:
                picture = encode_jpeg(images.image(index), self.side)
            except UnreadableImageError as error:
                failures[index] = str(error)
            else:
                requests[index] = self._request(conversation, picture)
        replies = self.chat.answer(list(requests.values()), self.progress)
        for index, reply in zip(requests, replies, strict=True):
            if isinstance(reply, Failure):
                failures[index] = reply.reason
            else:
                texts[index] = reply.text
        return Described(texts, failures)

    def _request(self, turns: Turns, picture: Picture) -> Request:
        first = Message("user", (turns[0], picture))
        later = (
            Message("user" if i % 2 else "assistant", (text,)) for i, text in enumerate(turns[1:])
        )
        return Request(
            (first, *later), f"personalize-caption@{VERSION}", max_tokens=self.max_tokens
        )
