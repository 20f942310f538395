"""What MiniDreamBench measures of a model in its current state.

DINO's part is played by the pooled features of the bundled classifier; CLIP reads
places, styles and second things, and gives SID's SA and NSD. Formulas: `editing.metrics.subject`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax
from subjects import PROMPTS, Prompt, References

from editing.generate.phrases import with_article
from editing.metrics.masks import masked
from editing.metrics.subject import disentanglement, likeness, text_alignment
from editing.personalize.samples import grid
from editing.pipelines.sampling import Settings, draw
from visdiff.miniature.evaluate import Recognizer
from visdiff.miniature.world import PLACES, STYLES, SUBJECTS, an

SAMPLING = Settings(steps=10, scheduler="DPMSolverMultistep")
"""Of class images, samples and measurements."""


@dataclass(frozen=True)
class Measured:
    """The measurements of one state of a model; see the README for their definitions.

    Attributes:
        likeness: Of "a olis dog" with held-out renderings, by the classifier's features.
        clip_likeness: The same by CLIP.
        drift: PRES: of "a dog" with the held-out renderings, by the classifier's features.
        clip_drift: The same by CLIP.
        ta: TA: mean CLIP cosine of the prompts' images with the prompts, without identifier.
        alignment: Mean probability that CLIP gives the place or style that was asked for, among all
            places or styles.
        place: Share of images in which CLIP sees the place that was asked for.
        style: The same of styles.
        second: The same of second things.
        sa: SA of the prompts' images.
        nsd: NSD of the prompts' images.
    """

    likeness: float
    clip_likeness: float
    drift: float
    clip_drift: float
    ta: float
    alignment: float
    place: float
    style: float
    second: float
    sa: float
    nsd: float


@dataclass(frozen=True, eq=False)
class Recognised:
    """How CLIP reads what the prompts of n images ask for.

    Attributes:
        asked: (n,) probability of what was asked for, among all values of the attribute.
        share: Share of images in which it is the most probable one.
    """

    asked: np.ndarray
    share: float


class Measure:
    """Draws images of one subject's questions and measures them.

    Args:
        pipe: The pipeline; it is measured in the state that it is in.
        shown: The references that were taught.
        truth: (m, 64, 64, 3) uint8, held-out renderings of the subject.
        recognizer: CLIP and the classifier.
    """

    def __init__(
        self, pipe: Any, shown: References, truth: np.ndarray, recognizer: Recognizer
    ) -> None:
        self._pipe, self._known, self._recognizer = pipe, shown.known, recognizer
        self._truth = {"dino": recognizer.features(truth), "clip": recognizer.embed(truth)}
        images = [Image.fromarray(x) for x in shown.images]
        inside = [Image.fromarray(np.where(m, 255, 0).astype(np.uint8)) for m in shown.masks]
        outside = [Image.fromarray(np.where(m, 0, 255).astype(np.uint8)) for m in shown.masks]
        self._inside = self._embedded(images, inside)
        self._outside = self._embedded(images, outside)
        self.ceiling = {
            "likeness": float(
                likeness(recognizer.features(shown.images), self._truth["dino"]).mean()
            ),
            "clip_likeness": float(
                likeness(recognizer.embed(shown.images), self._truth["clip"]).mean()
            ),
        }

    def _embedded(self, images: Sequence[Image.Image], masks: Sequence[Image.Image]) -> np.ndarray:
        kept = [np.asarray(masked(i, m)) for i, m in zip(images, masks, strict=True)]
        return self._recognizer.embed(np.stack(kept))

    def __call__(self, phrase: str, samples: int = 8, sheet: Path | None = None) -> Measured:
        """Measures the pipeline as it is.

        Args:
            phrase: How a prompt names the subject, "a olis dog"; "a dog" for the untaught model.
            samples: Images of the phrase and of the noun; each prompt gets an eighth, at least one.
            sheet: Where a sheet of the images is written; None for nowhere.
        """
        noun = with_article(self._known.noun)
        own = self._drawn([phrase] * samples, first=0)
        plain = self._drawn([noun] * samples, first=0) if phrase != noun else own
        per_prompt = max(1, samples // 8)
        asked = [p for p in PROMPTS for _ in range(per_prompt)]
        images = self._drawn([p.text.format(phrase) for p in asked], first=100)
        if sheet is not None:
            sheet.parent.mkdir(parents=True, exist_ok=True)
            rows = np.concatenate([own[:8], plain[:8], images[:: 2 * per_prompt]])
            grid(rows, [phrase, noun, "prompts"]).save(sheet)
        features = self._recognizer.embed(images)
        texts = self._recognizer.embed_texts([p.text.format(noun) for p in asked])
        place = self._probabilities(features, asked, noun, "place", tuple(PLACES))
        style = self._probabilities(features, asked, noun, "style", STYLES)
        second = self._probabilities(features, asked, noun, "second", SUBJECTS)
        return Measured(
            likeness=self._likeness(own, "dino"),
            clip_likeness=self._likeness(own, "clip"),
            drift=self._likeness(plain, "dino"),
            clip_drift=self._likeness(plain, "clip"),
            ta=float(text_alignment(features, texts).mean()),
            alignment=float(np.concatenate([place.asked, style.asked]).mean()),
            place=place.share,
            style=style.share,
            second=second.share,
            sa=float(likeness(features, self._inside).mean()),
            nsd=float(disentanglement(features, self._outside).mean()),
        )

    def _likeness(self, images: np.ndarray, by: str) -> float:
        encode: Callable[[np.ndarray], np.ndarray] = (
            self._recognizer.embed if by == "clip" else self._recognizer.features
        )
        return float(likeness(encode(images), self._truth[by]).mean())

    def _probabilities(
        self,
        features: np.ndarray,
        asked: Sequence[Prompt],
        noun: str,
        attribute: str,
        values: Sequence[str],
    ) -> Recognised:
        """Returns how CLIP reads an attribute in the images whose prompts ask for it."""
        rows = [i for i, p in enumerate(asked) if getattr(p, attribute)]
        wanted = [getattr(asked[i], attribute) for i in rows]
        texts = [
            asked[i].text.format(noun).replace(_words(attribute, w), _words(attribute, v))
            for i, w in zip(rows, wanted, strict=True)
            for v in values
        ]
        options = self._recognizer.embed_texts(texts).reshape(len(rows), len(values), -1)
        scale = float(self._recognizer.clip.logit_scale.detach().exp())
        logits = scale * np.einsum("nd,nvd->nv", features[rows], options)
        probabilities = softmax(logits, axis=1)
        truth = np.array([values.index(w) for w in wanted])
        return Recognised(
            probabilities[np.arange(len(rows)), truth],
            float((probabilities.argmax(axis=1) == truth).mean()),
        )

    def _drawn(self, prompts: Sequence[str], first: int) -> np.ndarray:
        seeds = range(first, first + len(prompts))
        return draw(self._pipe, prompts, list(seeds), settings=SAMPLING, batch_size=16)


def _words(attribute: str, value: str) -> str:
    """Returns the words of a prompt for a value of an attribute."""
    if attribute == "place":
        return PLACES[value][0]
    return f"{value} style" if attribute == "style" else an(value)
