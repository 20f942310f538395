"""A judge by name, with the chat model of a configuration."""

from pathlib import Path

from visdiff import registry
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.judges import Judge
from visdiff.llm import ChatModel
from visdiff.llm.budget import Ledger
from visdiff.llm.make import chat_model


def make_judge(
    name: str,
    config: Config,
    cache: Cache | None = None,
    *,
    sheet: Path | None = None,
    samples: int = 1,
) -> Judge:
    """Makes a judge; each judge uses the settings that apply to it.

    Args:
        name: "world", "chat", "human" or "module:Class".
        config: Its ``llm`` is the model of the chat judge, with its budget.
        cache: Cache of the model's replies; None for none.
        sheet: Completed rating sheet of the human judge.
        samples: Replies per claim of the chat judge, decided by majority.

    Raises:
        InputError: There is no such judge, or its settings are invalid.
        MissingBackendError: A library of the judge is not available.
    """

    def llm() -> ChatModel:
        return chat_model(config, cache, Ledger(config.llm.max_calls, config.llm.max_cost))

    return registry.load("judge", name)(llm=llm, sheet=sheet, samples=samples)
