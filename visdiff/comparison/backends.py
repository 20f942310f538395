"""The models of a run, created from its configuration and applied to both sets."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from visdiff import registry
from visdiff.cache import Cache
from visdiff.captioners import Captioner
from visdiff.config import Config
from visdiff.config.backends import SeveralConfig
from visdiff.config.proposers import ConceptsConfig
from visdiff.engine import Applied, Backend, Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm.budget import BudgetedChat, Ledger
from visdiff.llm.make import chat_model
from visdiff.proposers import Proposer
from visdiff.proposers.several import SeveralProposers
from visdiff.rankers import Ranker
from visdiff.results import Hypothesis


@dataclass(frozen=True)
class Backends:
    """One backend per role. Where values of both sets are concatenated, those of A come first.

    Attributes:
        captioner: Captions images.
        proposer: Proposes hypotheses.
        ranker: Scores hypotheses on images.
        ledger: Calls, tokens and cost of the chat model.
        verifier: The second ranker, which checks confirmed differences; None without one.
        chat: Returns the chat model, which is created on the first call.
        runtime: The cache, the progress bars and the engine, shared by all backends.
        warnings: Sentences for the report about proposers that cannot be used.
    """

    captioner: Captioner
    proposer: Proposer
    ranker: Ranker
    ledger: Ledger = field(default_factory=Ledger)
    verifier: Ranker | None = None
    chat: Callable[[], BudgetedChat] = lambda: _no_chat()
    runtime: Runtime = field(default_factory=Runtime)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, cache: Cache | None = None, progress: bool = False) -> "Backends":
        """Creates the backends that a configuration names, without loading weights.

        Args:
            config: The configuration; it also limits the cost of the chat model.
            cache: Cache of captions, vectors and replies; None disables caching.
            progress: Show progress bars on stderr.

        Raises:
            InputError: A backend does not exist, or its settings contradict each other.
        """
        if config.verify == config.ranker:
            raise InputError(
                f"Expected a second ranker that is not the first, got {config.ranker.backend!r} "
                "with the same settings twice; choose another one (--verify)."
            )
        runtime = Runtime.of(config.engine, cache, progress)
        ledger = Ledger(config.llm.max_calls, config.llm.max_cost)
        # Created lazily: a run that sends no requests needs no endpoint.
        llm = functools.cache(functools.partial(chat_model, config, cache, ledger))
        offered: dict[str, Any] = {"device": config.device, "runtime": runtime, "llm": llm}
        captioner = registry.make("captioner", Captioner, config.captioner, **offered)
        offered["captioner"] = captioner
        ranker = registry.make("ranker", Ranker, config.ranker, **offered)
        verifier = None
        if config.verify is not None:
            verifier = registry.make("ranker", Ranker, config.verify, **offered)
        proposer, left_out = _make_proposer(
            config,
            **offered,
            encoder=ranker.encoder,
            temperature=config.llm.temperature,
            sample_size=config.proposer.sample_size,
        )
        if proposer.needs_pairs and not config.paired_by:
            raise InputError(
                f"Expected paired sets for the proposer {config.proposer.backend!r}, got unpaired "
                "ones; pass the columns that pair them (--paired-by prompt,seed) or choose another "
                "proposer."
            )
        if config.proposer.sampling != "random" and not ranker.has_features:
            raise InputError(
                f"Expected a ranker with image features for proposer.sampling "
                f"{config.proposer.sampling!r}, got {config.ranker.backend!r}, which has none; use "
                "the ranker 'clip' or the sampling 'random'."
            )
        return cls(captioner, proposer, ranker, ledger, verifier, llm, runtime, left_out)

    @classmethod
    @contextmanager
    def using(
        cls, config: Config, cache: Cache | None = None, progress: bool = True
    ) -> Iterator["Backends"]:
        """Creates the backends and yields them; opens and closes the user's cache if none given."""
        with Cache() if cache is None else nullcontext(cache) as store:
            yield cls.of(config, store, progress)

    @property
    def rankers(self) -> list[Ranker]:
        """The ranker, and the second ranker if there is one."""
        return [self.ranker] if self.verifier is None else [self.ranker, self.verifier]

    @property
    def proposers(self) -> Sequence[Proposer]:
        """The proposer, or the proposers that it consists of."""
        if isinstance(self.proposer, SeveralProposers):
            return self.proposer.proposers
        return (self.proposer,)

    @property
    def needs_captions(self) -> bool:
        """Whether any backend uses captions."""
        return self.proposer.needs_captions or any(r.needs_captions for r in self.rankers)

    def reads_discovery_captions(self, config: Config) -> bool:
        """Returns whether proposing, or ranking between rounds, uses discovery captions."""
        return self.proposer.needs_captions or (self.ranker.needs_captions and config.rounds != 1)

    @property
    def uses_chat(self) -> bool:
        """Whether any backend in use sends requests to the chat model."""
        used: list[Backend] = [*self.rankers, *([self.captioner] if self.needs_captions else [])]
        return self.proposer.calls > 0 or any(b.asks for b in used)

    def captions(self, a: ImageSet, b: ImageSet) -> Applied:
        """Captions both sets: n_a + n_b values, None where captioning failed."""
        of_a, of_b = self.captioner.captions(a), self.captioner.captions(b)
        failures = of_a.failures | {len(a) + i: r for i, r in of_b.failures.items()}
        return Applied([*of_a.values, *of_b.values], failures)

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        a: ImageSet,
        b: ImageSet,
        captions: Sequence[str | None] | None,
    ) -> np.ndarray:
        """Scores every hypothesis on every image: (h, n_a + n_b) float32, NaN = unscored."""
        return _scores(self.ranker, hypotheses, a, b, captions)

    def verify(
        self,
        hypotheses: Sequence[Hypothesis],
        a: ImageSet,
        b: ImageSet,
        captions: Sequence[str | None] | None,
    ) -> np.ndarray:
        """Scores with the second ranker, as `score` does with the first.

        Raises:
            InputError: There is no second ranker.
        """
        if self.verifier is None:
            raise InputError("Expected a second ranker, got none; choose one (verify, --verify).")
        return _scores(self.verifier, hypotheses, a, b, captions)

    def features(self, a: ImageSet, b: ImageSet) -> np.ndarray | None:
        """Returns the image features (n_a + n_b, d), or None if the ranker has none."""
        found = [f for images in (a, b) if (f := self.ranker.features(images)) is not None]
        return np.concatenate(found, axis=0) if found else None

    def identities(self, *, captioned: bool) -> dict[str, dict[str, Any]]:
        """Returns role → identity of its model, for the provenance.

        Args:
            captioned: Whether the captioner was used; if not, its model is not resolved.
        """
        roles: dict[str, Backend] = {"captioner": self.captioner} if captioned else {}
        roles |= {"proposer": self.proposer, "ranker": self.ranker}
        if self.verifier is not None:
            roles["verify"] = self.verifier
        return {role: dict(b.identity) for role, b in roles.items()}

    def prompts(self, *, captioned: bool) -> dict[str, str]:
        """Returns id → hash of each prompt in use."""
        backends: list[Backend] = [self.captioner] if captioned else []
        backends += [self.proposer, *self.rankers]
        return {name: digest for b in backends for name, digest in b.prompts.items()}

    def cost(self) -> float | None:
        """Returns the cost of the chat model in US dollars; None without calls or prices."""
        return self.ledger.to_dict()["cost"] if self.ledger.calls else None

    def tokens(self) -> dict[str, int]:
        """Returns the numbers of calls and tokens of the chat model; {} if it was not used."""
        ledger = self.ledger
        if not ledger.calls and not ledger.cached:
            return {}
        return {
            "calls": ledger.calls,
            "cached": ledger.cached,
            "prompt": ledger.prompt_tokens,
            "completion": ledger.completion_tokens,
        }


