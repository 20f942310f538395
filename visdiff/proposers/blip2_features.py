"""BLIP-2's language model says what the difference of the sets' mean features looks like.

No captions and no other model. This is the feature-based proposer of VisDiff (Dunlap et al.,
"Describing Differences in Image Sets with Natural Language", CVPR 2024, arXiv:2312.02974), which
subtracts the means before the Q-Former. Here they are those of the Q-Former's output, the space
that the language model reads, so that no other part has to take for an image what is none. The
original also cuts the larger set to the size of the smaller and draws without a seed; here every
image counts, and the draws follow from the run's seed.
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
from visdiff.proposers.replies import clean
from visdiff.results import Direction, Hypothesis

# As in the original.
_TOP_P = 0.9
# Images whose features are in memory at a time: 160 KB an image of BLIP-2 OPT-2.7b.
_BLOCK = 1024


class Blip2FeaturesProposer(Proposer):
    """Sentences drawn from BLIP-2's language model, given the difference of mean features.

    In each direction the language model reads two inputs: the bare difference of the means, as in
    the original, and the mean of the one set moved as far again away from that of the other, which
    lies nearer to what images look like. ``ask`` sentences are drawn for each by nucleus sampling;
    those drawn most often come first.

    Args:
        model: A BLIP-2 checkpoint (hub id, local folder, or "miniature", the bundled captioner). By
            default the run's captioner, when that is a BLIP-2.
        ask: Sentences drawn of each input, and most hypotheses of a direction.
        batch_size: Images at a time.
        workers: Threads that decode images.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        captioner: The run's. Its prompt and its longest caption also hold here.
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
                f"expected a BLIP-2 for the proposer {self.name!r}, got no proposer.model, and the "
                'run\'s captioner is none to share; give proposer.model: "miniature", or a '
                'checkpoint such as "Salesforce/blip2-opt-2.7b"'
            )
        if ask < 1:
            raise InputError(f"expected proposer.ask of at least 1, got {ask}")
        self.ask = self.max_hypotheses = ask
        self.batch_size = batch_size
        self.workers = workers
        self.runtime = runtime or Runtime()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The weights, the prompt, and how sentences are drawn."""
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
        """Propose sentences (see `visdiff.proposers.Proposer`).

        Both directions are drawn with the same randomness: sets that change places get each other's
        sentences. Equal means give no proposals, a set without a readable image a failure.
        """
        seed = int(rng.integers(2**63))
        means = [self._mean(images) for images in (evidence.images_a, evidence.images_b)]
        if means[0] is None or means[1] is None:
            return Proposals(failures=("a set has no image that can be read",))
        found = Proposals()
        if np.array_equal(means[0], means[1]):
            return found
        directions: tuple[tuple[Direction, np.ndarray, np.ndarray], ...] = (
            ("A", means[0], means[1]),
            ("B", means[1], means[0]),
        )
        for direction, own, other in directions:
            texts, refused = self._sentences(np.stack([own - other, 2 * own - other]), seed)
            found += Proposals(
                tuple(Hypothesis(text, direction, self.name, round) for text in texts[: self.ask]),
                tuple(refused),
            )
        return found

    def _weights(self) -> Mapping[str, Any]:
        known = self.blip.identity
        return {name: known[name] for name in ("weights", "model", "revision") if name in known}

    def _mean(self, images: ImageSet) -> np.ndarray | None:
        """Return the mean of the images' features, float64, or None when none can be read."""
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

    def _sentences(
        self, features: np.ndarray, seed: int
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """Draw sentences of inputs (k, queries, d), the most frequent first; and what is none."""
        loaded = self.blip.load()
        model, ends = loaded.model, self.blip.ends(loaded)
        pad = loaded.processor.tokenizer.pad_token_id
        rows = torch.from_numpy(features.astype(np.float32)).repeat_interleave(self.ask, dim=0)
        ids = torch.tensor([self.blip.prompt_ids(loaded)] * len(rows), device=loaded.device)
        with torch.inference_mode():
            output = model.language_model.generate(
                inputs_embeds=language_inputs(model, ids, rows),
                attention_mask=torch.ones_like(ids),
                # Greedy over noisy scores is a draw, by a generator of our own (see `_Draw`).
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.blip.max_new_tokens,
                logits_processor=[_Draw(_TOP_P, seed)],
                eos_token_id=ends,
                pad_token_id=ends[0] if pad is None else pad,
            )
        texts = loaded.processor.tokenizer.batch_decode(output, skip_special_tokens=True)
        counts: Counter[str] = Counter()
        spelled: dict[str, str] = {}
        refused: dict[str, str] = {}
        for row, text in zip(output.tolist(), texts, strict=True):
            phrase, reason = clean(text)
            if not set(row) & set(ends):
                reason = f"no end within {self.blip.max_new_tokens} tokens"
            if reason:
                refused[" ".join(text.split())] = reason
            else:
                counts[phrase.casefold()] += 1
                spelled.setdefault(phrase.casefold(), phrase)
        return [spelled[key] for key, _ in counts.most_common()], list(refused.items())


class _Draw:
    """Makes the highest score a draw from the nucleus; a ``LogitsProcessor`` of transformers.

    transformers draws from torch's global generator. The maximum of log-probabilities with
    independent Gumbel noise is a draw from the distribution just as well (Maddison et al. 2014, "A*
    sampling"), and the noise may come from anywhere. The nucleus is that of Holtzman et al. 2020,
    "The curious case of neural text degeneration".

    Args:
        top_p: Probability of the nucleus, in (0, 1].
        seed: Of the noise.
    """

    def __init__(self, top_p: float, seed: int) -> None:
        self.top_p = top_p
        # On the CPU, so that all devices draw alike.
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (n, vocabulary) with noise, -inf outside the nucleus."""
        scores = scores.float()
        ordered, places = scores.softmax(dim=-1).sort(dim=-1, descending=True)
        # A token is out when those before it are enough; back in the order of the vocabulary.
        enough = ordered.cumsum(dim=-1) - ordered >= self.top_p
        out = torch.empty_like(enough).scatter_(-1, places, enough)
        uniform = torch.rand(scores.shape, generator=self.generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp_min(1e-300))).to(scores.device, scores.dtype)
        return (scores + noise).masked_fill(out, -torch.inf)
