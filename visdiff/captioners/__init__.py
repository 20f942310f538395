"""Captioners: say what one image shows."""

import functools
from typing import Protocol

from visdiff import registry
from visdiff.config import Config
from visdiff.engine import Applied, Backend, Runtime
from visdiff.imageset import ImageSet
from visdiff.llm.budget import Ledger
from visdiff.llm.make import chat_model


class Captioner(Backend, Protocol):
    """Gives each image of a set one caption; a backend inherits from this class.

    A backend's constructor takes exactly the settings of its table as keywords. It may also take
    any of ``device``, ``runtime`` (see `visdiff.engine.Runtime`), and ``llm``, a function without
    arguments that returns the configured chat model.
    """

    def captions(self, images: ImageSet) -> Applied:
        """Caption every image.

        Returns:
            Captions (never empty) in the order of the set; an image without one is None and has a
            reason.
        """
        ...


def captioner_of(config: Config, runtime: Runtime | None = None) -> tuple[Captioner, Ledger]:
    """Makes the captioner alone, for what needs nothing else.

    Args:
        config: Names it, and says what the chat model may cost.
        runtime: The run's cache, progress and engine; nothing is kept by default.

    Returns:
        The captioner, and the ledger of the chat model that it may ask.

    Raises:
        InputError: The backend does not exist, or its settings do not fit together.
    """
    runtime = runtime or Runtime()
    ledger = Ledger(config.llm.max_calls, config.llm.max_cost)
    llm = functools.cache(lambda: chat_model(config, runtime.cache, ledger))
    captioner = registry.make(
        "captioner", Captioner, config.captioner, device=config.device, runtime=runtime, llm=llm
    )
    return captioner, ledger
