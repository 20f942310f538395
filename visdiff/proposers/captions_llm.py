"""Proposers that give a language model captions of both sets (VisDiff's proposer).

Dunlap et al., "Describing Differences in Image Sets with Natural Language" (CVPR 2024),
arXiv:2312.02974.
"""

from collections.abc import Sequence

import numpy as np

from visdiff.errors import InputError
from visdiff.imageset import manifest
from visdiff.proposers import Evidence
from visdiff.proposers.asking import AskingProposer, Part, sample_indices


class CaptionsLlmProposer(AskingProposer):
    """A proposer that asks about a sample of captions of each set; see `AskingProposer`."""

    name = "captions-llm"

    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]] | None:
        a, b = (
            [_one_line(texts[i]) for i in sample_indices(len(texts), self.sample_size, rng)]
            for texts in evidence.captions(self.name)
        )
        if not a or not b:
            return None
        return self._question(a, b), self._question(b, a)

    def _question(self, first: Sequence[str], second: Sequence[str]) -> tuple[str]:
        lines = [f"Group A: {text}" for text in first] + [f"Group B: {text}" for text in second]
        return (self._fill_prompt(captions="\n".join(lines)),)


class PairedCaptionsLlmProposer(AskingProposer):
    """A proposer that asks about captions of a sample of pairs, with the prompt of each pair.

    It compares two image generators, or one before and after an edit. The prompt is included if the
    manifests have a column ``prompt``. Pairs with a missing caption are left out.
    """

    name = "paired-captions-llm"
    needs_pairs = True

    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]] | None:
        if not evidence.paired:
            raise InputError(
                f"Expected paired sets for the proposer {self.name!r}, got unpaired ones; pair "
                "them by columns (--paired-by prompt,seed), or use the proposer 'captions-llm'."
            )
        evidence.captions(self.name)  # raises if there are no captions
        both = list(zip(evidence.captions_a or (), evidence.captions_b or (), strict=True))
        complete = [i for i, (a, b) in enumerate(both) if a and b]
        if not complete:
            return None
        frame = evidence.images_a.frame
        has_prompt = "prompt" in frame.columns
        prompts = frame["prompt"].map(manifest.text).tolist() if has_prompt else [""] * len(both)
        pairs = [
            (prompts[i], _one_line(str(both[i][0])), _one_line(str(both[i][1])))
            for i in (complete[j] for j in sample_indices(len(complete), self.sample_size, rng))
        ]
        return (
            self._question([(prompt, a, b) for prompt, a, b in pairs]),
            self._question([(prompt, b, a) for prompt, a, b in pairs]),
        )

    def _question(self, pairs: Sequence[tuple[str, str, str]]) -> tuple[str]:
        blocks = [
            (f"Prompt: {_one_line(prompt)}\n" if prompt else "") + f"Group A: {a}\nGroup B: {b}"
            for prompt, a, b in pairs
        ]
        return (self._fill_prompt(captions="\n\n".join(blocks)),)


def _one_line(text: str) -> str:
    return " ".join(text.split())
