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
    # The verdict first: a reason that is written before it talks some models into one.
    "properties": {
        "score": {"type": "integer", "enum": [0, 1, 2]},
        "reason": {"type": "string"},
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}


class ChatJudge:
    """Asks a chat model, see `visdiff.judges.Judge`.

    The claim is always put as "truer of Group A", with the set it is claimed of as Group A, so that
    both directions meet the same question. What is not a clear verdict (a refusal, a cut or
    unparseable reply, samples without a majority) is unscored, with the reason.
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
        """Make the judge.

        Args:
            llm: Returns the chat model; called once, here.
            samples: Answers to each question; more than one are put to a majority, so use an odd
                number.
            temperature: Left to the model when None.
            max_tokens: Longest reply; a model that thinks aloud needs many.
            **_: Settings that mean nothing here.

        Raises:
            InputError: There is no model, or fewer than one sample.
        """
        if llm is None:
            raise InputError(
                "expected a chat model for the judge 'chat', got none: name one, or judge the "
                "miniature's pairs with 'world' and others with 'human'."
            )
        if samples < 1:
            raise InputError(f"expected 1 sample or more, got {samples}: ask an odd number.")
        self.llm = llm()
        self.samples = samples
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.prompt = prompts.load("judge-rubric")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Prompt, samples, parameters and the model."""
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
        """Judge every claim; all questions go to the model in one call."""
        requests = [
            Request(
                messages=(
                    Message("system", (self.prompt.system,)),
                    Message("user", (self._question(claim),)),
                ),
                prompt_id=self.prompt.id,
                schema=SCHEMA,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                sample=sample,
            )
            for claim in claims
            for sample in range(self.samples)
        ]
        replies = self.llm.answer(requests, progress) if requests else []
        # Not zipped with the claims: a backend that loses a reply would shift all verdicts.
        if len(replies) != len(requests):
            raise InputError(
                f"expected {len(requests)} replies from the judge's model, got {len(replies)}: "
                f"its backend must return one a request."
            )
        n = self.samples
        return [majority(replies[i * n : (i + 1) * n]) for i in range(len(claims))]

    def _question(self, claim: Claim) -> str:
        said = {"own": claim.own, "other": claim.other, "claim": claim.text}
        quoted = {name: json.dumps(text, ensure_ascii=False) for name, text in said.items()}
        return self.prompt.fill(**quoted)


def majority(replies: Sequence[Reply | Failure]) -> Verdict:
    """Turn the answers to one question into a verdict.

    A score needs more than half of all the answers asked for, failed ones included.
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
    said = ", ".join(f"{count} × {vote}" for vote, count in sorted(votes.items()))
    failed = f"{len(failures)} failed ({failures[0]})" if failures else ""
    return Verdict(None, f"no majority among {len(replies)} samples: " + "; ".join(
        part for part in (said, failed) if part
    ))  # fmt: skip


def _vote(data: Any) -> int | None:
    score = data.get("score") if isinstance(data, Mapping) else None
    if isinstance(score, bool) or not isinstance(score, int):
        return None
    return score if score in (0, 1, 2) else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
