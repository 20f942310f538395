"""Rank by asking about each image whether it shows the hypothesis.

BLIP-2 grades its answer: the score is its probability of "yes" against "no" as the next word. A
chat model's backend may tell probabilities too; where it does not, an answer is 1 or 0.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from visdiff import prompts
from visdiff.captioners import Captioner
from visdiff.captioners.blip import Blip2Captioner
from visdiff.encoders.blip2 import image_features, language_inputs
from visdiff.engine import Runtime
from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel, Message, Request
from visdiff.llm.pictures import encode_jpeg
from visdiff.rankers import Ranker
from visdiff.rankers.asking import CHOICES, ask, summary
from visdiff.results import Hypothesis

logger = logging.getLogger(__name__)

# Images whose features are held in memory at a time, and whose answers are stored together.
_BLOCK = 256
_SPELLINGS = {
    "yes": ("yes", " yes", "Yes", " Yes"),
    "no": ("no", " no", "No", " No"),
}


class VqaRanker(Ranker):
    """Scores a hypothesis on an image by the answer to "does this image contain it?", in [0, 1].

    Args:
        model: A BLIP-2 checkpoint (hub id, local folder, or "miniature", the bundled captioner), or
            "llm", the configured chat model, which has to see. By default the run's captioner, when
            that is a BLIP-2, else "llm".
        revision: Commit, tag or branch of a hub model.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        llm: Returns the chat model; called only for the model "llm".
        tile: Longest side, in pixels, of an image that is sent to a chat model.
        captioner: The run's.
        runtime: The run's cache and progress.

    Raises:
        InputError: The chat model is missing, or does not see.
    """

    name = "vqa"
    needs_captions = False
    tokens_a_call = (1050, 2)

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        batch_size: int = 32,
        device: str = "auto",
        llm: Callable[[], ChatModel] | None = None,
        tile: int = 512,
        captioner: Captioner | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        blip = captioner if model is None and isinstance(captioner, Blip2Captioner) else None
        if blip is None and model not in (None, "llm"):
            blip = Blip2Captioner(model, revision, device=device)
        self.runtime = runtime or Runtime()
        self.asks = blip is None
        self.prompt = prompts.load("vqa-chat" if self.asks else "vqa-blip2")
        if blip is not None:
            self._answers: _Blip2Answers | _ChatAnswers = _Blip2Answers(
                blip, batch_size, self.prompt, self.runtime
            )
        elif llm is None:
            raise InputError(
                "expected a chat model for the ranker 'vqa', got none; name one in the "
                "configuration's table llm, or a BLIP-2 checkpoint in ranker.model"
            )
        else:
            self._answers = _ChatAnswers(llm(), tile, self.prompt, self.runtime)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model and the prompt."""
        return {
            "ranker": self.name,
            "prompt": self.prompt.id,
            "prompt_sha256": self.prompt.digest,
            **self._answers.identity,
        }

    @property
    def prompts(self) -> Mapping[str, str]:
        """Id of the prompt → its hash."""
        return {self.prompt.id: self.prompt.digest}

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Ask about every image (see `visdiff.rankers.Ranker`); captions are not read.

        An image that cannot be read, and an answer that is neither yes nor no, is NaN.
        """
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        places: dict[str, list[int]] = {}
        for index in range(len(images)):
            try:
                places.setdefault(images.digest(index), []).append(index)
            except UnreadableImageError as error:
                logger.debug("%s is unscored: %s", images.ids[index], error)
        texts = list(dict.fromkeys(h.text for h in hypotheses))
        if not places or not texts:
            return scores
        identity = dict(self.identity)
        rows = {text: [i for i, h in enumerate(hypotheses) if h.text == text] for text in texts}
        problems: Counter[str] = Counter()
        digests = list(places)
        with tqdm(
            total=len(texts) * len(digests),
            desc="questions",
            unit="answer",
            disable=not self.runtime.progress,
            file=sys.stderr,
        ) as bar:
            for start in range(0, len(digests), _BLOCK):
                block = digests[start : start + _BLOCK]
                firsts = [places[digest][0] for digest in block]
                session = self._answers.about(images, firsts)
                for text in texts:
                    parts = [{**identity, "hypothesis": text, "image": d} for d in block]
                    answers, missing = session(text, parts)
                    problems += missing
                    for digest, answer in zip(block, answers, strict=True):
                        scores[np.ix_(rows[text], places[digest])] = answer
                    bar.update(len(block))
        if problems:
            logger.warning("%d answers are missing: %s", problems.total(), summary(problems))
        return scores


Session = Callable[[str, list[dict[str, Any]]], tuple[list[float], Counter[str]]]


class _ChatAnswers:
    """Answers of a chat model that sees."""

    def __init__(self, llm: ChatModel, tile: int, prompt: prompts.Prompt, runtime: Runtime) -> None:
        if not llm.has_vision:
            raise InputError(
                f"expected a chat model that sees for the ranker 'vqa', got "
                f"{llm.identity.get('model', 'one')}, which reads text only; name another in "
                "llm.model, or use the ranker 'captions-llm'"
            )
        self.llm = llm
        self.runtime = runtime
        self.tile = tile
        self.prompt = prompt

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"model": dict(self.llm.identity), "tile": self.tile}

    def about(self, images: ImageSet, indices: Sequence[int]) -> Session:
        def request(index: int, text: str) -> Request | None:
            try:
                picture = encode_jpeg(images.image(index), self.tile)
            except UnreadableImageError:
                return None
            return Request(
                messages=(Message("user", (picture, self.prompt.fill(hypothesis=text))),),
                prompt_id=self.prompt.id,
                max_tokens=10,
                temperature=0.0,
                choices=CHOICES,
            )

        def session(text: str, parts: list[dict[str, Any]]) -> tuple[list[float], Counter[str]]:
            questions = (
                (part, lambda index=index: request(index, text))
                for part, index in zip(parts, indices, strict=True)
            )
            with self.runtime.quiet():  # one bar counts the answers to all questions
                return ask(self.llm, questions, "yes-no", self.runtime)

        return session


class _Blip2Answers:
    """Answers of a local BLIP-2, graded by its next word."""

    def __init__(
        self, blip: Blip2Captioner, batch_size: int, prompt: prompts.Prompt, runtime: Runtime
    ) -> None:
        self.blip = blip
        self.runtime = runtime
        self.batch_size = batch_size
        self.prompt = prompt

    @property
    def identity(self) -> Mapping[str, Any]:
        known = self.blip.identity
        return {name: known[name] for name in ("weights", "model", "revision") if name in known}

    def about(self, images: ImageSet, indices: Sequence[int]) -> Session:
        # Seen once for all questions, and not at all when the cache has every answer.
        seen: dict[int, torch.Tensor] = {}

        def session(text: str, parts: list[dict[str, Any]]) -> tuple[list[float], Counter[str]]:
            found = self.runtime.cache.get_many("yes-no", parts)
            values = [float("nan") if value is None else float(value) for value in found]
            missing = [i for i, value in enumerate(found) if value is None]
            self._see(images, [indices[i] for i in missing], seen)
            known = [i for i in missing if indices[i] in seen]
            for batch in _batches(known, self.batch_size):
                answers = self._ask(text, torch.stack([seen[indices[i]] for i in batch]))
                for i, answer in zip(batch, answers, strict=True):
                    values[i] = answer
            fresh = [(parts[i], values[i]) for i in known if not np.isnan(values[i])]
            self.runtime.cache.put_many("yes-no", fresh)
            problems = Counter({"the image cannot be read": len(missing) - len(known)})
            problems["the answer is not finite"] = len(known) - len(fresh)
            return values, +problems

        return session

    def _see(self, images: ImageSet, indices: Sequence[int], seen: dict[int, torch.Tensor]) -> None:
        """Put what the language model reads of each image in ``seen``, unless it is there."""
        for batch in _batches([i for i in indices if i not in seen], self.batch_size):
            pixels: dict[int, torch.Tensor] = {}
            for index in batch:
                try:
                    pixels[index] = self.blip.prepare(images.image(index))
                except UnreadableImageError as error:
                    logger.debug("%s is unscored: %s", images.ids[index], error)
            if not pixels:
                continue
            loaded = self.blip.load()
            features = image_features(loaded.model, torch.stack(list(pixels.values())))
            seen |= dict(zip(pixels, features.cpu(), strict=True))

    def _ask(self, text: str, features: torch.Tensor) -> list[float]:
        """Return the probability of yes against no for a batch of images, (n, queries, d)."""
        loaded = self.blip.load()
        model, tokenizer = loaded.model, loaded.processor.tokenizer
        asker = Blip2Captioner(self.blip.model, prompt=self.prompt.fill(hypothesis=text))
        ids = torch.tensor([asker.prompt_ids(loaded)] * len(features), device=loaded.device)
        with torch.inference_mode():
            inputs = language_inputs(model, ids, features)
            more: dict[str, Any] = {}
            if model.language_model.config.is_encoder_decoder:
                start = model.language_model.config.decoder_start_token_id
                more["decoder_input_ids"] = torch.full((len(ids), 1), start, device=ids.device)
            logits = model.language_model(
                inputs_embeds=inputs, attention_mask=torch.ones_like(ids), **more
            ).logits[:, -1]
        yes, no = answer_tokens(tokenizer)
        weight = logits.float().cpu().double()
        difference = weight[:, yes].logsumexp(-1) - weight[:, no].logsumexp(-1)
        return torch.sigmoid(difference).tolist()


def answer_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that are a "yes", and those that are a "no".

    Where a tokenizer has no token for one of the words, the tokens that it can begin with stand in.

    Raises:
        InputError: The two cannot be told apart by one token.
    """
    found: dict[str, set[int]] = {}
    for word, spellings in _SPELLINGS.items():
        ids = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in spellings]
        whole = {tokens[0] for tokens in ids if len(tokens) == 1}
        found[word] = whole or {tokens[0] for tokens in ids if tokens}
    # A token for the blank alone begins both.
    shared = found["yes"] & found["no"]
    yes, no = sorted(found["yes"] - shared), sorted(found["no"] - shared)
    if not yes or not no:
        raise InputError(
            'expected a BLIP-2 whose tokenizer begins "yes" and "no" differently, got one that '
            "does not; choose another ranker.model"
        )
    return yes, no


def _batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
