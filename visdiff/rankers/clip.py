"""Rank by the cosine of CLIP's image and text vectors (Dunlap et al., VisDiff, 2024)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import ImageModel, Runtime, apply
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.rankers import Ranker
from visdiff.results import Hypothesis

logger = logging.getLogger(__name__)


class ClipRanker(Ranker):
    """Scores a hypothesis on an image by the cosine, in [-1, 1], of their unit vectors.

    Args:
        model: As for `visdiff.encoders.open_clip.OpenClipEncoder`.
        pretrained: Likewise.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        template: Text with one ``{}`` in which the hypothesis stands, such as "a photo of {}";
            VisDiff ranks the bare hypothesis.
        workers: Threads that decode images.
        runtime: The run's cache, progress and engine.

    Raises:
        InputError: The template has no ``{}``.
    """

    name = "clip"
    needs_captions = False
    has_features = True

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = "laion2b_s34b_b79k",
        batch_size: int = 32,
        device: str = "auto",
        template: str = "{}",
        workers: int = 2,
        runtime: Runtime | None = None,
    ) -> None:
        if template.count("{}") != 1:
            raise InputError(
                f"expected a ranker template with one {{}} for the sentence, got {template!r}"
            )
        self._encoder = OpenClipEncoder(model, pretrained, device)
        self.batch_size = batch_size
        self.template = template
        self.workers = workers
        self.runtime = runtime or Runtime()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder's identity and the template."""
        return {
            "ranker": self.name,
            "encoder": dict(self.encoder.identity),
            "template": self.template,
        }

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        """Return cosines (see `visdiff.rankers.Ranker`); captions are not read.

        An image that cannot be read is NaN in every row. A hypothesis with more tokens than the
        encoder reads is NaN in every column, with a warning in the log: one such proposal must not
        end a run, and its beginning is another hypothesis.

        Raises:
            InputError: The encoder's arguments do not fit together.
            MissingBackendError: The encoder's weights cannot be loaded.
        """
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        if not hypotheses or not len(images):
            return scores
        pictures = self.features(images)
        texts = self._text_vectors([h.text for h in hypotheses])
        known = [row for row, vector in enumerate(texts) if vector is not None]
        if known:
            scores[known] = cosines(np.stack([v for v in texts if v is not None]), pictures)
        return scores

    @property
    def encoder(self) -> OpenClipEncoder:
        """The encoder of images and texts."""
        return self._encoder

    @property
    def image_model(self) -> ImageModel:
        """The encoder."""
        return self.encoder

    def features(self, images: ImageSet) -> np.ndarray:
        """Return the images' unit vectors, float32, (n, d); NaN rows for unreadable images."""
        applied = apply(
            self.encoder,
            images,
            self.runtime,
            batch_size=self.batch_size,
            workers=self.workers,
            desc="embeddings",
        )
        for index, reason in applied.failures.items():
            logger.debug("%s is unscored: %s", images.ids[index], reason)
        width = next((len(v) for v in applied.values if v is not None), None)
        if width is None:
            width = self.encoder.encode_texts([]).shape[1]
        rows = np.full((len(images), width), np.nan, np.float32)
        for index, vector in enumerate(applied.values):
            if vector is not None:
                rows[index] = vector
        return rows

    def _text_vectors(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Return each text's vector, through the cache; None for one that is too long."""
        cache = self.runtime.cache
        filled = [self.template.replace("{}", text) for text in texts]
        distinct = list(dict.fromkeys(filled))
        parts = [{**self.encoder.identity, "text": text} for text in distinct]
        found = dict(zip(distinct, cache.get_many("text-embedding", parts), strict=True))
        fitting: list[str] = []
        for text in [text for text, vector in found.items() if vector is None]:
            try:
                self.encoder.check_text(text)
            except InputError as error:
                logger.warning("unscored: %s", error)
            else:
                fitting.append(text)
        if fitting:
            vectors = self.encoder.encode_texts(fitting)
            fresh = dict(zip(fitting, vectors, strict=True))
            cache.put_many(
                "text-embedding",
                [
                    ({**self.encoder.identity, "text": text}, vector)
                    for text, vector in fresh.items()
                ],
            )
            found.update(fresh)
        return [found[text] for text in filled]


def cosines(sentences: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return the products of unit vectors.

    Summed in double precision, so that equal vectors get equal scores wherever they stand: the
    order of a matrix product's sums depends on the place in the matrix, and single precision shows
    it.

    Args:
        sentences: (h, d) floats.
        pictures: (n, d) floats; NaN rows give NaN columns.

    Returns:
        (h, n) float32, in [-1, 1] but for rounding.
    """
    return (sentences.astype(np.float64) @ pictures.astype(np.float64).T).astype(np.float32)
