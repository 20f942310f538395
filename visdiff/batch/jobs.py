"""Jobs as requests: what a command would ask a chat model, written down instead of asked.

The judge and the captioner themselves make the requests, in front of a model that only takes notes;
so they are, to the letter, those that the ordinary command looks for in the cache afterwards.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visdiff import registry
from visdiff.cache import Cache
from visdiff.captioners import Captioner
from visdiff.config import Config
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Failure, Reply, Request
from visdiff.llm.batch_openai import BatchChat
from visdiff.llm.streaming import check_request

# Images whose requests are in memory at a time: their pixels are in them.
_IMAGES = 1000


class NotedChat:
    """Takes note of what a model is asked, and answers nothing.

    Of questions that depend on the answers to others, only the first ones are asked of it.

    Args:
        model: Whose part it plays.

    Attributes:
        requests: All that was asked.
    """

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.requests: list[Request] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the model whose part it plays."""
        return self.model.identity

    @property
    def sees(self) -> bool:
        """What that model says."""
        return self.model.sees

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        """Note the requests.

        Raises:
            InputError: One cannot be put to the model.
        """
        sees = bool(requests) and self.sees
        for request in requests:
            check_request(request, sees)
        self.requests += requests
        return [Failure("not asked: it is for a batch", "budget") for _ in requests]


def batch_chat(config: Config) -> BatchChat:
    """Make the configured chat model, able to answer batches.

    Raises:
        InputError: The backend has no batches, or its settings do not fit together.
    """
    settings = config.llm.model_dump()
    backend = settings.pop("backend")
    if backend != "openai":
        raise InputError(
            f"expected the llm 'openai' for batches, got {backend!r}: only OpenAI-compatible "
            "endpoints have them."
        )
    return BatchChat(**settings)


def judge_requests(results: Path, model: ChatModel, samples: int = 1) -> list[Request]:
    """Make the requests of ``visdiff bench score RESULTS --judge chat``.

    Args:
        results: Results file of ``visdiff bench run``.
        model: The judge's.
        samples: Answers to each question.

    Raises:
        InputError: It is no results file.
    """
    from visdiff.bench import run as bench

    noted = NotedChat(model)
    judge = registry.load("judge", "chat")(llm=lambda: noted, samples=samples)
    judge.judge(bench.claims(bench.Results.read(results)))
    return noted.requests


def caption_requests(
    images: ImageSet, config: Config, model: ChatModel, cache: Cache, chunk: int = _IMAGES
) -> Iterator[list[Request]]:
    """Make the requests that caption a set of images, some images at a time.

    Images that have a caption in the cache are left out, and so are unreadable ones, which the
    command that captions the set reports.

    Args:
        images: To be captioned.
        config: Names the captioner, one that asks the chat model.
        model: Which model it asks.
        cache: Only read.
        chunk: Images whose requests are in memory at a time.

    Raises:
        InputError: The captioner asks no chat model, or the model does not see.
    """
    noted = NotedChat(model)
    runtime = Runtime(Cache(cache.directory, "ro"))
    captioner = registry.make(
        "captioner", Captioner, config.captioner, device=config.device, runtime=runtime,
        llm=lambda: noted,
    )  # fmt: skip
    # One that does not ask would caption everything here and now.
    if not captioner.asks:
        raise InputError(
            f"expected a captioner that asks a chat model, got {config.captioner.backend!r}, which "
            "does not: choose another with --captioner."
        )
    if not model.sees:
        raise InputError(
            "expected a chat model that sees, since images are to be captioned, got llm.vision = "
            "false: use a model with vision."
        )
    with runtime.cache:
        for start in range(0, len(images), chunk):
            captioner.captions(images.subset(range(start, min(start + chunk, len(images)))))
            yield noted.requests
            noted.requests = []
