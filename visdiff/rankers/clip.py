"""A ranker using the cosine of CLIP's image and text vectors (Dunlap et al., VisDiff, 2024)."""

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
    """A ranker whose score is the cosine, in [-1, 1], of the image's and hypothesis' CLIP vectors.

    Args:
        model: As for `visdiff.encoders.open_clip.OpenClipEncoder`.
        pretrained: Likewise.
        batch_size: Images per batch.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        template: Text with one ``{}`` for the hypothesis, such as "a photo of {}"; VisDiff uses the
            hypothesis alone.
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
                f"Expected one {{}} for the hypothesis in ranker.template, got {template!r}; "
                'write it as in "a photo of {}".'
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
        """Returns cosines (see `visdiff.rankers.Ranker`); captions are not read.

        The scores of an unreadable image are NaN. So are those of a hypothesis that exceeds the
        encoder's context length, with a warning: one such proposal does not end a run, and
        truncation would change its meaning.

        Raises:
            InputError: The encoder's arguments do not fit together.
            MissingBackendError: The encoder's weights cannot be loaded.
        """
        scores = np.full((len(hypotheses), len(images)), np.nan, np.float32)
        if not hypotheses or not len(images):
            return scores
        image_vectors = self.features(images)
        text_vectors = self._text_vectors([h.text for h in hypotheses])
        known = [row for row, vector in enumerate(text_vectors) if vector is not None]
        if known:
            known_vectors = np.stack([v for v in text_vectors if v is not None])
            scores[known] = cosines(known_vectors, image_vectors)
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
        """Returns the images' unit vectors, (n, d) float32; NaN rows for unreadable images."""
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
        """Returns each text's vector, through the cache; None for one that is too long."""
        cache = self.runtime.cache
        filled = [self.template.replace("{}", text) for text in texts]
        distinct = list(dict.fromkeys(filled))
        parts = [{**self.encoder.identity, "text": text} for text in distinct]
        found = dict(zip(distinct, cache.get_many("text-embedding", parts), strict=True))
        to_encode: list[str] = []
        for text in [text for text, vector in found.items() if vector is None]:
            try:
                self.encoder.check_text(text)
            except InputError as error:
                logger.warning("unscored: %s", error)
            else:
                to_encode.append(text)
        if to_encode:
            vectors = self.encoder.encode_texts(to_encode)
            fresh = dict(zip(to_encode, vectors, strict=True))
            cache.put_many(
                "text-embedding",
                [
                    ({**self.encoder.identity, "text": text}, vector)
                    for text, vector in fresh.items()
                ],
            )
            found.update(fresh)
        return [found[text] for text in filled]


def cosines(text_vectors: np.ndarray, image_vectors: np.ndarray) -> np.ndarray:
    """Returns the dot products of unit vectors.

    Sums are in double precision, so that equal vectors get equal scores. In single precision, the
    summation order of a matrix product, which depends on the position, changes the result.

    Args:
        text_vectors: (h, d) unit vectors.
        image_vectors: (n, d) unit vectors; NaN rows give NaN columns.

    Returns:
        (h, n) float32, in [-1, 1] up to rounding.
    """
    products = text_vectors.astype(np.float64) @ image_vectors.astype(np.float64).T
    return products.astype(np.float32)
