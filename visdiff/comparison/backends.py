"""The models of a run, made from its configuration, and their use on both sets at once."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel

from visdiff import registry
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.engine import Applied
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm.budget import BudgetedChat, Ledger, Price
from visdiff.llm.cached import CachedChat
from visdiff.results import Hypothesis


@dataclass(frozen=True)
class Backends:
    """One backend a role. Where both sets are meant, the images of A come first.

    Attributes:
        captioner: See `visdiff.captioners.Captioner`.
        proposer: See `visdiff.proposers.Proposer`.
        ranker: See `visdiff.rankers.Ranker`.
        ledger: What the chat model has taken.
        verifier: The second ranker, which checks what the first confirms; None without one.
        chat: Returns the chat model; made only when somebody asks for it.
    """

    captioner: Any
    proposer: Any
    ranker: Any
    ledger: Ledger = field(default_factory=Ledger)
    verifier: Any = None
    chat: Callable[[], BudgetedChat] = lambda: _no_chat()

    @classmethod
    def of(cls, config: Config, cache: Cache | None = None) -> "Backends":
        """Makes the backends that a configuration names; no weights are loaded yet.

        Args:
            config: Names them, and says what the chat model may cost.
            cache: Where the chat model's replies are kept; None keeps none.

        Raises:
            InputError: A backend does not exist, or its settings do not fit together.
        """
        if config.verify == config.ranker:
            raise InputError(
                f"expected a second ranker that is not the first, got {config.ranker.backend!r} "
                "with the same settings twice; name another one (--verify)"
            )
        ledger = Ledger(config.llm.max_calls, config.llm.max_cost)
        # Made only when somebody asks for it: a run without questions needs no endpoint.
        llm = functools.cache(functools.partial(chat_model, config, cache, ledger))
        captioner = _made("captioner", config.captioner, config, llm=llm)
        ranker = _made("ranker", config.ranker, config, llm=llm, captioner=captioner)
        verifier = None
        if config.verify is not None:
            verifier = _made("ranker", config.verify, config, llm=llm, captioner=captioner)
        proposer = _made(
            "proposer",
            config.proposer,
            config,
            llm=llm,
            captioner=captioner,
            temperature=config.llm.temperature,
            encoder=getattr(ranker, "encoder", None),
        )
        if getattr(proposer, "needs_pairs", False) and not config.paired_by:
            raise InputError(
                f"expected paired sets for the proposer {config.proposer.backend!r}, got unpaired "
                "ones; say what pairs them (--paired-by prompt,seed), or choose another proposer"
            )
        if config.proposer.sampling != "random" and not hasattr(ranker, "features"):
            raise InputError(
                f"expected a ranker with image features for proposer.sampling "
                f"{config.proposer.sampling!r}, got {config.ranker.backend!r}, which has none; use "
                "the ranker 'clip', or the sampling 'random'"
            )
        return cls(captioner, proposer, ranker, ledger, verifier, llm)

    @property
    def rankers(self) -> list[Any]:
        """The ranker, and the second one when there is one."""
        return [self.ranker] if self.verifier is None else [self.ranker, self.verifier]

    @property
    def needs_captions(self) -> bool:
        """Whether anybody reads captions."""
        return any(b.needs_captions for b in (self.proposer, *self.rankers))

    @property
    def asks(self) -> bool:
        """Whether the chat model is asked by anybody who is used."""
        used = [*self.rankers, *([self.captioner] if self.needs_captions else [])]
        return self.proposer.calls > 0 or any(getattr(b, "asks", False) for b in used)

    def captions(self, a: ImageSet, b: ImageSet, cache: Cache, progress: bool) -> Applied:
        """Captions both sets: values of length n_a + n_b, None where there is none."""
        of_a = self.captioner.captions(a, cache, progress)
        of_b = self.captioner.captions(b, cache, progress)
        failures = of_a.failures | {len(a) + i: r for i, r in of_b.failures.items()}
        return Applied([*of_a.values, *of_b.values], failures)

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        a: ImageSet,
        b: ImageSet,
        captions: Sequence[str | None] | None,
        cache: Cache,
        progress: bool,
    ) -> np.ndarray:
        """Scores every hypothesis on every image: (h, n_a + n_b) float32, NaN = unscored."""
        return _scores(self.ranker, hypotheses, a, b, captions, cache, progress)

    def verify(
        self,
        hypotheses: Sequence[Hypothesis],
        a: ImageSet,
        b: ImageSet,
        captions: Sequence[str | None] | None,
        cache: Cache,
        progress: bool,
    ) -> np.ndarray:
        """Scores by the second ranker, as `score` does by the first."""
        return _scores(self.verifier, hypotheses, a, b, captions, cache, progress)

    def features(self, a: ImageSet, b: ImageSet, cache: Cache, progress: bool) -> np.ndarray | None:
        """Image features (n_a + n_b, d), or None where the ranker has none."""
        if not hasattr(self.ranker, "features"):
            return None
        return np.concatenate([self.ranker.features(s, cache, progress) for s in (a, b)], axis=0)

    def identities(self, *, captioned: bool) -> dict[str, dict[str, Any]]:
        """Role → what is known of its model, for the provenance.

        Args:
            captioned: Whether the captioner was used; else its model is not even looked for.
        """
        roles = {"proposer": self.proposer, "ranker": self.ranker}
        if self.verifier is not None:
            roles["verify"] = self.verifier
        if captioned:
            roles = {"captioner": self.captioner, **roles}
        return {role: dict(getattr(b, "identity", {})) for role, b in roles.items()}

    def prompts(self, *, captioned: bool) -> dict[str, str]:
        """Id of each prompt that is asked → its hash."""
        asking = [self.captioner] if captioned else []
        asking += [self.proposer, *self.rankers]
        return {name: hash_ for b in asking for name, hash_ in getattr(b, "prompts", {}).items()}

    def cost(self) -> float | None:
        """US dollars that the chat model took; None when nothing was asked or no price is known."""
        return self.ledger.to_dict()["cost"] if self.ledger.calls else None

    def tokens(self) -> dict[str, int]:
        """What was asked of the chat model and what it took; {} when nothing was."""
        spent = self.ledger
        if not spent.calls and not spent.cached:
            return {}
        return {
            "calls": spent.calls,
            "cached": spent.cached,
            "prompt": spent.prompt_tokens,
            "completion": spent.completion_tokens,
        }


def chat_model(config: Config, cache: Cache | None, ledger: Ledger) -> BudgetedChat:
    """Makes the configured chat model, with its cache and its budget.

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
    model = _made("llm", config.llm, config)
    return BudgetedChat(model if cache is None else CachedChat(model, cache), ledger, price)


