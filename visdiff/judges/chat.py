"""A chat model as the judge: the paper's rubric, a structured verdict, a majority of samples."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from visdiff import prompts
from visdiff.errors import InputError
from visdiff.judges import Claim, Verdict
from visdiff.llm import ChatModel, Failure, Message, Reply, Request

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    # The score comes first, since a reason written before it biases some models.
    "properties": {
        "score": {"type": "integer", "enum": [0, 1, 2]},
        "reason": {"type": "string"},
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}


class ChatJudge:
    """A chat model as the judge (see `visdiff.judges.Judge`).

    The set that the claim is about is always Group A in the prompt, so both directions get the same
    question. Refusals, truncated or invalid replies, and samples without a majority have no score
    but a reason.
    """

    def __init__(
        self,
        llm: Callable[[], ChatModel] | None = None,
        *,
        samples: int = 1,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **_: Any,
    ) -> None:
        """Creates the judge.

        Args:
            llm: Returns the chat model; called once, here.
            samples: Number of replies per claim, decided by majority; use an odd number.
            temperature: Sampling temperature; the model's default when None.
            max_tokens: Maximum length of a reply; reasoning models need many tokens.
            **_: Other settings, ignored.

        Raises:
            InputError: There is no model, or fewer than one sample.
        """
        if llm is None:
            raise InputError(
                "Expected a chat model for the judge 'chat', got none; name one, or judge the "
                "miniature's pairs with 'world' and others with 'human'."
            )
        if samples < 1:
            raise InputError(f"Expected 1 sample or more, got {samples}; use an odd number.")
        self.llm = llm()
        self.samples = samples
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.prompt = prompts.load("judge-rubric")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Prompt, samples, parameters and model."""
        return {
            "judge": "chat",
            "prompt": self.prompt.id,
            "prompt_sha256": self.prompt.digest,
            "samples": self.samples,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "model": dict(self.llm.identity),
        }

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        """Judges every claim, with one call of the model for all requests."""
        requests = [
            Request(
                messages=(
                    Message("system", (self.prompt.system,)),
                    Message("user", (self._question(claim),)),
                ),
                prompt_id=self.prompt.id,
                schema=SCHEMA,
                max_tokens=self.max_tokens,
                limit_setting="the judge's max_tokens",
                temperature=self.temperature,
                sample=sample,
            )
            for claim in claims
            for sample in range(self.samples)
        ]
        replies = self.llm.answer(requests, progress) if requests else []
        # Checked here, since a missing reply would shift all later verdicts.
        if len(replies) != len(requests):
            raise InputError(
                f"Expected {len(requests)} replies from the judge's model, got {len(replies)}; "
                f"its backend must return one per request."
            )
        n = self.samples
        return [majority(replies[i * n : (i + 1) * n]) for i in range(len(claims))]

    def _question(self, claim: Claim) -> str:
        texts = {"own": claim.own, "other": claim.other, "claim": claim.text}
        quoted = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
        return self.prompt.fill(**quoted)


def majority(replies: Sequence[Reply | Failure]) -> Verdict:
    """Returns the majority verdict of the replies to one claim.

    A score needs more than half of all requested replies, failed ones included.
    """
    votes, reasons, failures = Counter[int](), dict[int, str](), list[str]()
    for reply in replies:
        if isinstance(reply, Failure):
            failures.append(reply.reason)
            continue
        vote = _vote(reply.data)
        if vote is None:
            failures.append(f"unparseable verdict {_short(reply.text)}")
            continue
        votes[vote] += 1
        reasons.setdefault(vote, str(reply.data.get("reason", "")))
    if votes:
        best, count = votes.most_common(1)[0]
        if 2 * count > len(replies):
            return Verdict(best / 2, reasons[best])
    if len(replies) == 1:
        return Verdict(None, failures[0])
    counts = ", ".join(f"{count} × {vote}" for vote, count in sorted(votes.items()))
    failed = f"{len(failures)} failed ({failures[0]})" if failures else ""
    return Verdict(None, f"no majority among {len(replies)} samples: " + "; ".join(
        part for part in (counts, failed) if part
    ))  # fmt: skip


def _vote(data: Any) -> int | None:
    score = data.get("score") if isinstance(data, Mapping) else None
    if isinstance(score, bool) or not isinstance(score, int):
        return None
    return score if score in (0, 1, 2) else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
