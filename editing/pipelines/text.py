"""Concept → the vectors that the denoiser reads for it, and which tokens those are.

A prompt of a CLIP text encoder is a start token, the tokens of its words, an end token and padding
up to a fixed length; each position has a vector. The state of a token holds what stands before it,
so the end token and the padding hold all of the prompt. T5, whose states Flux reads, has no start
token, and every state holds something of every word. Which positions stand for a concept is the
choice that most changes what an edit does; `describe` shows it.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from editing.linear import Tensor
from editing.pipelines.family import family_of, is_flux
from editing.settings import Tokens
from visdiff.errors import InputError


@dataclass(frozen=True)
class Phrase:
    """A concept inside a prompt.

    Attributes:
        template: The prompt, with {} where the concept stands.
        concept: The concept; "" for none.
    """

    template: str
    concept: str

    @property
    def text(self) -> str:
        """The prompt."""
        return " ".join(self.template.replace("{}", self.concept).split())


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the parts of a prompt stand among its positions.

    Attributes:
        ids: Token of each position, padding included.
        words: How the tokenizer writes each token.
        first: Position of the concept's first token; the end token's without a concept.
        last: Position of its last token; the end token's without a concept.
        end: Position of the end token; padding follows.
        start: How many start tokens come first: 1 for CLIP, 0 for T5.
    """

    ids: tuple[int, ...]
    words: tuple[str, ...]
    first: int
    last: int
    end: int
    start: int = 1

    @property
    def length(self) -> int:
        """Number of positions."""
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as the denoiser reads it.

    Attributes:
        phrase: The prompt.
        layout: Its positions.
        states: The vector of each position, float32 on the CPU, shape (length, d).
        pooled: SDXL's or Flux's pooled vector, float32, shape (p,); None for other models.
    """

    phrase: Phrase
    layout: Layout
    states: Tensor
    pooled: Tensor | None


def lay_out(pipe: Any, phrase: Phrase) -> Layout:
    """Finds the tokens of a prompt and of the concept in it.

    Raises:
        InputError: No token represents the concept, or the prompt is longer than the encoder reads.
    """
    layouts = [_lay_out(t, phrase) for t in _read(pipe)]
    first = layouts[0]
    for other in layouts[1:]:
        if (other.first, other.last, other.end) != (first.first, first.last, first.end):
            raise InputError(
                f"Expected tokenizers that split {phrase.text!r} alike, got end tokens at "
                f"{first.end} and {other.end}; word the concept without rare characters."
            )
    return first


def encode(pipe: Any, phrases: Sequence[Phrase]) -> Iterator[Encoded]:
    """Encodes prompts as the pipeline itself does before it draws.

    One by one: sums in a batch are rounded as its size says, and an edit must not depend on what
    else was asked for at the same time.

    Args:
        pipe: A pipeline of Stable Diffusion 1, 2 or XL, or Flux.
        phrases: What to encode.

    Yields:
        One result a phrase, in order.

    Raises:
        InputError: As `lay_out`, before anything is encoded.
    """
    layouts = [lay_out(pipe, phrase) for phrase in phrases]
    family, device = family_of(pipe), _encoder(pipe).device
    for phrase, layout in zip(phrases, layouts, strict=True):
        with torch.no_grad():
            found = family.encoded(pipe, phrase.text, device)
        states = found["prompt_embeds"][0].float().cpu().clone()
        if len(states) != layout.length:
            raise InputError(
                f"Expected {layout.length} text states a prompt, got {len(states)}; this text "
                "encoder is of no family that concept edits know."
            )
        pooled = found.get("pooled_prompt_embeds")
        yield Encoded(
            phrase, layout, states, None if pooled is None else pooled[0].float().cpu().clone()
        )


def selected(layout: Layout, tokens: Tokens) -> list[int]:
    """Returns the positions that stand for a prompt's concept."""
    match tokens:
        case "last":
            return [layout.last]
        case "last+eos+pad":
            return list(dict.fromkeys([layout.last, *range(layout.end, layout.length)]))
        case "words+eos+pad":
            words = range(layout.first, layout.last + 1)
            return list(dict.fromkeys([*words, *range(layout.end, layout.length)]))
        case "all" | "aligned":
            return list(range(layout.length))


def matched(source: Layout, target: Layout, tokens: Tokens) -> list[tuple[int, int]]:
    """Returns, for each selected position of a prompt, the target's position it takes after.

    The concept's last token meets the target's last token, or, where the target is "", the
    prompt's end token: its own, not the start token that it shares with every prompt. The end
    meets the end and the k-th padding the k-th padding, the last one when there are fewer. Other
    words of the concept meet the target's, counted from the last, or its first where it has fewer
    (``words+eos+pad``). Words around the concept keep their distance from it (``all``) or meet the
    same word (``aligned``).
    """
    match tokens:
        case "aligned":
            meets = _aligned(source, target)
        case "words+eos+pad":
            meets = _shifted(source, target, target.first)
        case _:
            meets = _shifted(source, target, target.start)
    pairs = [*((i, i) for i in range(source.start)), *meets, (source.end, target.end)]
    pairs += [
        (i, min(target.end + i - source.end, target.length - 1))
        for i in range(source.end + 1, source.length)
    ]
    lookup = dict(pairs)
    return [(i, lookup[i]) for i in selected(source, tokens)]


