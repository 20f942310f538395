"""A language model, or one that reads pictures too, on this machine through transformers.

Decoding is greedy, or sampled with noise that belongs to the request. Only requests of the same
length run together, so that nothing is padded and an answer does not depend on its batch.
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
from visdiff.llm.streaming import Admit, Result, StreamingChat, always
from visdiff.llm.structured import UnfitError, fitted, instruction, spoken
from visdiff.llm.transformers_checkpoint import Checkpoint, Inputs, extended, joined

# Part of the cache key: raise it when what the model reads for the same request changes.
_PROTOCOL = 1
# Requests read ahead are this many batches: those of one length are found among them.
_WINDOW = 4


class _Job(NamedTuple):
    place: int
    request: Request
    inputs: Inputs


class TransformersChat(StreamingChat):
    """A checkpoint with a chat template: a causal language model, or an image-text-to-text model.

    Replies to requests with choices are graded: the probability of a choice is that of its tokens,
    all of them, after the prompt (and of the end after them, where one choice begins like another),
    and the choices' sum to one. A schema is asked for in words.

    Args:
        model: Hub id or local folder.
        revision: Commit, tag or branch of a hub model. The commit it stands for enters the cache
            key.
        max_new_tokens: Longest reply where a request sets none.
        batch_size: Requests at a time.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        **_: Fields of the configuration that mean nothing here.

    Raises:
        InputError: No model is named, its folder does not exist, or a number is below 1.
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
                "expected a hub id or folder of a chat model, got none: set the llm's model."
            )
        if max_new_tokens < 1 or batch_size < 1:
            raise InputError(
                "expected max_new_tokens and batch_size of at least 1, "
                f"got {max_new_tokens} and {batch_size}: change them."
            )
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._checkpoint = Checkpoint(model, revision, device)
        self._lock = threading.Lock()
        self._identity: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend, weights (content of a local folder, commit of a hub model), longest reply."""
        if self._identity is None:
            self._identity = {
                "backend": "transformers",
                "protocol": _PROTOCOL,
                **self._checkpoint.identity,
                "max_new_tokens": self.max_new_tokens,
            }
        return self._identity

    @property
    def sees(self) -> bool:
        """Whether the checkpoint is of a class that reads pictures."""
        return self._checkpoint.sees

    def stream(
        self, requests: Sequence[Request], admit: Admit = always
    ) -> Iterator[tuple[int, Result]]:
        """Answer requests batch by batch (see `StreamingChat.stream`).

        Raises:
            InputError: Pictures for a model that does not see, a text longer than the context, or a
                checkpoint that is none of a chat model.
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
                    inputs = self._checkpoint.read(_told(request))
                except InputError as wrong:
                    # What can be answered is, before this is said.
                    error = wrong
                    break
                jobs.append(_Job(index, request, inputs))
            for batch in _same_shape(jobs, self.batch_size):
                with self._lock:
                    if batch[0].request.choices:
                        results = [self._grade(job) for job in batch]
                    else:
                        results = self._say(batch)
                for job, result in zip(batch, results, strict=True):
                    yield job.place, result
            if error is not None:
                raise error

    def _say(self, batch: list[_Job]) -> list[Result]:
        """Answer requests of one shape; what is not what was asked for is asked for once more."""
        results: list[Result] = []
        for job, (text, ended, usage) in zip(batch, self._generate(batch), strict=True):
            result = _result(self.model, job.request, text, ended, usage)
            if isinstance(result, UnfitError):
                result = self._again(job, text, str(result), usage)
            results.append(result)
        return results

    def _again(self, job: _Job, text: str, reason: str, spent: Usage) -> Result:
        """Show the model its text and what is wrong with it."""
        request = job.request
        told = f"That does not fit: {reason}. {instruction(request)}"
        messages = (*request.messages, Message("assistant", (text,)), Message("user", (told,)))
        try:
            inputs = self._checkpoint.read(messages)
        except InputError:
            # The request fits the context, and with the correction it does not.
            return Failure(reason, "parse", spent)
        text, ended, usage = self._generate([job._replace(inputs=inputs)])[0]
        usage = Usage(
            spent.prompt_tokens + usage.prompt_tokens,
            spent.completion_tokens + usage.completion_tokens,
        )
        result = _result(self.model, request, text, ended, usage)
        return Failure(str(result), "parse", usage) if isinstance(result, UnfitError) else result

    def _generate(self, batch: list[_Job]) -> list[tuple[str, bool, Usage]]:
        """Continue prompts of one shape: texts, whether they came to an end, and tokens."""
        loaded = self._checkpoint.load()
        inputs = joined([job.inputs for job in batch], loaded)
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
            said = row if end is None else row[:end]
            text = loaded.tokenizer.decode(said, skip_special_tokens=True)
            found.append((text, end is not None, Usage(prompt, len(said) + (end is not None))))
        return found

    def _grade(self, job: _Job) -> Result:
        """Choose by the probability of each choice's tokens after the prompt."""
        loaded, request = self._checkpoint.load(), job.request
        spelled = [
            tuple(loaded.tokenizer(choice, add_special_tokens=False)["input_ids"])
            for choice in request.choices
        ]
        prompt = job.inputs["input_ids"].shape[1]
        room = loaded.context is None or prompt + max(map(len, spelled)) <= loaded.context
        if not all(spelled) or not room:
            raise InputError(
                f"expected choices that {self.model!r} can spell after the prompt, got "
                f"{list(request.choices)}: use shorter or other words, or a shorter prompt."
            )
        # Where one choice begins like another, whether it ends there tells them apart.
        end = any(a != b and b[: len(a)] == a for a in spelled for b in spelled)
        tables: dict[tuple[int, ...], torch.Tensor] = {}
        scores = torch.zeros(len(spelled), dtype=torch.float64)
        for place, tokens in enumerate(spelled):
            given = tokens if end else tokens[:-1]
            if given not in tables:
                tables[given] = self._logprobs(job, given)
            table = tables[given]
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
            usage=Usage(prompt, len(spelled[best])),
        )

    def _logprobs(self, job: _Job, given: tuple[int, ...]) -> torch.Tensor:
        """Return log-probabilities of what follows the prompt, and each given token after it."""
        loaded = self._checkpoint.load()
        inputs = joined([extended(job.inputs, given)], loaded)
        with torch.inference_mode():
            logits = loaded.model(**inputs).logits[0, -len(given) - 1 :]
        return logits.cpu().double().log_softmax(-1)


