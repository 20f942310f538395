"""Captions by a chat model that sees: any OpenAI-compatible endpoint, or a local image-text model.

The local ones are LLaVA, Qwen-VL and their like: the chat backend `transformers`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from visdiff import prompts
from visdiff.captioners import Captioner
from visdiff.engine import Applied, Runtime
from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Failure, Message, Request
from visdiff.llm.pictures import encode_jpeg

# Images at a time: so many pictures are in memory.
_CHUNK = 64


class ChatCaptioner(Captioner):
    """Asks the configured chat model for one sentence about each image.

    Replies are kept by the chat model's own cache, by the bytes that were sent: an image that is
    copied or renamed costs nothing, one that is changed is asked about again.

    Args:
        llm: Returns the chat model; called when it is first needed.
        prompt: What to ask instead of the prompt `caption`.
        max_new_tokens: Longest caption; a longer one is a failure, not a stump.
        side: Longest side of the image that is sent, pixels.
        runtime: Says whether to show progress.
    """

    name = "chat"
    asks = True

    def __init__(
        self,
        llm: Callable[[], ChatModel],
        prompt: str | None = None,
        max_new_tokens: int = 200,
        side: int = 768,
        runtime: Runtime | None = None,
    ) -> None:
        self._llm = llm
        self.runtime = runtime or Runtime()
        self._prompt = prompts.load("caption")
        self.prompt = prompt or self._prompt.fill()
        self.prompt_id = "the user's" if prompt else self._prompt.id
        self.max_new_tokens = max_new_tokens
        self.side = side

    @property
    def identity(self) -> Mapping[str, Any]:
        """The chat model, the prompt and the size of what is sent."""
        return {
            "backend": self.name,
            "llm": dict(self._llm().identity),
            "prompt": self.prompt,
            "max_new_tokens": self.max_new_tokens,
            "side": self.side,
        }

    @property
    def prompts(self) -> dict[str, str]:
        """Id of the prompt → its hash; {} for the user's own, which the configuration holds."""
        return {self._prompt.id: self._prompt.digest} if self.prompt_id == self._prompt.id else {}

    def captions(self, images: ImageSet) -> Applied:
        """Caption every image (see `visdiff.captioners.Captioner`).

        An image that cannot be read, a refusal, an outage and a caption that was cut are failures.

        Raises:
            InputError: The chat model does not see, or cannot be asked at all.
        """
        llm = self._llm()
        if not llm.has_vision:
            raise InputError(
                f"expected a chat model that sees for the captioner {self.name!r}, got "
                f"{dict(llm.identity).get('model', 'one that reads text only')!r}: choose another "
                "model, or the captioner blip"
            )
        applied = Applied([None] * len(images))
        asked = self._requests(images, applied)
        while chunk := list(itertools.islice(asked, _CHUNK)):
            replies = llm.answer([request for _, request in chunk], self.runtime.progress)
            for (index, _), reply in zip(chunk, replies, strict=True):
                if isinstance(reply, Failure):
                    applied.failures[index] = reply.reason
                elif text := " ".join(reply.text.split()):
                    applied.values[index] = text
                else:
                    applied.failures[index] = "empty caption"
        return applied

    def _requests(self, images: ImageSet, applied: Applied) -> Iterator[tuple[int, Request]]:
        for index in range(len(images)):
            try:
                picture = encode_jpeg(images.image(index), self.side)
            except UnreadableImageError as error:
                applied.failures[index] = str(error)
                continue
            yield (
                index,
                Request(
                    (Message("user", (self.prompt, picture)),),
                    prompt_id=self.prompt_id,
                    max_tokens=self.max_new_tokens,
                ),
            )
