"""A proposer that decodes the difference of the sets' mean features with BLIP-2's language model.

It needs no captions and no other model. This is the feature-based proposer of VisDiff (Dunlap et
al., "Describing Differences in Image Sets with Natural Language", CVPR 2024, arXiv:2312.02974). The
original subtracts the means of the Q-Former's input. Here they are means of its output, the input
space of the language model, so that the Q-Former receives only features of real images. The
original also truncates the larger set to the size of the smaller and samples without a seed; here
all images count, and sampling uses the run's seed.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from visdiff.captioners import Captioner
from visdiff.captioners.blip import Blip2Captioner
from visdiff.encoders.blip2 import Blip2Features, language_inputs
from visdiff.engine import Runtime, apply
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.proposers.replies import clean_line
from visdiff.results import Direction, Hypothesis

# As in the original.
_TOP_P = 0.9
# Images whose features are in memory at a time; 160 KB per image for BLIP-2 OPT-2.7b.
_BLOCK = 1024


class Blip2FeaturesProposer(Proposer):
    """A proposer that samples sentences from BLIP-2's language model, given mean features.

    In each direction the language model gets two inputs. One is the difference of the means, own -
    other, as in the original. The other is the extrapolation 2 · own - other, which is closer to
    features of real images. ``ask`` sentences are sampled for each input by nucleus sampling; the
    most frequent come first.

    Args:
        model: A BLIP-2 checkpoint (hub id, local folder, or "miniature", the bundled captioner). By
            default the run's captioner, if it is a BLIP-2.
        ask: Sentences sampled per input, and maximum number of hypotheses per direction.
        batch_size: Images per batch.
        workers: Threads that decode images.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        captioner: The run's captioner. Its prompt and maximum length also apply here.
        runtime: The run's cache, progress and engine.

    Raises:
        InputError: There is no BLIP-2, or ``ask`` is below 1.
    """

    name = "blip2-features"
    needs_captions = False

    def __init__(
        self,
        model: str | None = None,
        ask: int = 10,
        batch_size: int = 32,
        workers: int = 2,
        device: str = "auto",
        captioner: Captioner | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        if model is not None:
            self.blip = Blip2Captioner(model, device=device)
        elif isinstance(captioner, Blip2Captioner):
            self.blip = captioner
        else:
            raise InputError(
                f"Expected a BLIP-2 for the proposer {self.name!r}, got no proposer.model and "
                'another kind of captioner; set proposer.model to "miniature", or to a checkpoint '
                'such as "Salesforce/blip2-opt-2.7b".'
            )
        if ask < 1:
            raise InputError(f"Expected proposer.ask of at least 1, got {ask}.")
        self.ask = self.max_hypotheses = ask
        self.batch_size = batch_size
        self.workers = workers
        self.runtime = runtime or Runtime()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The weights, the prompt, and the sampling settings."""
        return {
            "proposer": self.name,
            "version": 1,
            "weights": self._weights(),
            "prompt": self.blip.prompt,
            "ask": self.ask,
            "top_p": _TOP_P,
            "max_new_tokens": self.blip.max_new_tokens,
        }

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Returns sampled sentences (see `visdiff.proposers.Proposer`).

        Both directions use the same random numbers, so that swapping the sets swaps the sentences.
        Equal means give no proposals; a set without a readable image gives a failure.
        """
        seed = int(rng.integers(2**63))
        means = [self._mean(images) for images in (evidence.images_a, evidence.images_b)]
        if means[0] is None or means[1] is None:
            return Proposals(failures=("a set has no image that can be read",), asked=1)
        found = Proposals()
        if np.array_equal(means[0], means[1]):
            return found
        directions: tuple[tuple[Direction, np.ndarray, np.ndarray], ...] = (
            ("A", means[0], means[1]),
            ("B", means[1], means[0]),
        )
        for direction, own, other in directions:
            texts, refused = self._sample_sentences(np.stack([own - other, 2 * own - other]), seed)
            found += Proposals(
                tuple(Hypothesis(text, direction, self.name, round) for text in texts[: self.ask]),
                tuple(refused),
                asked=1,
                answered=int(bool(texts) or not refused),
            )
        return found

    def _weights(self) -> Mapping[str, Any]:
        known = self.blip.identity
        return {name: known[name] for name in ("weights", "model", "revision") if name in known}

    def _mean(self, images: ImageSet) -> np.ndarray | None:
        """Returns the mean of the images' features, float64, or None if no image is readable."""
        model = Blip2Features(self.blip, self._weights())
        total, count = np.float64(0), 0
        for start in range(0, len(images), _BLOCK):
            part = images.subset(range(start, min(start + _BLOCK, len(images))))
            applied = apply(
                model,
                part,
                self.runtime,
                batch_size=self.batch_size,
                workers=self.workers,
                desc="features",
            )
            known = [value for value in applied.values if value is not None]
            if known:
                total = total + np.sum(np.stack(known), axis=0, dtype=np.float64)
                count += len(known)
        return np.asarray(total / count) if count else None

    def _sample_sentences(
        self, features: np.ndarray, seed: int
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """Returns sentences for inputs (k, queries, d), most frequent first, and refused texts."""
        loaded = self.blip.load()
        model, ends = loaded.model, self.blip.end_tokens(loaded)
        pad = loaded.processor.tokenizer.pad_token_id
        rows = torch.from_numpy(features.astype(np.float32)).repeat_interleave(self.ask, dim=0)
        ids = torch.tensor([self.blip.prompt_ids(loaded)] * len(rows), device=loaded.device)
        with torch.inference_mode():
            output = model.language_model.generate(
                inputs_embeds=language_inputs(model, ids, rows),
                attention_mask=torch.ones_like(ids),
                # Greedy decoding of noisy scores is sampling, see `_NucleusNoise`.
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.blip.max_new_tokens,
                logits_processor=[_NucleusNoise(_TOP_P, seed)],
                eos_token_id=ends,
                pad_token_id=ends[0] if pad is None else pad,
            )
        texts = loaded.processor.tokenizer.batch_decode(output, skip_special_tokens=True)
        counts: Counter[str] = Counter()
        spellings: dict[str, str] = {}
        refused: dict[str, str] = {}
        for row, text in zip(output.tolist(), texts, strict=True):
            phrase, reason = clean_line(text)
            if not set(row) & set(ends):
                reason = f"no end within {self.blip.max_new_tokens} tokens"
            if reason:
                refused[" ".join(text.split())] = reason
            else:
                counts[phrase.casefold()] += 1
                spellings.setdefault(phrase.casefold(), phrase)
        return [spellings[key] for key, _ in counts.most_common()], list(refused.items())


class _NucleusNoise:
    """A ``LogitsProcessor`` with which greedy decoding samples from the nucleus.

    transformers samples with torch's global generator. This class uses its own: the maximum of
    log-probabilities with independent Gumbel noise is a sample from the distribution (Maddison et
    al. 2014, "A* sampling"). The nucleus is that of Holtzman et al. 2020, "The curious case of
    neural text degeneration".

    Args:
        top_p: Probability of the nucleus, in (0, 1].
        seed: Seed of the noise.
    """

    def __init__(self, top_p: float, seed: int) -> None:
        self.top_p = top_p
        # On the CPU, so that all devices use the same random numbers.
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores (n, vocabulary) with noise added, -inf outside the nucleus."""
        scores = scores.float()
        ordered, order = scores.softmax(dim=-1).sort(dim=-1, descending=True)
        # A token is outside if the likelier ones already reach top_p. Scatter undoes the sorting.
        beyond = ordered.cumsum(dim=-1) - ordered >= self.top_p
        outside = torch.empty_like(beyond).scatter_(-1, order, beyond)
        uniform = torch.rand(scores.shape, generator=self.generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp_min(1e-300))).to(scores.device, scores.dtype)
        return (scores + noise).masked_fill(outside, -torch.inf)
