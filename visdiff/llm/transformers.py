"""Local chat models, with or without vision, through transformers.

Decoding is greedy, or sampled with noise that is seeded by the request. A batch contains only
requests of equal length, so nothing is padded and a reply does not depend on its batch.
"""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.llm import Failure, Message, Reply, Request, Usage
from visdiff.llm.cached import key_parts
from visdiff.llm.streaming import Admit, Result, StreamingChat, admit_all
from visdiff.llm.structured import (
    InvalidReplyError,
    cut_reply,
    instruction,
    raise_limit,
    strip_reasoning,
    validate_reply,
)
from visdiff.llm.transformers_checkpoint import (
    Checkpoint,
    Inputs,
    append_tokens,
    concatenate_inputs,
)

# Part of the cache key: increase it when the model input of the same request changes.
_PROTOCOL = 1
# Number of batches to read ahead; requests of equal length are batched within this window.
_WINDOW = 4


class _Job(NamedTuple):
    place: int
    request: Request
    inputs: Inputs


class TransformersChat(StreamingChat):
    """A checkpoint with a chat template: a causal language model, or an image-text-to-text model.

    Requests with choices are answered by scoring: the probability of a choice is the product of the
    probabilities of its tokens after the prompt (and of an end token, if one choice is a prefix of
    another), normalised over the choices. A schema is described in the prompt.

    Args:
        model: Hub id or local folder.
        revision: Commit, tag or branch of a hub model. The commit is part of the cache key.
        max_new_tokens: Maximum length of a reply if the request sets none.
        batch_size: Maximum number of requests per batch.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        **_: Other fields of the configuration, ignored.

    Raises:
        InputError: There is no model name, its folder does not exist, or a number is below 1.
    """

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        max_new_tokens: int = 512,
        batch_size: int = 8,
        device: str = "auto",
        **_: Any,
    ) -> None:
        if not model:
            raise InputError(
                "Expected a hub id or folder of a chat model, got none; set the llm's model."
            )
        if max_new_tokens < 1 or batch_size < 1:
            raise InputError(
                "Expected max_new_tokens and batch_size of at least 1, "
                f"got {max_new_tokens} and {batch_size}; change them."
            )
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._checkpoint = Checkpoint(model, revision, device)
        self._lock = threading.Lock()
        self._identity: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend, weights (content of a folder or commit of a hub model) and `max_new_tokens`."""
        if self._identity is None:
            self._identity = {
                "backend": "transformers",
                "protocol": _PROTOCOL,
                **self._checkpoint.identity,
                "max_new_tokens": self.max_new_tokens,
            }
        return self._identity

    @property
    def has_vision(self) -> bool:
        """Whether the checkpoint is an image-text-to-text model."""
        return self._checkpoint.has_vision

    def stream(
        self, requests: Sequence[Request], admit: Admit = admit_all
    ) -> Iterator[tuple[int, Result]]:
        """Yields results batch by batch (see `StreamingChat.stream`).

        Raises:
            InputError: The model without vision gets images, a text is longer than the context, or
                the checkpoint is not a chat model.
            MissingBackendError: The weights cannot be loaded.
        """
        self.check(requests)
        todo = iter(enumerate(requests))
        while window := list(itertools.islice(todo, _WINDOW * self.batch_size)):
            jobs: list[_Job] = []
            error: InputError | None = None
            for index, request in window:
                refused = admit(request)
                if refused is not None:
                    yield index, refused
                    continue
                try:
                    inputs = self._checkpoint.read(_with_instruction(request))
                except InputError as caught:
                    # Raised after the requests before it are answered.
                    error = caught
                    break
                jobs.append(_Job(index, request, inputs))
            for batch in _group_by_shape(jobs, self.batch_size):
                with self._lock:
                    if batch[0].request.choices:
                        results = [self._score_choices(job) for job in batch]
                    else:
                        results = self._reply(batch)
                for job, result in zip(batch, results, strict=True):
                    yield job.place, result
            if error is not None:
                raise error

    def _reply(self, batch: list[_Job]) -> list[Result]:
        """Generates replies to requests of one shape.

        An invalid reply is generated once more, and so is one that was cut before its text began.
        """
        results: list[Result] = []
        for job, (text, ended, usage) in zip(batch, self._generate(batch), strict=True):
            if not ended and job.request.max_tokens and not strip_reasoning(text):
                job = job._replace(request=raise_limit(job.request))
                text, ended, more = self._generate([job])[0]
                usage = _sum(usage, more)
            result = _result(self.model, job.request, text, ended, usage)
            if isinstance(result, InvalidReplyError):
                result = self._retry(job, text, str(result), usage)
            results.append(result)
        return results

    def _retry(self, job: _Job, text: str, reason: str, spent: Usage) -> Result:
        """Generates once more, with the invalid reply and a correction in the conversation."""
        request = job.request
        correction = f"That does not fit: {reason}. {instruction(request)}"
        messages = (
            *request.messages,
            Message("assistant", (text,)),
            Message("user", (correction,)),
        )
        try:
            inputs = self._checkpoint.read(messages)
        except InputError:
            # The request fits the context only without the correction.
            return Failure(reason, "parse", spent)
        text, ended, usage = self._generate([job._replace(inputs=inputs)])[0]
        usage = _sum(spent, usage)
        result = _result(self.model, request, text, ended, usage)
        return (
            Failure(str(result), "parse", usage)
            if isinstance(result, InvalidReplyError)
            else result
        )

    def _generate(self, batch: list[_Job]) -> list[tuple[str, bool, Usage]]:
        """Returns text, whether it ended with an end token, and token counts for each prompt."""
        loaded = self._checkpoint.load()
        inputs = concatenate_inputs([job.inputs for job in batch], loaded)
        prompt = inputs["input_ids"].shape[1]
        longest = batch[0].request.max_tokens or self.max_new_tokens
        if loaded.context is not None:
            longest = min(longest, loaded.context - prompt)
        sampling = any(job.request.temperature for job in batch)
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=longest,
                logits_processor=[_Noise([job.request for job in batch])] if sampling else None,
            )
        found: list[tuple[str, bool, Usage]] = []
        for row in output[:, prompt:].tolist():
            end = next((i for i, token in enumerate(row) if token in loaded.ends), None)
            tokens = row if end is None else row[:end]
            text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
            found.append((text, end is not None, Usage(prompt, len(tokens) + (end is not None))))
        return found

    def _score_choices(self, job: _Job) -> Result:
        """Selects a choice by the probability of its tokens after the prompt."""
        loaded, request = self._checkpoint.load(), job.request
        choice_tokens = [
            tuple(loaded.tokenizer(choice, add_special_tokens=False)["input_ids"])
            for choice in request.choices
        ]
        prompt = job.inputs["input_ids"].shape[1]
        fits = loaded.context is None or prompt + max(map(len, choice_tokens)) <= loaded.context
        if not all(choice_tokens) or not fits:
            raise InputError(
                f"Expected choices that {self.model!r} can tokenize after the prompt, got "
                f"{list(request.choices)}; use shorter or other words, or a shorter prompt."
            )
        # If one choice is a prefix of another, the probability of an end token separates them.
        end = any(a != b and b[: len(a)] == a for a in choice_tokens for b in choice_tokens)
        tables: dict[tuple[int, ...], torch.Tensor] = {}
        scores = torch.zeros(len(choice_tokens), dtype=torch.float64)
        for place, tokens in enumerate(choice_tokens):
            prefix = tokens if end else tokens[:-1]
            if prefix not in tables:
                tables[prefix] = self._logprobs(job, prefix)
            table = tables[prefix]
            scores[place] = sum(float(table[step, token]) for step, token in enumerate(tokens))
            if end:
                scores[place] += table[-1, loaded.ends].logsumexp(0)
        probabilities = scores.softmax(0).tolist()
        if request.temperature:
            noise = _gumbel(len(scores), _generator(request))
            scores = scores / request.temperature + noise
        best = int(scores.argmax())
        return Reply(
            text=request.choices[best],
            probabilities=dict(zip(request.choices, probabilities, strict=True)),
            model=self.model,
            usage=Usage(prompt, len(choice_tokens[best])),
        )

    def _logprobs(self, job: _Job, prefix: tuple[int, ...]) -> torch.Tensor:
        """Returns next-token log-probabilities after the prompt and after each prefix token."""
        loaded = self._checkpoint.load()
        inputs = concatenate_inputs([append_tokens(job.inputs, prefix)], loaded)
        with torch.inference_mode():
            logits = loaded.model(**inputs).logits[0, -len(prefix) - 1 :]
        return logits.cpu().double().log_softmax(-1)


class _Noise:
    """A logits processor that turns greedy decoding into sampling (the Gumbel-max trick).

    Each request has its own generator, so a sample depends neither on the rest of the batch nor on
    a global seed.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._temperatures = [request.temperature for request in requests]
        self._generators = [_generator(request) for request in requests]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = []
        for row, temperature, generator in zip(
            scores, self._temperatures, self._generators, strict=True
        ):
            if temperature:
                noise = _gumbel(len(row), generator).float().to(row.device)
                rows.append(row.float() / temperature + noise)
            else:
                rows.append(row.float())
        return torch.stack(rows)