class _Noise:
    """Turns greedy choice into sampling: the largest of logits/T plus Gumbel noise is a sample.

    Each request has noise of its own, so that a sample does not depend on what else is in the
    batch, and nothing is drawn from a global source.
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
    """Make the source of a request's noise: the same wherever, and with whatever, it is asked."""
    name = digest_bytes(canonical_json(key_parts({}, request)).encode())
    return torch.Generator().manual_seed(int(name[:15], 16))


def _gumbel(size: int, generator: torch.Generator) -> torch.Tensor:
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))


def _told(request: Request) -> tuple[Message, ...]:
    """Add what the reply has to be to the last turn, where the model is held to it in no way."""
    if request.schema is None:
        return request.messages
    *before, last = request.messages
    if last.role != "user":
        return (*request.messages, Message("user", (instruction(request),)))
    return (*before, Message("user", (*last.parts, f"\n{instruction(request)}")))


def _result(
    model: str, request: Request, text: str, ended: bool, usage: Usage
) -> Result | UnfitError:
    if not ended:
        return Failure(f"reply cut at {usage.completion_tokens} tokens", "length", usage)
    text = spoken(text)
    if not text:
        return Failure("empty reply", "empty", usage)
    try:
        text, data = fitted(request, text)
    except UnfitError as error:
        return error
    return Reply(text=text, data=data, model=model, usage=usage)


def _same_shape(jobs: Sequence[_Job], most: int) -> Iterator[list[_Job]]:
    """Group what can run together without padding, in the order of the first of each group."""
    groups: dict[Any, list[_Job]] = {}
    for job in jobs:
        shapes = sorted((name, tuple(value.shape[1:])) for name, value in job.inputs.items())
        alike = (tuple(shapes), job.request.max_tokens, bool(job.request.choices))
        groups.setdefault(alike, []).append(job)
    for group in groups.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]
