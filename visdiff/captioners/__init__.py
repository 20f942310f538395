"""Captioners describe what one image shows."""

import functools
from typing import Protocol

from visdiff import registry
from visdiff.config import Config
from visdiff.engine import Applied, Backend, Runtime
from visdiff.imageset import ImageSet
from visdiff.llm.budget import Ledger
from visdiff.llm.make import chat_model


class Captioner(Backend, Protocol):
    """A model that writes one caption per image; every backend inherits from this class.

    A backend's constructor takes exactly the settings of its configuration table as keywords. It
    may also take any of ``device``, ``runtime`` (see `visdiff.engine.Runtime`), and ``llm``, a
    function without arguments that returns the configured chat model.
    """

    def captions(self, images: ImageSet) -> Applied:
        """Returns a caption of every image.

        Returns:
            Captions in the order of the set, never empty. An image without a caption is None and
            has a reason in `Applied.failures`.
        """
        ...


def captioner_of(config: Config, runtime: Runtime | None = None) -> tuple[Captioner, Ledger]:
    """Returns the configured captioner and the ledger of its chat model.

    Args:
        config: Settings of the captioner, and the limits of the chat model's cost.
        runtime: The run's cache, progress and engine; by default nothing is cached.

    Returns:
        The captioner and the ledger, which counts calls and cost.

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