def captioner_of(config: Config, cache: Cache | None = None) -> tuple[Any, Ledger]:
    """Makes the captioner alone, for what needs nothing else.

    Args:
        config: Names it, and says what the chat model may cost.
        cache: Where the chat model's replies are kept; None keeps none.

    Returns:
        The captioner, and the ledger of the chat model that it may ask.

    Raises:
        InputError: The backend does not exist, or its settings do not fit together.
    """
    ledger = Ledger(config.llm.max_calls, config.llm.max_cost)
    llm = functools.cache(functools.partial(chat_model, config, cache, ledger))
    return _made("captioner", config.captioner, config, llm=llm), ledger


def _made(role: str, told: BaseModel, config: Config, **more: Any) -> Any:
    """Makes the backend of a role that a table of the configuration names."""
    settings = told.model_dump()
    backend = registry.load(role, settings.pop("backend"))
    if settings.get("model") is None:
        # Told of no model, a backend takes its own, with the settings that belong to it.
        settings = {name: value for name, value in settings.items() if value is not None}
    where = config.engine.model_dump()
    engine = registry.load("engine", where.pop("backend"))(**where)
    return backend(device=config.device, engine=engine, **more, **settings)


def _scores(
    ranker: Any,
    hypotheses: Sequence[Hypothesis],
    a: ImageSet,
    b: ImageSet,
    captions: Sequence[str | None] | None,
    cache: Cache,
    progress: bool,
) -> np.ndarray:
    of_a = captions[: len(a)] if captions is not None else None
    of_b = captions[len(a) :] if captions is not None else None
    return np.concatenate(
        [
            ranker.score(hypotheses, a, of_a, cache, progress),
            ranker.score(hypotheses, b, of_b, cache, progress),
        ],
        axis=1,
    )


def _no_chat() -> BudgetedChat:
    raise InputError("expected a chat model, got backends that were made without one")