def describe(layout: Layout, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Returns index and token of positions, as JSON; the padding as one line with its range."""
    lines: list[dict[str, Any]] = [
        {"index": i, "token": _named(layout, i)} for i in positions if i <= layout.end
    ]
    padding = [i for i in positions if i > layout.end]
    if padding:
        lines.append({"index": f"{padding[0]}–{padding[-1]}", "token": "padding"})
    return lines


def neighbours(pipe: Any, concept: str, count: int) -> list[str]:
    """Returns words whose input embeddings are nearest to a concept's, nearest first.

    Any word that is one token of the vocabulary may come up, so that no word list is needed.

    Args:
        pipe: The pipeline.
        concept: A phrase.
        count: Most words to return; fewer when the vocabulary marks no ends of words.
    """
    tokenizer = _tokenizers(pipe)[0]
    layout = _lay_out(tokenizer, Phrase("{}", concept))
    own = layout.ids[layout.first : layout.last + 1]
    table = _encoder(pipe).get_input_embeddings().weight.detach().float().cpu()
    near = torch.nn.functional.cosine_similarity(table[list(own)].mean(0)[None], table)
    words = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), table.shape[0]))))
    taken = set(concept.casefold().split())
    found: list[str] = []
    for index in near.argsort(descending=True).tolist():
        if len(found) >= count or index >= len(words):
            break
        word = str(words[index] or "").removesuffix("</w>")
        whole = str(words[index]).endswith("</w>")
        if whole and len(word) > 2 and word.isalpha() and word.isascii() and word not in taken:
            found.append(word)
    return found


def _lay_out(tokenizer: Any, phrase: Phrase) -> Layout:
    length = int(tokenizer.model_max_length)
    before, _, _ = phrase.template.partition("{}")
    before = " ".join(before.split()) + (" " if before.strip() else "")
    # What an empty prompt has: a start and an end token, or (T5) an end token alone.
    start = len(tokenizer("")["input_ids"]) - 1
    ids = list(_ids(tokenizer, phrase.text))
    if len(ids) + start + 1 > length:
        raise InputError(
            f"Expected a prompt of at most {length - start - 1} tokens, got {len(ids)} in "
            f"{phrase.text!r}; the text encoder reads no more."
        )
    whole = tokenizer(phrase.text, padding="max_length", max_length=length, truncation=True)[
        "input_ids"
    ]
    end = len(ids) + start
    if phrase.concept.strip():
        first = len(_ids(tokenizer, before)) + start
        last = len(_ids(tokenizer, before + " ".join(phrase.concept.split()))) + start - 1
        if last < first or set(whole[first : last + 1]) & set(tokenizer.all_special_ids):
            raise InputError(
                f"Expected a concept that the model's tokenizer has tokens for, got "
                f"{phrase.concept!r}, which no token represents; word it otherwise."
            )
    else:
        first = last = end
    words = tuple(map(str, tokenizer.convert_ids_to_tokens(whole)))
    return Layout(tuple(whole), words, first, last, end, start)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _tokenizers(pipe: Any) -> list[Any]:
    found = [getattr(pipe, n, None) for n in ("tokenizer", "tokenizer_2")]
    present = [t for t in found if t is not None]
    if not present:
        raise InputError(
            f"Expected a pipeline with a tokenizer, got {type(pipe).__name__} without one."
        )
    return present


def _read(pipe: Any) -> list[Any]:
    """The tokenizers whose positions the denoiser reads; Flux reads T5's, the second's, alone."""
    found = _tokenizers(pipe)
    return found[-1:] if is_flux(pipe) else found


def _encoder(pipe: Any) -> Any:
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipe, name, None) is not None:
            return getattr(pipe, name)
    raise InputError(
        f"Expected a pipeline with a text encoder, got {type(pipe).__name__} without one."
    )


def _shifted(source: Layout, target: Layout, lowest: int) -> list[tuple[int, int]]:
    # Without a concept of its own, a target's end token stands for it.
    highest = target.end if target.last == target.end else target.end - 1
    return [
        (i, min(max(target.last + i - source.last, lowest), max(highest, lowest)))
        for i in range(source.start, source.end)
    ]


def _aligned(source: Layout, target: Layout) -> list[tuple[int, int]]:
    a, b = source.ids[source.start : source.end], target.ids[target.start : target.end]
    pairs = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for i in range(i1, i2):
            # Words without counterpart take after the last of what stands in their place, or after
            # what follows.
            j = j1 + i - i1 if tag == "equal" else max(j2 - (i2 - i), j1)
            pairs.append((i + source.start, min(j + target.start, target.end)))
    return pairs


def _named(layout: Layout, position: int) -> str:
    if position < layout.start:
        return "start"
    return "end" if position == layout.end else layout.words[position]
