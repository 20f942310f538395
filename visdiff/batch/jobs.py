"""The requests of a job: what a command would send to a chat model, recorded instead of sent.

The judge or the captioner creates the requests with a model that only records them. They are
therefore identical to those that the ordinary command looks up in the cache afterwards.
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

# Images per chunk: the requests of a chunk, with their pixels, are in memory at a time.
_CHUNK = 1000


class RecordingChat:
    """A chat model that records requests and answers none.

    Requests that depend on earlier replies are never made, so they are not recorded.

    Args:
        model: The model that it stands in for.

    Attributes:
        requests: The recorded requests.
    """

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.requests: list[Request] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the model that it stands in for."""
        return self.model.identity

    @property
    def has_vision(self) -> bool:
        """Whether the model that it stands in for accepts images."""
        return self.model.has_vision

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        """Records the requests.

        Raises:
            InputError: A request is not valid for the model.
        """
        has_vision = bool(requests) and self.has_vision
        for request in requests:
            check_request(request, has_vision)
        self.requests += requests
        return [Failure("recorded for a batch, not sent", "budget") for _ in requests]


def batch_chat(config: Config) -> BatchChat:
    """Returns the configured chat model with support for batches.

    Raises:
        InputError: The backend does not support batches, or its settings are inconsistent.
    """
    settings = config.llm.model_dump()
    backend = settings.pop("backend")
    if backend != "openai":
        raise InputError(
            f"Expected the llm 'openai' for batches, got {backend!r}; set llm.backend = openai, "
            "with an endpoint that supports batches."
        )
    return BatchChat(**settings)


def judge_requests(results: Path, model: ChatModel, samples: int = 1) -> list[Request]:
    """Returns the requests of ``visdiff bench score RESULTS --judge chat``.

    Args:
        results: Results file of ``visdiff bench run``.
        model: The judge's model.
        samples: Number of replies to each request.

    Raises:
        InputError: `results` is not a results file.
    """
    from visdiff.bench import run as bench

    recorder = RecordingChat(model)
    judge = registry.load("judge", "chat")(llm=lambda: recorder, samples=samples)
    judge.judge(bench.claims(bench.Results.read(results)))
    return recorder.requests


def caption_requests(
    images: ImageSet, config: Config, model: ChatModel, cache: Cache, chunk: int = _CHUNK
) -> Iterator[list[Request]]:
    """Yields the requests that caption a set of images, in chunks of images.

    Images with a cached caption are skipped. Unreadable images are skipped too; the command that
    captions the set reports them.

    Args:
        images: The images to caption.
        config: Configuration with a captioner that uses a chat model.
        model: The captioner's model.
        cache: The cache; it is only read.
        chunk: Number of images per chunk.

    Raises:
        InputError: The captioner does not use a chat model, or the model does not accept images.
    """
    recorder = RecordingChat(model)
    runtime = Runtime(Cache(cache.directory, "ro"))
    captioner = registry.make(
        "captioner", Captioner, config.captioner, device=config.device, runtime=runtime,
        llm=lambda: recorder,
    )  # fmt: skip
    # A captioner without a chat model would caption all images immediately.
    if not captioner.asks:
        raise InputError(
            f"Expected a captioner that uses a chat model, got {config.captioner.backend!r}, which "
            "does not; choose another with --captioner."
        )
    if not model.has_vision:
        raise InputError(
            "Expected a chat model that accepts images, got llm.vision = false; use a model with "
            "vision."
        )
    with runtime.cache:
        for start in range(0, len(images), chunk):
            captioner.captions(images.subset(range(start, min(start + chunk, len(images)))))
            yield recorder.requests
            recorder.requests = []
