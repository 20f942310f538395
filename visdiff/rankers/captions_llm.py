"""A ranker that asks a language model about captions (VisDiff's caption-based ranker)."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from visdiff import prompts
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Message, Request
from visdiff.rankers import Ranker
from visdiff.rankers.asking import CHOICES, score_questions, summarize
from visdiff.results import Hypothesis

logger = logging.getLogger(__name__)

_PROMPT = "captions-llm-rank"


class CaptionsLlmRanker(Ranker):
    """A ranker that asks whether a hypothesis is true of an image, given its caption.

    The score, in [0, 1], is the probability of "yes" if the chat backend reports probabilities, and
    otherwise 1 or 0. A reply that is neither yes nor no gives NaN.

    Args:
        llm: Returns the chat model; called once, in the constructor.
        max_tokens: Maximum length of an answer; reasoning models need hundreds of tokens.
        runtime: The run's cache and progress.

    Raises:
        InputError: There is no chat model.
    """

    name = "captions-llm"
    needs_captions = True
    asks = True
    tokens_a_call = (150, 2)

    def __init__(
        self,
        llm: Callable[[], ChatModel] | None = None,
        max_tokens: int = 10,
        runtime: Runtime | None = None,
    ) -> None:
        if llm is None:
            raise InputError(
                f"Expected a chat model for the ranker {self.name!r}, got none; set one in the "
                "configuration's table llm, or use the ranker 'captions-lexical', which needs none."
            )
        self.llm = llm()
        # Not in the identity: an answer that is not cut does not depend on it.
        self.max_tokens = max_tokens
        self.runtime = runtime or Runtime()
        self.prompt = prompts.load(_PROMPT)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model and the prompt."""
        return {
            "ranker": self.name,
            "model": dict(self.llm.identity),
            "prompt": self.prompt.id,
            "prompt_sha256": self.prompt.digest,
        }

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompt id → hash."""
        return {self.prompt.id: self.prompt.digest}

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Returns scores of captions (see `visdiff.rankers.Ranker`); no image is opened.

        Each distinct caption is evaluated once.

        Raises:
            InputError: There are no captions, or not one per image.
        """
        if captions is None or len(captions) != len(images):
            got = "none" if captions is None else str(len(captions))
            raise InputError(
                f"Expected one caption for each of {len(images)} images for the ranker "
                f"{self.name!r}, got {got}; choose a captioner, or a ranker that reads images."
            )
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        cleaned = [" ".join(caption.split()) if caption else "" for caption in captions]
        distinct = list(dict.fromkeys(caption for caption in cleaned if caption))
        texts = list(dict.fromkeys(h.text for h in hypotheses))
        pairs = [(text, caption) for text in texts for caption in distinct]
        if not pairs:
            return scores
        identity = dict(self.identity)
        answers, problems = score_questions(
            self.llm,
            (
                (
                    {**identity, "hypothesis": text, "caption": caption},
                    lambda text=text, caption=caption: self._request(text, caption),
                )
                for text, caption in pairs
            ),
            "yes-no",
            self.runtime,
        )
        if problems:
            logger.warning("%d answers are missing: %s", problems.total(), summarize(problems))
        known = dict(zip(pairs, answers, strict=True))
        for row, hypothesis in enumerate(hypotheses):
            scores[row] = [known.get((hypothesis.text, caption), np.nan) for caption in cleaned]
        return scores

    def _request(self, hypothesis: str, caption: str) -> Request:
        # JSON quoting keeps a caption with line breaks or quotation marks one value.
        text = self.prompt.fill(
            caption=json.dumps(caption, ensure_ascii=False),
            hypothesis=json.dumps(hypothesis, ensure_ascii=False),
        )
        return Request(
            messages=(Message("user", (text,)),),
            prompt_id=self.prompt.id,
            max_tokens=self.max_tokens,
            limit_setting="ranker.max_tokens",
            temperature=0.0,
            choices=CHOICES,
        )
