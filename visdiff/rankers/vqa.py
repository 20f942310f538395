"""A ranker that asks a model whether each image shows the hypothesis.

For BLIP-2, the score is the probability of "yes" against "no" as the next token. For a chat model,
it is the same probability if the backend reports it, and otherwise 1 or 0.
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
from visdiff.progress import is_hidden
from visdiff.rankers import Ranker
from visdiff.rankers.asking import CHOICES, score_questions, summarize
from visdiff.results import Hypothesis

logger = logging.getLogger(__name__)

# Images whose features are in memory at a time, and whose answers are stored together.
_BLOCK = 256
_SPELLINGS = {
    "yes": ("yes", " yes", "Yes", " Yes"),
    "no": ("no", " no", "No", " No"),
}


class VqaRanker(Ranker):
    """A ranker whose score, in [0, 1], is the answer to "does this image contain it?".

    Args:
        model: A BLIP-2 checkpoint (hub id, local folder, or "miniature", the bundled captioner), or
            "llm", the configured chat model, which needs vision. By default the run's captioner if
            it is a BLIP-2, otherwise "llm".
        revision: Commit, tag or branch of a hub model.
        batch_size: Images per batch.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        llm: Returns the chat model; called only for the model "llm".
        tile: Longest side in pixels of an image sent to a chat model.
        max_tokens: Maximum length of a chat model's answer; reasoning models need hundreds of
            tokens.
        captioner: The run's captioner.
        runtime: The run's cache and progress.

    Raises:
        InputError: The chat model is missing, or has no vision.
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
        max_tokens: int = 10,
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
                "Expected a chat model for the ranker 'vqa', got none; set one in the "
                "configuration's table llm, or a BLIP-2 checkpoint in ranker.model."
            )
        else:
            self._answers = _ChatAnswers(llm(), tile, max_tokens, self.prompt, self.runtime)

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
        """Prompt id → hash."""
        return {self.prompt.id: self.prompt.digest}

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Returns scores of images (see `visdiff.rankers.Ranker`); captions are not read.

        Unreadable images and replies that are neither yes nor no give NaN.
        """
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        columns: dict[str, list[int]] = {}
        for index in range(len(images)):
            try:
                columns.setdefault(images.digest(index), []).append(index)
            except UnreadableImageError as error:
                logger.debug("%s is unscored: %s", images.ids[index], error)
        texts = list(dict.fromkeys(h.text for h in hypotheses))
        if not columns or not texts:
            return scores
        identity = dict(self.identity)
        rows = {text: [i for i, h in enumerate(hypotheses) if h.text == text] for text in texts}
        problems: Counter[str] = Counter()
        digests = list(columns)
        with tqdm(
            total=len(texts) * len(digests),
            desc="questions",
            unit="answer",
            disable=is_hidden(self.runtime.progress),
            file=sys.stderr,
        ) as progress_bar:
            for start in range(0, len(digests), _BLOCK):
                block = digests[start : start + _BLOCK]
                firsts = [columns[digest][0] for digest in block]
                answer = self._answers.for_images(images, firsts)
                for text in texts:
                    parts = [{**identity, "hypothesis": text, "image": d} for d in block]
                    values, missing = answer(text, parts)
                    problems += missing
                    for digest, value in zip(block, values, strict=True):
                        scores[np.ix_(rows[text], columns[digest])] = value
                    progress_bar.update(len(block))
        if problems:
            logger.warning("%d answers are missing: %s", problems.total(), summarize(problems))
        return scores


#: Maps a hypothesis and the cache keys of its images to scores, and to counts of NaNs by reason.
Answer = Callable[[str, list[dict[str, Any]]], tuple[list[float], Counter[str]]]


class _ChatAnswers:
    """Answers of a chat model with vision."""

    def __init__(
        self,
        llm: ChatModel,
        tile: int,
        max_tokens: int,
        prompt: prompts.Prompt,
        runtime: Runtime,
    ) -> None:
        if not llm.has_vision:
            raise InputError(
                "Expected a chat model with vision for the ranker 'vqa', got "
                f"{llm.identity.get('model', 'one')}, which reads text only; choose another "
                "llm.model, or the ranker 'captions-llm'."
            )
        self.llm = llm
        self.runtime = runtime
        self.tile = tile
        # Not in the identity: an answer that is not cut does not depend on it.
        self.max_tokens = max_tokens
        self.prompt = prompt

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"model": dict(self.llm.identity), "tile": self.tile}

    def for_images(self, images: ImageSet, indices: Sequence[int]) -> Answer:
        def request(index: int, digest: str, text: str) -> Request | None:
            try:
                picture = encode_jpeg(images.image_of(index, digest), self.tile)
            except UnreadableImageError:
                return None
            return Request(
                messages=(Message("user", (picture, self.prompt.fill(hypothesis=text))),),
                prompt_id=self.prompt.id,
                max_tokens=self.max_tokens,
                limit_setting="ranker.max_tokens",
                temperature=0.0,
                choices=CHOICES,
            )

        def answer(text: str, parts: list[dict[str, Any]]) -> tuple[list[float], Counter[str]]:
            questions = (
                (part, lambda index=index, digest=part["image"]: request(index, digest, text))
                for part, index in zip(parts, indices, strict=True)
            )
            with self.runtime.quiet():  # `score` shows one progress bar for all questions
                return score_questions(self.llm, questions, "yes-no", self.runtime)

        return answer


class _Blip2Answers:
    """Answers of a local BLIP-2, as probabilities of its next token."""

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

    def for_images(self, images: ImageSet, indices: Sequence[int]) -> Answer:
        # Computed once for all questions, and only if the cache lacks an answer.
        features: dict[int, torch.Tensor] = {}

        def answer(text: str, parts: list[dict[str, Any]]) -> tuple[list[float], Counter[str]]:
            found = self.runtime.cache.get_many("yes-no", parts)
            values = [float("nan") if value is None else float(value) for value in found]
            missing = [i for i, value in enumerate(found) if value is None]
            todo = {indices[i]: parts[i]["image"] for i in missing}
            self._encode(images, todo, features)
            known = [i for i in missing if indices[i] in features]
            for batch in _batches(known, self.batch_size):
                scores = self._score(text, torch.stack([features[indices[i]] for i in batch]))
                for i, score in zip(batch, scores, strict=True):
                    values[i] = score
            fresh = [(parts[i], values[i]) for i in known if not np.isnan(values[i])]
            self.runtime.cache.put_many("yes-no", fresh)
            problems = Counter({"the image cannot be read": len(missing) - len(known)})
            problems["the answer is not finite"] = len(known) - len(fresh)
            return values, +problems

        return answer

    def _encode(
        self, images: ImageSet, todo: Mapping[int, str], features: dict[int, torch.Tensor]
    ) -> None:
        """Adds missing images' inputs of the language model to ``features``.

        Args:
            images: The set.
            todo: Index of an image → its digest.
            features: Index → inputs.
        """
        for batch in _batches([i for i in todo if i not in features], self.batch_size):
            pixels: dict[int, torch.Tensor] = {}
            for index in batch:
                try:
                    pixels[index] = self.blip.prepare(images.image_of(index, todo[index]))
                except UnreadableImageError as error:
                    logger.debug("%s is unscored: %s", images.ids[index], error)
            if not pixels:
                continue
            loaded = self.blip.load()
            encoded = image_features(loaded.model, torch.stack(list(pixels.values())))
            features |= dict(zip(pixels, encoded.cpu(), strict=True))

    def _score(self, text: str, features: torch.Tensor) -> list[float]:
        """Returns the probability of yes against no for image features (n, queries, d)."""
        loaded = self.blip.load()
        model, tokenizer = loaded.model, loaded.processor.tokenizer
        questioner = Blip2Captioner(self.blip.model, prompt=self.prompt.fill(hypothesis=text))
        ids = torch.tensor([questioner.prompt_ids(loaded)] * len(features), device=loaded.device)
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
        logits = logits.float().cpu().double()
        difference = logits[:, yes].logsumexp(-1) - logits[:, no].logsumexp(-1)
        return torch.sigmoid(difference).tolist()


def answer_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the tokens for "yes" and the tokens for "no".

    If a tokenizer has no token for one of the words, the first tokens of its spellings are used.

    Raises:
        InputError: No single token distinguishes the two.
    """
    found: dict[str, set[int]] = {}
    for word, spellings in _SPELLINGS.items():
        ids = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in spellings]
        single = {tokens[0] for tokens in ids if len(tokens) == 1}
        found[word] = single or {tokens[0] for tokens in ids if tokens}
    # A token for the space alone can begin both words.
    shared = found["yes"] & found["no"]
    yes, no = sorted(found["yes"] - shared), sorted(found["no"] - shared)
    if not yes or not no:
        raise InputError(
            'Expected a BLIP-2 whose tokenizer has different first tokens for "yes" and "no", got '
            "the same ones; choose another ranker.model."
        )
    return yes, no


def _batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
