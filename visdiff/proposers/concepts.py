"""A proposer that selects phrases of a bank by their scores with an image-text model.

It needs no captioner and no language model, and it finds abstract differences ("an animal", "in a
city") that no caption names. A phrase's score of an image is the dot product of their unit vectors,
as with the `clip` ranker. The mean and the variance of the scores of all phrases follow from the
mean and the covariance of the image vectors.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from visdiff.encoders import Encoder
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import ImageModel, Runtime, apply
from visdiff.errors import InputError
from visdiff.files import read_text
from visdiff.hashing import digest_bytes
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.progress import is_hidden
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Direction, Hypothesis

logger = logging.getLogger(__name__)

# A phrase whose scores correlate this much with those of a better phrase is not proposed.
_MAX_CORRELATION = 0.9
_TEXTS_AT_ONCE = 256


class ConceptsProposer(Proposer):
    """A proposer of the phrases whose scores differ most between the sets.

    Phrases are ordered by Welch's t, the difference of the mean scores in standard errors. A phrase
    that fits all images of a set ("a vehicle") therefore precedes one that fits a few of them very
    well ("a fire engine"). Of phrases with highly correlated scores, the best one is proposed.

    Args:
        bank: Text file, UTF-8, one phrase per line; blank lines and lines that begin with "#" are
            skipped. None selects the miniature's own bank for its model, see `world_bank`, and
            otherwise the bundled one, see `concept_bank`.
        max_hypotheses: Maximum number of phrases per direction.
        model: As for `visdiff.encoders.open_clip.OpenClipEncoder`; None for the ranker's encoder.
        pretrained: Likewise.
        min_z: Least t of a phrase. None: the t that, per direction, one phrase of the bank exceeds
            by chance if the sets do not differ.
        encoder: The ranker's encoder, used if `model` is None.
        batch_size: Images per batch.
        workers: Threads that decode images.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        runtime: The run's cache, progress and engine.

    Raises:
        InputError: There is no model, or the bank is empty or cannot be read.
    """

    name = "concepts"
    needs_captions = False

    def __init__(
        self,
        bank: str | None = None,
        max_hypotheses: int = 20,
        model: str | None = None,
        pretrained: str | None = None,
        min_z: float | None = None,
        encoder: Encoder | None = None,
        batch_size: int = 32,
        workers: int = 2,
        device: str = "auto",
        runtime: Runtime | None = None,
    ) -> None:
        if model is None and encoder is None:
            raise InputError(
                "Expected an image-text model for the proposer 'concepts', got no proposer.model "
                'and a ranker without one; set proposer.model to "miniature", or to an '
                'architecture such as "ViT-B-32" with proposer.pretrained.'
            )
        self.encoder: Encoder = (
            OpenClipEncoder(model, pretrained, device) if model is not None else encoder  # type: ignore[assignment]
        )
        self.max_hypotheses = max_hypotheses
        self.batch_size = batch_size
        self.workers = workers
        self.runtime = runtime or Runtime()
        # Kept for later rounds and shuffled runs, also without a cache.
        self._encoded: tuple[list[str], np.ndarray, list[tuple[str, str]]] | None = None
        if bank is not None:
            self.phrases = read_bank(bank)
        elif getattr(self.encoder, "model", None) == "miniature":
            self.phrases = world_bank()
        else:
            self.phrases = concept_bank()
        self.min_z = float(norm.isf(1 / max(2, len(self.phrases)))) if min_z is None else min_z

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder and the bank."""
        return {
            "proposer": self.name,
            "encoder": dict(self.encoder.identity),
            "bank": digest_bytes("\n".join(self.phrases).encode()),
            "phrases": len(self.phrases),
            "version": 2,
            "max_hypotheses": self.max_hypotheses,
            "min_z": self.min_z,
        }

    @property
    def image_model(self) -> ImageModel:
        """The encoder."""
        return self.encoder

    def propose(
        self, evidence: Evidence, *, rng: np.random.Generator | None = None, round: int = 1
    ) -> Proposals:
        """Returns phrases of the bank (see `visdiff.proposers.Proposer`); ``rng`` is not used.

        A phrase that exceeds the encoder's context length is refused. A set without a readable
        image gives a failure.
        """
        images_a, images_b = self._vectors(evidence.images_a), self._vectors(evidence.images_b)
        if not len(images_a) or not len(images_b):
            return Proposals(failures=("a set has no image that can be read",), asked=1)
        if self._encoded is None:
            self._encoded = self._phrase_vectors()
        phrases, vectors, refused = self._encoded
        if not phrases:
            return Proposals(refused=tuple(refused), asked=1)
        t = welch_t(vectors, images_a, images_b)
        both = np.concatenate([images_a, images_b])
        spread = vectors @ np.cov(both, rowvar=False, bias=True).reshape(2 * [both.shape[1]])
        found: list[Hypothesis] = []
        directions: tuple[tuple[Direction, float], ...] = (("A", 1.0), ("B", -1.0))
        for direction, sign in directions:
            # A stable sort keeps ties in the order of the bank.
            order = np.argsort(-sign * t, kind="stable")
            order = order[(sign * t[order] > 0) & (sign * t[order] >= self.min_z)]
            kept = _uncorrelated(order.tolist(), vectors, spread, self.max_hypotheses)
            found += [Hypothesis(phrases[i], direction, self.name, round) for i in kept]
        return Proposals(tuple(found), tuple(refused))

    def _vectors(self, images: ImageSet) -> np.ndarray:
        """Returns the vectors of the readable images, (n, d) float64."""
        applied = apply(
            self.encoder,
            images,
            self.runtime,
            batch_size=self.batch_size,
            workers=self.workers,
            desc="embeddings",
        )
        known = [vector for vector in applied.values if vector is not None]
        return np.stack(known).astype(np.float64) if known else np.zeros((0, 0))

    def _phrase_vectors(self) -> tuple[list[str], np.ndarray, list[tuple[str, str]]]:
        """Returns the encoded phrases, their unit vectors, and the refused ones with the reason."""
        cache, identity = self.runtime.cache, dict(self.encoder.identity)
        parts = [{**identity, "text": text} for text in self.phrases]
        found = dict(zip(self.phrases, cache.get_many("text-embedding", parts), strict=True))
        refused: list[tuple[str, str]] = []
        new = [text for text, vector in found.items() if vector is None]
        starts = range(0, len(new), _TEXTS_AT_ONCE)
        hidden = is_hidden(self.runtime.progress and len(starts) > 1)
        for start in tqdm(starts, "phrases", disable=hidden):
            fresh = self._encode(new[start : start + _TEXTS_AT_ONCE], refused)
            pairs = [({**identity, "text": text}, vector) for text, vector in fresh.items()]
            cache.put_many("text-embedding", pairs)
            found |= fresh
        known = {text: vector for text, vector in found.items() if vector is not None}
        vectors = np.stack(list(known.values())).astype(np.float64) if known else np.zeros((0, 0))
        return list(known), vectors, refused

    def _encode(
        self, texts: Sequence[str], refused: list[tuple[str, str]]
    ) -> dict[str, np.ndarray]:
        """Returns text → unit vector, and appends the texts that are too long to ``refused``."""
        try:
            return dict(zip(texts, self.encoder.encode_texts(texts), strict=True))
        except InputError as error:
            if len(texts) > 1:
                return {t: v for text in texts for t, v in self._encode([text], refused).items()}
            logger.warning("Phrase not proposed: %s", error)
            refused.append((texts[0], "too long for the image-text model"))
            return {}


