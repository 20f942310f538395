"""The chat model of a configuration, with its cache and its budget."""

from visdiff import registry
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.llm.budget import BudgetedChat, Ledger, Price
from visdiff.llm.cached import CachedChat


def chat_model(config: Config, cache: Cache | None, ledger: Ledger) -> BudgetedChat:
    """Makes the configured chat model.

    Args:
        config: Names it, and says what it costs.
        cache: Where replies are kept; None keeps none.
        ledger: Counts and limits what it takes.

    Raises:
        InputError: There is no such backend, its settings do not fit together, or only one of the
            two prices is given.
    """
    prices = config.llm.prompt_price, config.llm.completion_price
    if (prices[0] is None) != (prices[1] is None):
        raise InputError(
            "expected llm.prompt_price and llm.completion_price, got one of them; give both, in "
            "US dollars for a million tokens"
        )
    price = None if prices[0] is None or prices[1] is None else Price(prices[0], prices[1])
    settings = config.llm.model_dump()
    backend = settings.pop("backend")
    if settings["model"] is None:
        # Without a model, a backend takes its own, with the settings that belong to it.
        settings = {name: value for name, value in settings.items() if value is not None}
    model = registry.load("llm", backend)(device=config.device, **settings)
    return BudgetedChat(model if cache is None else CachedChat(model, cache), ledger, price)
