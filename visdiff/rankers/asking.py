"""What the rankers that ask a chat model share: yes or no, graded where the model says how sure."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from visdiff.engine import Runtime
from visdiff.llm import ChatModel, Failure, Reply, Request

CHOICES = ("yes", "no")
# Requests at a time: so many pictures are in memory, and so many replies may be lost to Ctrl-C.
_CHUNK = 256
_ANSWER = re.compile(r"\W*(yes|no)(?:\W*$|\s*[.,;:!–—]\s.*)", re.IGNORECASE | re.DOTALL)


def graded(reply: Reply | Failure) -> float:
    """Return how much of a yes a reply is, in [0, 1]; NaN for a failure and for anything unclear.

    The probability of "yes" where the backend tells; else 1 for "yes" and 0 for "no", alone or
    before a comma or full stop. "Not sure", "I cannot tell", "no idea" and "eyes" are neither.
    """
    if isinstance(reply, Failure):
        return float("nan")
    odds = [reply.probabilities.get(choice, 0.0) for choice in CHOICES]
    if sum(odds) > 0:
        return float(odds[0] / sum(odds))
    said = _ANSWER.fullmatch(reply.text.strip())
    return float("nan") if said is None else float(said[1].lower() == "yes")


def ask(
    llm: ChatModel,
    questions: Iterable[tuple[Mapping[str, Any], Callable[[], Request | None]]],
    kind: str,
    runtime: Runtime,
) -> tuple[list[float], Counter[str]]:
    """Answer yes/no questions, each once, through the cache.

    Args:
        llm: The chat model.
        questions: What names each one in the cache, and a function that makes the request; only
            called when the cache holds no answer, and None when it cannot be asked.
        kind: Of the cache entries.
        runtime: Its cache holds clear answers only: what failed is asked again by the next run.

    Returns:
        One number a question as `graded` gives it, and how often each reason stands for a NaN.
    """
    answers: list[float] = []
    problems: Counter[str] = Counter()
    stream = iter(questions)
    while chunk := list(itertools.islice(stream, _CHUNK)):
        found = runtime.cache.get_many(kind, [parts for parts, _ in chunk])
        values = [float("nan") if value is None else float(value) for value in found]
        made = [(i, chunk[i][1]()) for i, value in enumerate(found) if value is None]
        asked = [(i, request) for i, request in made if request is not None]
        problems["the image cannot be read"] += len(made) - len(asked)
        replies: Sequence[Reply | Failure] = []
        if asked:
            replies = llm.answer([request for _, request in asked], runtime.progress)
        for (i, _), reply in zip(asked, replies, strict=True):
            values[i] = graded(reply)
            if np.isnan(values[i]):
                unclear = "neither yes nor no"
                problems[reply.reason if isinstance(reply, Failure) else unclear] += 1
        fresh = [(chunk[i][0], values[i]) for i, _ in asked if not np.isnan(values[i])]
        runtime.cache.put_many(kind, fresh)
        answers += values
    return answers, +problems


def summary(problems: Counter[str]) -> str:
    """Write the reasons out, the most frequent first."""
    return "; ".join(f"{reason} ({n})" for reason, n in problems.most_common(3))