def _make_proposer(config: Config, **offered: Any) -> tuple[Proposer, tuple[str, ...]]:
    """Returns the proposer of a configuration, and a sentence about each that cannot be used.

    Of several proposers, `concepts` is left out if there is no image-text model for it.
    """
    settings = config.proposer
    if not isinstance(settings, SeveralConfig):
        return registry.make("proposer", Proposer, settings, **offered), ()
    made, warnings = list[Proposer](), list[str]()
    for member in settings.members.values():
        no_model = isinstance(member, ConceptsConfig) and member.model is None
        if no_model and offered["encoder"] is None:
            warnings.append(
                f"The proposer 'concepts' was not used: the ranker {config.ranker.backend!r} has "
                "no image-text model (set proposer.members.concepts.model)."
            )
        else:
            made.append(registry.make("proposer", Proposer, member, **offered))
    return made[0] if len(made) == 1 else SeveralProposers(made), tuple(warnings)


def _scores(
    ranker: Ranker,
    hypotheses: Sequence[Hypothesis],
    a: ImageSet,
    b: ImageSet,
    captions: Sequence[str | None] | None,
) -> np.ndarray:
    of_a = captions[: len(a)] if captions is not None else None
    of_b = captions[len(a) :] if captions is not None else None
    scores = [ranker.score(hypotheses, a, of_a), ranker.score(hypotheses, b, of_b)]
    return np.concatenate(scores, axis=1)


def _no_chat() -> BudgetedChat:
    raise InputError(
        "Expected a chat model, got backends without one; create them with Backends.of."
    )
