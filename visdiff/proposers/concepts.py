"""A proposer that selects phrases of a bank by the difference of the sets' mean image features.

It needs no captioner and no language model. For unit vectors, the dot product of a phrase and the
difference of the means is the difference of the phrase's mean scores with the `clip` ranker. The
proposer therefore selects the phrases for which that ranker's mean scores differ most.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.encoders import Encoder
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import ImageModel, Runtime, apply
from visdiff.errors import InputError
from visdiff.files import read_text
from visdiff.hashing import digest_bytes
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Direction, Hypothesis

logger = logging.getLogger(__name__)


class ConceptsProposer(Proposer):
    """A proposer of phrases, ranked by their dot product with the difference of mean features.

    Args:
        bank: Text file, UTF-8, one phrase per line; blank lines and lines that begin with "#" are
            skipped. None selects the miniature's own bank, see `world_bank`.
        max_hypotheses: Maximum number of phrases per direction.
        model: As for `visdiff.encoders.open_clip.OpenClipEncoder`; None for the ranker's encoder.
        pretrained: Likewise.
        encoder: The ranker's encoder, used if `model` is None.
        batch_size: Images per batch.
        workers: Threads that decode images.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        runtime: The run's cache, progress and engine.

    Raises:
        InputError: There is no model or no bank, or the bank is empty.
    """

    name = "concepts"
    needs_captions = False

    def __init__(
        self,
        bank: str | None = None,
        max_hypotheses: int = 20,
        model: str | None = None,
        pretrained: str | None = None,
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
        if bank is not None:
            self.phrases = read_bank(bank)
        elif getattr(self.encoder, "model", None) == "miniature":
            self.phrases = world_bank()
        else:
            raise InputError(
                "Expected proposer.bank, a text file with one phrase per line, for the proposer "
                "'concepts', got none; write one, as only the miniature has its own bank."
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder and the bank."""
        return {
            "proposer": self.name,
            "encoder": dict(self.encoder.identity),
            "bank": digest_bytes("\n".join(self.phrases).encode()),
            "phrases": len(self.phrases),
            "max_hypotheses": self.max_hypotheses,
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
        means = [self._mean(images) for images in (evidence.images_a, evidence.images_b)]
        if means[0] is None or means[1] is None:
            return Proposals(failures=("a set has no image that can be read",))
        phrases, vectors, refused = self._phrase_vectors()
        if not phrases:
            return Proposals(refused=tuple(refused))
        products = vectors @ (means[0] - means[1])
        found: list[Hypothesis] = []
        directions: tuple[tuple[Direction, float], ...] = (("A", 1.0), ("B", -1.0))
        for direction, sign in directions:
            # A stable sort keeps ties in the order of the bank.
            order = np.argsort(-sign * products, kind="stable")[: self.max_hypotheses]
            found += [
                Hypothesis(phrases[i], direction, self.name, round)
                for i in order.tolist()
                if sign * products[i] > 0
            ]
        return Proposals(tuple(found), tuple(refused))

    def _mean(self, images: ImageSet) -> np.ndarray | None:
        applied = apply(
            self.encoder,
            images,
            self.runtime,
            batch_size=self.batch_size,
            workers=self.workers,
            desc="embeddings",
        )
        known = [vector for vector in applied.values if vector is not None]
        return np.mean(np.stack(known).astype(np.float64), axis=0) if known else None

    def _phrase_vectors(self) -> tuple[list[str], np.ndarray, list[tuple[str, str]]]:
        """Returns the encoded phrases, their unit vectors, and the refused ones with the reason."""
        cache, identity = self.runtime.cache, dict(self.encoder.identity)
        parts = [{**identity, "text": text} for text in self.phrases]
        found = dict(zip(self.phrases, cache.get_many("text-embedding", parts), strict=True))
        refused: list[tuple[str, str]] = []
        fresh: dict[str, np.ndarray] = {}
        for text in [text for text, vector in found.items() if vector is None]:
            try:
                fresh[text] = self.encoder.encode_texts([text])[0]
            except InputError as error:
                logger.warning("Phrase not proposed: %s", error)
                refused.append((text, "too long for the image-text model"))
        cache.put_many("text-embedding", [({**identity, "text": t}, v) for t, v in fresh.items()])
        found |= fresh
        known = {text: vector for text, vector in found.items() if vector is not None}
        vectors = np.stack(list(known.values())).astype(np.float64) if known else np.zeros((0, 0))
        return list(known), vectors, refused


def read_bank(path: str) -> list[str]:
    """Returns the distinct phrases of a bank.

    Raises:
        InputError: The file cannot be read, or has no phrase.
    """
    what = "a text file with one phrase per line as proposer.bank,"
    lines = read_text(Path(path).expanduser(), what).splitlines()
    phrases = [" ".join(line.split()) for line in lines]
    distinct = _distinct([p for p in phrases if p and not p.startswith("#")])
    if not distinct:
        raise InputError(f"Expected phrases in {path}, got none; write one per line.")
    return distinct


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


def _distinct(phrases: Sequence[str]) -> list[str]:
    return list({phrase.casefold(): phrase for phrase in reversed(phrases)}.values())[::-1]
