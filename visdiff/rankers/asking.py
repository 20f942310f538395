"""Yes/no questions to a chat model, for the rankers that use one, scored in [0, 1]."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from visdiff.engine import Runtime
from visdiff.llm import ChatModel, Failure, Reply, Request

CHOICES = ("yes", "no")
# Requests per call. It bounds the images in memory and the replies that Ctrl-C can lose.
_CHUNK = 256
_ANSWER = re.compile(r"\W*(yes|no)(?:\W*$|\s*[.,;:!–—]\s.*)", re.IGNORECASE | re.DOTALL)


def score_reply(reply: Reply | Failure) -> float:
    """Returns the score of a reply in [0, 1], 1 for "yes"; NaN for failures and unclear replies.

    The score is the probability of "yes" if the backend reports probabilities. Otherwise it is 1
    for "yes" and 0 for "no", alone or before a comma or full stop. "Not sure", "I cannot tell", "no
    idea" and "eyes" are unclear.
    """
    if isinstance(reply, Failure):
        return float("nan")
    odds = [reply.probabilities.get(choice, 0.0) for choice in CHOICES]
    if sum(odds) > 0:
        return float(odds[0] / sum(odds))
    answer = _ANSWER.fullmatch(reply.text.strip())
    return float("nan") if answer is None else float(answer[1].lower() == "yes")


def score_questions(
    llm: ChatModel,
    questions: Iterable[tuple[Mapping[str, Any], Callable[[], Request | None]]],
    kind: str,
    runtime: Runtime,
) -> tuple[list[float], Counter[str]]:
    """Returns the scores of yes/no questions, each asked once, through the cache.

    Args:
        llm: The chat model.
        questions: The cache key of each question, and a function that makes the request. The
            function is called only if the cache has no answer; it returns None if the image cannot
            be read.
        kind: Kind of the cache entries.
        runtime: Run settings. The cache stores clear answers only; the next run repeats the others.

    Returns:
        One score per question (see `score_reply`), and the number of NaNs by reason.
    """
    answers: list[float] = []
    problems: Counter[str] = Counter()
    stream = iter(questions)
    while chunk := list(itertools.islice(stream, _CHUNK)):
        found = runtime.cache.get_many(kind, [parts for parts, _ in chunk])
        values = [float("nan") if value is None else float(value) for value in found]
        missing = [(i, chunk[i][1]()) for i, value in enumerate(found) if value is None]
        sent = [(i, request) for i, request in missing if request is not None]
        problems["the image cannot be read"] += len(missing) - len(sent)
        replies: Sequence[Reply | Failure] = []
        if sent:
            replies = llm.answer([request for _, request in sent], runtime.progress)
        for (i, _), reply in zip(sent, replies, strict=True):
            values[i] = score_reply(reply)
            if np.isnan(values[i]):
                unclear = "neither yes nor no"
                problems[reply.reason if isinstance(reply, Failure) else unclear] += 1
        fresh = [(chunk[i][0], values[i]) for i, _ in sent if not np.isnan(values[i])]
        runtime.cache.put_many(kind, fresh)
        answers += values
    return answers, +problems


def summarize(problems: Counter[str]) -> str:
    """Returns the three most frequent reasons with their counts, as text."""
    return "; ".join(f"{reason} ({n})" for reason, n in problems.most_common(3))