def welch_t(phrases: np.ndarray, images_a: np.ndarray, images_b: np.ndarray) -> np.ndarray:
    """Returns Welch's t of each phrase's scores, positive if they are higher in A.

    Args:
        phrases: (p, d) vectors of the phrases.
        images_a: (n_a, d) vectors of the images of A; a score is a dot product.
        images_b: (n_b, d) vectors of the images of B.

    Returns:
        (p,) t; 0 if the means are equal, and 0 for a set of fewer than two images.
    """
    difference = phrases @ (images_a.mean(axis=0) - images_b.mean(axis=0))
    if min(len(images_a), len(images_b)) < 2:
        return np.zeros(len(phrases))
    variance = np.zeros(len(phrases))
    for images in (images_a, images_b):
        centred = images - images.mean(axis=0)
        covariance = centred.T @ centred / (len(images) - 1)
        variance += np.einsum("pd,pd->p", phrases @ covariance, phrases) / len(images)
    # A variance of almost zero is a rounding error of equal images.
    error = np.sqrt(np.maximum(variance, 1e-12))
    return np.where(np.abs(difference) > 1e-9, difference / error, 0.0)


def _uncorrelated(
    order: Sequence[int], vectors: np.ndarray, spread: np.ndarray, limit: int
) -> list[int]:
    """Returns the first phrases of an order without those that correlate with an earlier one.

    Args:
        order: Indices of phrases, best first.
        vectors: (p, d) vectors of the phrases.
        spread: (p, d) their products with the covariance of the images.
        limit: Maximum number of phrases.
    """
    kept: list[int] = []
    for i in order:
        if len(kept) == limit:
            break
        covariance = spread[i] @ vectors[[*kept, i]].T
        deviations = np.sqrt(np.einsum("pd,pd->p", spread[[*kept, i]], vectors[[*kept, i]]))
        if not (covariance[:-1] > _MAX_CORRELATION * deviations[:-1] * deviations[-1]).any():
            kept.append(i)
    return kept


def read_bank(path: str) -> list[str]:
    """Returns the distinct phrases of a bank.

    Raises:
        InputError: The file cannot be read, or has no phrase.
    """
    what = "a text file with one phrase per line as proposer.bank,"
    phrases = _parse(read_text(Path(path).expanduser(), what))
    if not phrases:
        raise InputError(f"Expected phrases in {path}, got none; write one per line.")
    return phrases


def concept_bank() -> list[str]:
    """Returns the bundled bank: broad phrases, and about 4,000 visual nouns of WordNet.

    The broad phrases (scenes, light, media, colours, people, actions) come first.
    """
    folder = resources.files("visdiff.proposers") / "banks"
    texts = [(folder / name).read_text("utf-8") for name in ("general.txt", "wordnet.txt")]
    return _parse("\n".join(texts))


def world_bank() -> list[str]:
    """Returns all short phrases of the miniature's world: subjects, places, styles, people."""
    subjects = world.SUBJECTS + world.PROFESSIONS
    places, tones = tuple(world.PLACES), world.TONES
    return _distinct(
        [
            text
            for i, subject in enumerate(subjects)
            for gender in (world.GENDERS if subject in world.PROFESSIONS else ("",))
            for text, _ in world.bare_phrases(
                world.Scene(
                    subject=subject,
                    style=world.STYLES[i % len(world.STYLES)],
                    place=places[i % len(places)],
                    art=world.ART_SETS[0],
                    gender=gender,
                    tone=tones[i % len(tones)] if gender else "",
                )
            )
        ]
    )


def _parse(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return _distinct([line for line in lines if line and not line.startswith("#")])


def _distinct(phrases: Sequence[str]) -> list[str]:
    return list({phrase.casefold(): phrase for phrase in reversed(phrases)}.values())[::-1]
