"""The models of a run, made from its configuration, and their use on both sets at once."""

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
from visdiff.engine import Applied, Backend, Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm.budget import BudgetedChat, Ledger
from visdiff.llm.make import chat_model
from visdiff.proposers import Proposer
from visdiff.rankers import Ranker
from visdiff.results import Hypothesis


@dataclass(frozen=True)
class Backends:
    """One backend a role. Where both sets are meant, the images of A come first.

    Attributes:
        captioner: Captions images.
        proposer: Proposes hypotheses.
        ranker: Scores hypotheses on images.
        ledger: Calls, tokens and cost of the chat model.
        verifier: The second ranker, which checks what the first confirms; None without one.
        chat: Returns the chat model; made on the first call.
        runtime: The cache, the progress bars and the engine, shared by all backends.
    """

    captioner: Captioner
    proposer: Proposer
    ranker: Ranker
    ledger: Ledger = field(default_factory=Ledger)
    verifier: Ranker | None = None
    chat: Callable[[], BudgetedChat] = lambda: _no_chat()
    runtime: Runtime = field(default_factory=Runtime)

    @classmethod
    def of(cls, config: Config, cache: Cache | None = None, progress: bool = False) -> "Backends":
        """Makes the backends that a configuration names; no weights are loaded yet.

        Args:
            config: Names them, and says what the chat model may cost.
            cache: Where captions, vectors and replies are kept; None keeps none.
            progress: Show progress bars on stderr.

        Raises:
            InputError: A backend does not exist, or its settings do not fit together.
        """
        if config.verify == config.ranker:
            raise InputError(
                f"expected a second ranker that is not the first, got {config.ranker.backend!r} "
                "with the same settings twice; name another one (--verify)"
            )
        runtime = Runtime.of(config.engine, cache, progress)
        ledger = Ledger(config.llm.max_calls, config.llm.max_cost)
        # Made only when somebody asks for it: a run without questions needs no endpoint.
        llm = functools.cache(functools.partial(chat_model, config, cache, ledger))
        offered: dict[str, Any] = {"device": config.device, "runtime": runtime, "llm": llm}
        captioner = registry.make("captioner", Captioner, config.captioner, **offered)
        offered["captioner"] = captioner
        ranker = registry.make("ranker", Ranker, config.ranker, **offered)
        verifier = None
        if config.verify is not None:
            verifier = registry.make("ranker", Ranker, config.verify, **offered)
        proposer = registry.make(
            "proposer",
            Proposer,
            config.proposer,
            **offered,
            encoder=ranker.encoder,
            temperature=config.llm.temperature,
            sample_size=config.proposer.sample_size,
        )
        if proposer.needs_pairs and not config.paired_by:
            raise InputError(
                f"expected paired sets for the proposer {config.proposer.backend!r}, got unpaired "
                "ones; say what pairs them (--paired-by prompt,seed), or choose another proposer"
            )
        if config.proposer.sampling != "random" and not ranker.has_features:
            raise InputError(
                f"expected a ranker with image features for proposer.sampling "
                f"{config.proposer.sampling!r}, got {config.ranker.backend!r}, which has none; use "
                "the ranker 'clip', or the sampling 'random'"
            )
        return cls(captioner, proposer, ranker, ledger, verifier, llm, runtime)

    @classmethod
    @contextmanager
    def using(
        cls, config: Config, cache: Cache | None = None, progress: bool = True
    ) -> Iterator["Backends"]:
        """Makes the backends, with the user's cache unless another is given, and closes that."""
        with Cache() if cache is None else nullcontext(cache) as store:
            yield cls.of(config, store, progress)

    @property
    def rankers(self) -> list[Ranker]:
        """The ranker, and the second one when there is one."""
        return [self.ranker] if self.verifier is None else [self.ranker, self.verifier]

    @property
    def needs_captions(self) -> bool:
        """Whether any backend reads captions."""
        return self.proposer.needs_captions or any(r.needs_captions for r in self.rankers)

    def reads_discovery_captions(self, config: Config) -> bool:
        """Whether captions of the discovery half are read: proposing, or ranking between rounds."""
        return self.proposer.needs_captions or (self.ranker.needs_captions and config.rounds != 1)

    @property
    def asks(self) -> bool:
        """Whether a backend that is used asks the chat model."""
        used: list[Backend] = [*self.rankers, *([self.captioner] if self.needs_captions else [])]
        return self.proposer.calls > 0 or any(b.asks for b in used)

    def captions(self, a: ImageSet, b: ImageSet) -> Applied:
        """Captions both sets: values of length n_a + n_b, None where there is none."""
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
        """Scores by the second ranker, as `score` does by the first."""
        if self.verifier is None:
            raise InputError("expected a second ranker, got none; name one (verify, --verify)")
        return _scores(self.verifier, hypotheses, a, b, captions)

    def features(self, a: ImageSet, b: ImageSet) -> np.ndarray | None:
        """Image features (n_a + n_b, d), or None where the ranker has none."""
        found = [f for images in (a, b) if (f := self.ranker.features(images)) is not None]
        return np.concatenate(found, axis=0) if found else None

    def identities(self, *, captioned: bool) -> dict[str, dict[str, Any]]:
        """Role → what is known of its model, for the provenance.

        Args:
            captioned: Whether the captioner was used; else its model is not even looked for.
        """
        roles: dict[str, Backend] = {"captioner": self.captioner} if captioned else {}
        roles |= {"proposer": self.proposer, "ranker": self.ranker}
        if self.verifier is not None:
            roles["verify"] = self.verifier
        return {role: dict(b.identity) for role, b in roles.items()}

    def prompts(self, *, captioned: bool) -> dict[str, str]:
        """Id of each prompt that is asked → its hash."""
        asking: list[Backend] = [self.captioner] if captioned else []
        asking += [self.proposer, *self.rankers]
        return {name: digest for b in asking for name, digest in b.prompts.items()}

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
    raise InputError("expected a chat model, got backends that were made without one")
