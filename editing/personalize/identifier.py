"""Is a text a good identifier: one rare token in every tokenizer, without a meaning of its own?

An identifier of several tokens shares them with other words, and a common one has a meaning that
training has to overcome. DreamBooth (Ruiz et al., CVPR 2023) therefore takes a rare token, He et
al. (arXiv 2311.04315) "olis". The merges of CLIP's byte-pair encoding are ordered by frequency, so
the id of a token is its rank; the pieces of T5 are ordered likewise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from editing.generate import Run, Variant
from editing.generate.prompts import Sample
from editing.pipelines.sampling import Settings
from editing.pipelines.text import neighbours
from visdiff.errors import InputError

# Tokens of the more frequent half of a vocabulary have a meaning in most models.
_COMMON = 0.5
# Training lengthens embeddings: in the miniature, learnt words have a norm of three medians, words
# that it never read one of 0.8 to 1.1.
_LEARNT = 1.5
_WORD_END = "</w>"
_WORD_START = "▁"


@dataclass(frozen=True)
class Encoding:
    """What one tokenizer makes of a text.

    Attributes:
        tokenizer: Name of the tokenizer in the pipeline, "tokenizer_2".
        pieces: The tokens as text, in the tokenizer's notation.
        known: Whether every piece has a token of its own; otherwise the text equals
            any other unknown one.
        rank: Id of the token, from the most frequent; None for several pieces and for a token that
            was added to the model.
        vocabulary: Number of tokens that the tokenizer came with.
        norm: Norm of the token's input embedding, relative to the median of the vocabulary; None
            for several pieces or without a text encoder.
    """

    tokenizer: str
    pieces: tuple[str, ...]
    known: bool
    rank: int | None
    vocabulary: int
    norm: float | None

    @property
    def single(self) -> bool:
        """Whether the text is one token."""
        return len(self.pieces) == 1 and self.known

    @property
    def rarity(self) -> float | None:
        """Share of the vocabulary that is more frequent, in [0, 1]; None without a rank."""
        return None if self.rank is None else self.rank / max(self.vocabulary - 1, 1)


@dataclass(frozen=True)
class IdentifierCheck:
    """What a pipeline knows of an identifier.

    Attributes:
        text: The identifier.
        noun: The class noun, or None.
        encodings: One for each tokenizer.
        noun_encodings: The same of the noun; () without one.
        nearest: Words with the nearest input embeddings, nearest first; () for tokenizers that do
            not mark word ends.
    """

    text: str
    noun: str | None
    encodings: tuple[Encoding, ...]
    noun_encodings: tuple[tuple[str, Encoding], ...]
    nearest: tuple[str, ...]

    @property
    def single(self) -> bool:
        """Whether the identifier is one token in every tokenizer."""
        return all(encoding.single for encoding in self.encodings)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts that show what the untaught model makes of the identifier and the noun."""
        alone = f"a photo of {self.text}"
        if self.noun is None:
            return (alone,)
        return (alone, f"a photo of a {self.text} {self.noun}", f"a photo of a {self.noun}")

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what makes the identifier or the noun a doubtful choice."""
        found: list[str] = []
        split = [e for e in self.encodings if len(e.pieces) > 1]
        if split and self.text.startswith("<"):
            found.append(
                f"The identifier {self.text!r} is no token of the model: textual inversion adds "
                "it, the other methods need a token that exists."
            )
        elif split:
            found.append(
                f"The identifier {self.text!r} is {_pieces(split)}, which other words share: "
                "choose one token."
            )
        unknown = [e.tokenizer for e in self.encodings if not e.known]
        if unknown:
            found.append(
                f"The identifier {self.text!r} has characters without a token in "
                f"{' and '.join(unknown)}: choose plain letters."
            )
        common = [e for e in self.encodings if e.rarity is not None and e.rarity < _COMMON]
        if common:
            ranks = " and ".join(f"{e.rank} of {e.vocabulary} ({e.tokenizer})" for e in common)
            found.append(
                f"The identifier {self.text!r} is a common token (rank {ranks}): the model has a "
                "meaning for it that the subject must replace."
            )
        learnt = [e for e in self.encodings if e.norm is not None and e.norm > _LEARNT]
        if learnt and not common:
            found.append(
                f"The identifier {self.text!r} is rare, but its embedding has {learnt[0].norm:.1f} "
                "times the median norm: the model has learnt a meaning for it."
            )
        for word in dict.fromkeys(word for word, _ in self.noun_encodings):
            split = [e for w, e in self.noun_encodings if w == word and not e.single]
            if split:
                found.append(
                    f"The noun {word!r} is no word of the vocabulary: it is {_pieces(split)}. The "
                    "model may not know it; compare its images, or name a broader class."
                )
        return tuple(found)


def check_identifier(
    pipe: Any, text: str, noun: str | None = None, words: int = 5
) -> IdentifierCheck:
    """Returns what a pipeline knows of an identifier, without generating images.

    Args:
        pipe: A pipeline with at least one tokenizer.
        text: The identifier, without spaces.
        noun: The class noun, checked too when given.
        words: Most nearest words.

    Raises:
        InputError: The text is empty or has spaces, or the pipeline has no tokenizer.
    """
    if not text or text.split() != [text]:
        raise InputError(
            f"Expected an identifier without spaces, got {text!r}; 'olis' is the default."
        )
    encoders = _encoders(pipe)
    split = [] if noun is None else noun.split()
    return IdentifierCheck(
        text,
        noun,
        tuple(_encoding(*named, text) for named in encoders),
        tuple((word, _encoding(*named, word)) for word in split for named in encoders),
        tuple(neighbours(pipe, text, words)),
    )


def rare_identifiers(pipe: Any, count: int, longest: int = 5) -> list[str]:
    """Proposes identifiers: the rarest unused words that are one token in every tokenizer.

    A word counts as unused when its token is in the rarer half of each vocabulary and its embedding
    is no longer than 1.5 medians. Compare their images with `identifier_run`.

    Args:
        pipe: A pipeline with at least one tokenizer.
        count: Most identifiers to return.
        longest: Most letters; long tokens are names and compounds with a meaning.

    Returns:
        Words of 3 to ``longest`` ASCII letters, rarest first by the first tokenizer that marks
        words. Fewer than ``count`` when the common half of the vocabulary is reached.
    """
    encoders = _encoders(pipe)
    _, tokenizer, _ = encoders[0]
    size = int(tokenizer.vocab_size)
    pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
    found: list[str] = []
    for index in range(size - 1, math.ceil(_COMMON * (size - 1)) - 1, -1):
        if len(found) >= count:
            break
        word = _word(str(pieces[index] or ""))
        if word is None or not 3 <= len(word) <= longest:
            continue
        if word.isascii() and word.isalpha() and word.islower():
            encodings = [_encoding(*named, word) for named in encoders]
            if all(
                e.single and (e.rarity or 0) >= _COMMON and (e.norm or 0) <= _LEARNT
                for e in encodings
            ):
                found.append(word)
    return found


def identifier_run(
    pipe: Any,
    check: IdentifierCheck,
    folder: str | Path,
    images: int = 4,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    batch_size: int = 8,
) -> Run:
    """Plans the images that show what the untaught model draws for an identifier.

    Every prompt of `IdentifierCheck.prompts` starts from the same noise, so that its images differ
    by the identifier only. Images that the folder already holds are reused.

    Args:
        pipe: The pipeline.
        check: The identifier.
        folder: Output folder.
        images: Images per prompt, 1 or more.
        seed: Seed of the first image; the others follow.
        settings: Sampling settings.
        batch_size: Images per call of the pipeline.

    Returns:
        The run; its `start` generates the images.

    Raises:
        InputError: As `editing.generate.Run`.
    """
    samples = [
        Sample(prompt, seed + i, columns={"identifier": check.text})
        for prompt in check.prompts
        for i in range(images)
    ]
    return Run(pipe, [Variant()], samples, folder, settings, batch_size)


def _encoders(pipe: Any) -> list[tuple[str, Any, Any]]:
    """Name of each tokenizer, the tokenizer, and norms of its embeddings over their median."""
    found: list[tuple[str, Any, Any]] = []
    for suffix in ("", "_2", "_3"):
        tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if tokenizer is not None:
            norms = None
            if encoder is not None:
                norms = encoder.get_input_embeddings().weight.detach().float().norm(dim=1)
                norms = norms / norms.median().clamp(min=1e-12)
            found.append((f"tokenizer{suffix}", tokenizer, norms))
    if not found:
        raise InputError(
            f"Expected a pipeline with a tokenizer, got {type(pipe).__name__} without one; load "
            "the complete pipeline."
        )
    return found


def _encoding(name: str, tokenizer: Any, norms: Any, text: str) -> Encoding:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    pieces = tuple(map(str, tokenizer.convert_ids_to_tokens(ids)))
    # CLIP's unknown token is its end token, which a byte-level vocabulary never needs.
    known = bool(ids) and tokenizer.unk_token_id not in ids
    size = int(tokenizer.vocab_size)
    norm = None if len(ids) != 1 or norms is None else float(norms[ids[0]])
    rank = ids[0] if known and len(ids) == 1 and ids[0] < size else None
    return Encoding(name, pieces, known, rank, size, norm)


def _word(piece: str) -> str | None:
    """The word of a token that is a whole word; None for a part of one."""
    if piece.endswith(_WORD_END):
        return piece.removesuffix(_WORD_END)
    return piece.removeprefix(_WORD_START) if piece.startswith(_WORD_START) else None


def _pieces(encodings: Sequence[Encoding]) -> str:
    return " and ".join(
        f"{len(e.pieces)} tokens in {e.tokenizer} ({', '.join(e.pieces)})" for e in encodings
    )