def _generator(request: Request) -> torch.Generator:
    """Returns the random generator of a request, seeded by the request's content."""
    name = digest_bytes(canonical_json(key_parts({}, request)).encode())
    return torch.Generator().manual_seed(int(name[:15], 16))


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(a.prompt_tokens + b.prompt_tokens, a.completion_tokens + b.completion_tokens)


def _gumbel(size: int, generator: torch.Generator) -> torch.Tensor:
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))


def _with_instruction(request: Request) -> tuple[Message, ...]:
    """Appends the format instruction to the last turn, since decoding is not constrained."""
    if request.schema is None:
        return request.messages
    *before, last = request.messages
    if last.role != "user":
        return (*request.messages, Message("user", (instruction(request),)))
    return (*before, Message("user", (*last.parts, f"\n{instruction(request)}")))


def _result(
    model: str, request: Request, text: str, ended: bool, usage: Usage
) -> Result | InvalidReplyError:
    if not ended:
        return cut_reply(request, usage)
    text = strip_reasoning(text)
    if not text:
        return Failure("empty reply", "empty", usage)
    try:
        text, data = validate_reply(request, text)
    except InvalidReplyError as error:
        return error
    return Reply(text=text, data=data, model=model, usage=usage)


def _group_by_shape(jobs: Sequence[_Job], batch_size: int) -> Iterator[list[_Job]]:
    """Yields batches that need no padding, groups ordered by their first request."""
    groups: dict[Any, list[_Job]] = {}
    for job in jobs:
        shapes = sorted((name, tuple(value.shape[1:])) for name, value in job.inputs.items())
        shape = (tuple(shapes), job.request.max_tokens, bool(job.request.choices))
        groups.setdefault(shape, []).append(job)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
