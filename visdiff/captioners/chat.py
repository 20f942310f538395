"""Captions by a chat model with vision: an OpenAI-compatible endpoint or a local model.

Local models such as LLaVA and Qwen-VL run through the chat backend `transformers`.
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

# Images in memory at a time.
_CHUNK = 64


class ChatCaptioner(Captioner):
    """A captioner that asks the configured chat model for one sentence about each image.

    The chat model caches replies under the bytes of the request: a copied or renamed image costs
    nothing, a changed one is captioned again.

    Args:
        llm: Returns the chat model; called when it is first needed.
        prompt: Question that replaces the prompt `caption`.
        max_new_tokens: Maximum length of a caption, with the reasoning of a model that reasons; a
            longer one is a failure and is not cut.
        side: Longest side of the image as sent, in pixels.
        runtime: Determines whether to show progress.
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
        """The chat model, the prompt, the longest caption and the image size."""
        return {
            "backend": self.name,
            "llm": dict(self._llm().identity),
            "prompt": self.prompt,
            "max_new_tokens": self.max_new_tokens,
            "side": self.side,
        }

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt id → hash; {} for the user's own prompt, which is in the configuration."""
        return {self._prompt.id: self._prompt.digest} if self.prompt_id == self._prompt.id else {}

    def captions(self, images: ImageSet) -> Applied:
        """Returns a caption of every image (see `visdiff.captioners.Captioner`).

        Unreadable images, refusals, outages and truncated replies are failures.

        Raises:
            InputError: The chat model has no vision, or cannot be called at all.
        """
        llm = self._llm()
        if not llm.has_vision:
            raise InputError(
                f"Expected a chat model with vision for the captioner {self.name!r}, got "
                f"{dict(llm.identity).get('model', 'one for text only')!r}; choose another model, "
                "or the captioner 'blip'."
            )
        applied = Applied([None] * len(images))
        requests = self._requests(images, applied)
        while chunk := list(itertools.islice(requests, _CHUNK)):
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
                    limit_setting="captioner.max_new_tokens",
                ),
            )
