"""The base of proposers that ask a language model: two questions per round, and their replies.

The question is always "what is truer of Group A than of Group B?". For the second direction the
sets are swapped, so that both directions use the same wording.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from visdiff import prompts
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.llm import ChatModel, Failure, Message, Picture, Request
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.proposers.replies import is_none, parse_reply
from visdiff.results import Direction, Hypothesis

Part = str | Picture

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"hypotheses": {"type": "array", "items": {"type": "string"}}},
    "required": ["hypotheses"],
    "additionalProperties": False,
}
_FORMATS = {
    True: 'Answer with JSON: {"hypotheses": ["first concept", "second concept", …]}.',
    False: 'Answer with the concepts only, one a line, each after "* ".',
}


class AskingProposer(Proposer, ABC):
    """A proposer that asks a chat model; subclasses define the content of the questions.

    Args:
        llm: Returns the chat model; called once, in the constructor.
        sample_size: Images (or pairs) of each set in a question, sampled again in every round.
        ask: Number of hypotheses to ask for in each direction.
        goal: Purpose of the comparison, in the user's words.
        leave_out: Topics that hypotheses should avoid.
        structured: Ask for JSON; otherwise for lines, for models that do not support JSON.
        max_tokens: Maximum length of a reply.
        temperature: Sampling temperature; None for the model's default.
        runtime: Determines whether to show progress.

    Raises:
        InputError: There is no chat model, or a number is below 1.
    """

    needs_captions = True
    calls = 2
    _tokens_an_image: ClassVar[int] = 25

    def __init__(
        self,
        llm: Callable[[], ChatModel] | None = None,
        sample_size: int = 20,
        ask: int = 10,
        goal: str | None = None,
        leave_out: Sequence[str] = (),
        structured: bool = True,
        max_tokens: int | None = 1000,
        temperature: float | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        if llm is None:
            raise InputError(
                f"Expected a chat model for the proposer {self.name!r}, got none; set one in the "
                "configuration's table llm, or use the proposer 'ngrams', which needs none."
            )
        if sample_size < 1 or ask < 1:
            raise InputError(
                "Expected proposer.sample_size and proposer.ask of at least 1, got "
                f"{sample_size} and {ask}."
            )
        self.llm = llm()
        self.sample_size = sample_size
        self.ask = self.max_hypotheses = ask
        self.tokens_a_call = (600 + 2 * sample_size * self._tokens_an_image, 20 * ask)
        self.goal = goal
        self.leave_out = tuple(leave_out)
        self.structured = structured
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.runtime = runtime or Runtime()
        self.prompt = prompts.load(self.name)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model, the prompt, and the other settings of the question."""
        return {
            "proposer": self.name,
            "model": dict(self.llm.identity),
            "prompt": self.prompt.id,
            "sample_size": self.sample_size,
            "ask": self.ask,
            "goal": self.goal,
            "leave_out": list(self.leave_out),
            "structured": self.structured,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompt id → hash."""
        return {self.prompt.id: self.prompt.digest}

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Returns the hypotheses of both directions (see `visdiff.proposers.Proposer`)."""
        questions = self._questions(evidence, rng)
        if questions is None:
            return Proposals()
        seed = int(rng.integers(2**31))
        system = (Message("system", (self.prompt.system,)),) if self.prompt.system else ()
        requests = [
            Request(
                messages=(*system, Message("user", tuple(parts))),
                prompt_id=self.prompt.id,
                schema=SCHEMA if self.structured else None,
                max_tokens=self.max_tokens,
                limit_setting="proposer.max_tokens",
                temperature=self.temperature,
                seed=seed,
                # A later round gets a new reply, even for the same images.
                sample=round - 1,
            )
            for parts in questions
        ]
        found = Proposals()
        directions: tuple[Direction, Direction] = ("A", "B")
        replies = self.llm.answer(requests, self.runtime.progress)
        for direction, reply in zip(directions, replies, strict=True):
            if isinstance(reply, Failure):
                found += Proposals(failures=(reply.reason,), asked=1)
                continue
            texts, refused = parse_reply(reply.text, reply.data)
            refused += [(text, "more than were asked for") for text in texts[self.ask :]]
            found += Proposals(
                tuple(Hypothesis(t, direction, self.name, round) for t in texts[: self.ask]),
                tuple(refused),
                asked=1,
                # An empty list is an answer too; an apology with "none" is not.
                answered=int(bool(texts) or all(is_none(text) for text, _ in refused)),
            )
        return found

    @abstractmethod
    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]] | None:
        """Returns the questions about A against B and B against A; None for nothing to ask."""

    def _fill_prompt(self, **fields: object) -> str:
        """Returns the prompt's text, given the fields that are specific to the proposer."""
        goal = f"What matters here: {self.goal.strip().rstrip('.')}. " if self.goal else ""
        leave_out = "; ".join(self.leave_out)
        return self.prompt.fill(
            count=self.ask,
            goal=goal,
            leave_out=f"Leave out whatever is about: {leave_out}." if leave_out else "",
            format=_FORMATS[self.structured],
            **fields,
        )


def sample_indices(n: int, size: int, rng: np.random.Generator) -> list[int]:
    """Returns at most `size` of the indices 0 … n - 1, sampled without replacement and sorted."""
    if n <= size:
        return list(range(n))
    return sorted(rng.choice(n, size=size, replace=False).tolist())
