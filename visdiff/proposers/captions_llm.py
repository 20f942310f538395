"""A language model reads captions of both sets and says how they differ (VisDiff's proposer).

Dunlap et al., "Describing Differences in Image Sets with Natural Language" (CVPR 2024),
arXiv:2312.02974.
"""

from collections.abc import Sequence

import numpy as np

from visdiff.errors import InputError
from visdiff.imageset import manifest
from visdiff.proposers import Evidence
from visdiff.proposers.asking import AskingProposer, Part, drawn


class CaptionsLlmProposer(AskingProposer):
    """Shows a sample of captions of each set, one a line; see `AskingProposer` for the settings."""

    name = "captions-llm"

    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]] | None:
        said = [
            [_one_line(texts[i]) for i in drawn(len(texts), self.sample_size, rng)]
            for texts in evidence.said(self.name)
        ]
        if not said[0] or not said[1]:
            return None
        return self._lines(said[0], said[1]), self._lines(said[1], said[0])

    def _lines(self, first: Sequence[str], second: Sequence[str]) -> tuple[str]:
        lines = [f"Group A: {text}" for text in first] + [f"Group B: {text}" for text in second]
        return (self._filled(captions="\n".join(lines)),)


class PairedCaptionsLlmProposer(AskingProposer):
    """Shows captions of both images of a sample of pairs, with the prompt that both were made from.

    For two image generators, or one before and after an edit. The prompt is told when the manifests
    have a column ``prompt``. Pairs with a missing caption are left out.
    """

    name = "paired-captions-llm"
    needs_pairs = True

    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]] | None:
        if not evidence.paired:
            raise InputError(
                f"expected paired sets for the proposer {self.name!r}, got unpaired ones; say what "
                "pairs them (--paired-by prompt,seed), or use the proposer 'captions-llm'"
            )
        evidence.said(self.name)  # complains when nothing was captioned
        both = list(zip(evidence.captions_a or (), evidence.captions_b or (), strict=True))
        whole = [i for i, (a, b) in enumerate(both) if a and b]
        if not whole:
            return None
        frame = evidence.images_a.frame
        known = frame["prompt"].map(manifest.text).tolist() if "prompt" in frame.columns else None
        told = [
            (known[i] if known else "", _one_line(str(both[i][0])), _one_line(str(both[i][1])))
            for i in (whole[j] for j in drawn(len(whole), self.sample_size, rng))
        ]
        return (
            self._pairs([(prompt, a, b) for prompt, a, b in told]),
            self._pairs([(prompt, b, a) for prompt, a, b in told]),
        )

    def _pairs(self, told: Sequence[tuple[str, str, str]]) -> tuple[str]:
        blocks = [
            (f"Prompt: {_one_line(prompt)}\n" if prompt else "") + f"Group A: {a}\nGroup B: {b}"
            for prompt, a, b in told
        ]
        return (self._filled(captions="\n\n".join(blocks)),)


def _one_line(text: str) -> str:
    return " ".join(text.split())
