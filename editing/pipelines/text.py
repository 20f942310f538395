"""Text encodings of concepts, and the token positions that represent a concept.

A prompt of a CLIP text encoder consists of a start token, the tokens of its words, an end token and
padding up to a fixed length; each position has a vector. The encoder is causal: the state of a
token depends on the tokens before it, so the end token and the padding depend on the whole prompt.
T5, used by Flux, has no start token, and every state depends on every word. The choice of positions
that represent a concept has the largest influence on an edit; `describe` prints it.
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

# TIME's code also reads a piece "an" at the start of a longer word as the article.
_ARTICLES = {"an</w>": "a</w>", "an": "a</w>", "▁an": "▁a"}


@dataclass(frozen=True)
class Phrase:
    """A concept inside a prompt.

    Attributes:
        template: The prompt, with {} in place of the concept.
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
    """The token positions of the parts of a prompt.

    Attributes:
        ids: Token id of each position, including padding.
        words: Token of each position as text.
        first: Position of the concept's first token; of the end token without a concept.
        last: Position of the concept's last token; of the end token without a concept.
        end: Position of the end token; padding follows.
        start: Number of start tokens: 1 for CLIP, 0 for T5.
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
    """An encoded prompt.

    Attributes:
        phrase: The prompt.
        layout: Its token positions.
        states: Vector of each position, float32 on the CPU, shape (length, d).
        pooled: Pooled vector of SDXL or Flux, float32, shape (p,); None for other models.
    """

    phrase: Phrase
    layout: Layout
    states: Tensor
    pooled: Tensor | None


def lay_out(pipe: Any, phrase: Phrase) -> Layout:
    """Returns the token positions of a prompt and of its concept.

    Raises:
        InputError: No token represents the concept, or the prompt is too long for the encoder.
    """
    layouts = [_lay_out(t, phrase) for t in _denoiser_tokenizers(pipe)]
    first = layouts[0]
    for other in layouts[1:]:
        if (other.first, other.last, other.end) != (first.first, first.last, first.end):
            raise InputError(
                f"Expected tokenizers that split {phrase.text!r} alike, got end tokens at "
                f"{first.end} and {other.end}; remove rare characters from the concept."
            )
    return first


def expanded(pipe: Any, text: str) -> str:
    """Returns a text with all vectors of a new token ("<olis> <olis>_1"), as tokenizers get it."""
    convert = getattr(pipe, "maybe_convert_prompt", None)
    if convert is not None:
        text = convert(text, _denoiser_tokenizers(pipe)[0])
    return " ".join(text.split())


def encode(pipe: Any, phrases: Sequence[Phrase]) -> Iterator[Encoded]:
    """Encodes prompts as the pipeline does for sampling.

    Prompts are encoded one at a time: rounding depends on the size of a batch, and an edit must not
    depend on the other requests.

    Args:
        pipe: A pipeline of Stable Diffusion 1, 2 or XL, or Flux.
        phrases: Prompts to encode.

    Yields:
        The encoded prompts, in order.

    Raises:
        InputError: As `lay_out`, before anything is encoded.
    """
    # The pipeline expands new tokens by itself; a text that is expanded already would be twice.
    layouts = [
        lay_out(pipe, Phrase(expanded(pipe, p.template), expanded(pipe, p.concept)))
        for p in phrases
    ]
    family, device = family_of(pipe), _encoder(pipe).device
    for phrase, layout in zip(phrases, layouts, strict=True):
        with torch.no_grad():
            encoded = family.encoded(pipe, [phrase.text], device)
        states = encoded["prompt_embeds"][0].float().cpu().clone()
        if len(states) != layout.length:
            raise InputError(
                f"Expected {layout.length} text states per prompt, got {len(states)}; use a model "
                "with a supported text encoder."
            )
        pooled = encoded.get("pooled_prompt_embeds")
        yield Encoded(
            phrase, layout, states, None if pooled is None else pooled[0].float().cpu().clone()
        )


def selected(layout: Layout, tokens: Tokens) -> list[int]:
    """Returns the token positions that represent the concept of a prompt."""
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
    """Returns the pairs of each selected source position and its matching target position.

    The last token of the concept matches the last token of the target or, for the target "", the
    end token (not the start token, which all prompts share). The end token matches the end token,
    and the k-th padding token the k-th padding token, or the last one if the target has fewer.
    Other tokens of the concept match tokens of the target counted from the last, or its first if it
    has fewer (``words+eos+pad``). Tokens around the concept match those at the same distance from
    the target (``all``) or, as in TIME, the first of the same word after the match before it, where
    "an" is the same word as "a" (``aligned``).
    """
    match tokens:
        case "aligned":
            matches = _aligned(source, target)
        case "words+eos+pad":
            matches = _shifted(source, target, target.first)
        case _:
            matches = _shifted(source, target, target.start)
    pairs = [*((i, i) for i in range(source.start)), *matches, (source.end, target.end)]
    pairs += [
        (i, min(target.end + i - source.end, target.length - 1))
        for i in range(source.end + 1, source.length)
    ]
    lookup = dict(pairs)
    return [(i, lookup[i]) for i in selected(source, tokens)]


def describe(layout: Layout, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Returns index and token of each position as JSON; padding is one entry with its range."""
    lines: list[dict[str, Any]] = [
        {"index": i, "token": _token_name(layout, i)} for i in positions if i <= layout.end
    ]
    padding = [i for i in positions if i > layout.end]
    if padding:
        lines.append({"index": f"{padding[0]}–{padding[-1]}", "token": "padding"})
    return lines


def neighbours(pipe: Any, concept: str, count: int) -> list[str]:
    """Returns the words with the nearest input embeddings to a concept, nearest first.

    Candidates are all words that are single tokens of the vocabulary; no word list is needed.

    Args:
        pipe: The pipeline.
        concept: A phrase.
        count: Most words to return; none are found if the vocabulary does not mark word ends.
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
        if len(found) >= count:
            break
        if index >= len(words):
            # A row that pads the table.
            continue
        word = str(words[index] or "").removesuffix("</w>")
        is_word = str(words[index]).endswith("</w>")
        if is_word and len(word) > 2 and word.isalpha() and word.isascii() and word not in taken:
            found.append(word)
    return found


def _lay_out(tokenizer: Any, phrase: Phrase) -> Layout:
    length = int(tokenizer.model_max_length)
    before, _, _ = phrase.template.partition("{}")
    before = " ".join(before.split()) + (" " if before.strip() else "")
    # An empty prompt has a start and an end token, or (T5) only an end token.
    start = len(tokenizer("")["input_ids"]) - 1
    ids = list(_ids(tokenizer, phrase.text))
    if len(ids) + start + 1 > length:
        raise InputError(
            f"Expected a prompt of at most {length - start - 1} tokens, got {len(ids)} in "
            f"{phrase.text!r}; shorten it."
        )
    padded = tokenizer(phrase.text, padding="max_length", max_length=length, truncation=True)[
        "input_ids"
    ]
    end = len(ids) + start
    if phrase.concept.strip():
        first = len(_ids(tokenizer, before)) + start
        last = len(_ids(tokenizer, before + " ".join(phrase.concept.split()))) + start - 1
        if last < first or set(padded[first : last + 1]) & set(tokenizer.all_special_ids):
            raise InputError(
                f"Expected a concept that the model's tokenizer has tokens for, got "
                f"{phrase.concept!r}, which no token represents; rephrase it."
            )
    else:
        first = last = end
    words = tuple(map(str, tokenizer.convert_ids_to_tokens(padded)))
    return Layout(tuple(padded), words, first, last, end, start)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _tokenizers(pipe: Any) -> list[Any]:
    found = [getattr(pipe, n, None) for n in ("tokenizer", "tokenizer_2")]
    present = [t for t in found if t is not None]
    if not present:
        raise InputError(
            f"Expected a pipeline with a tokenizer, got {type(pipe).__name__} without one; load "
            "the complete pipeline."
        )
    return present


def _denoiser_tokenizers(pipe: Any) -> list[Any]:
    """Returns the tokenizers of the denoiser's text states; for Flux only the second one, T5's."""
    tokenizers = _tokenizers(pipe)
    return tokenizers[-1:] if is_flux(pipe) else tokenizers


def _encoder(pipe: Any) -> Any:
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipe, name, None) is not None:
            return getattr(pipe, name)
    raise InputError(
        f"Expected a pipeline with a text encoder, got {type(pipe).__name__} without one; load the "
        "complete pipeline."
    )


def _shifted(source: Layout, target: Layout, lowest: int) -> list[tuple[int, int]]:
    # The end token represents a target without a concept.
    highest = target.end if target.last == target.end else target.end - 1
    return [
        (i, min(max(target.last + i - source.last, lowest), max(highest, lowest)))
        for i in range(source.start, source.end)
    ]


def _aligned(source: Layout, target: Layout) -> list[tuple[int, int]]:
    a, b = (_words_with_one_article(layout) for layout in (source, target))
    found = _first_in_order(a, b)
    if found is None:
        found = _in_their_place(a, b)
    return [(i + source.start, min(j + target.start, target.end)) for i, j in enumerate(found)]


def _words_with_one_article(layout: Layout) -> list[str]:
    """Returns the tokens of a prompt's words, with "an" as "a", as TIME's code does."""
    return [_ARTICLES.get(word, word) for word in layout.words[layout.start : layout.end]]


def _first_in_order(a: Sequence[str], b: Sequence[str]) -> list[int] | None:
    """Returns for each word of a its first place in b after that of the word before it.

    None if b does not contain the words of a in their order.
    """
    places: list[int] = []
    for word in a:
        after = places[-1] + 1 if places else 0
        if word not in b[after:]:
            return None
        places.append(b.index(word, after))
    return places


def _in_their_place(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """Returns a place in b for each word of a; a word that b lacks gets the place of another."""
    places: list[int] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for i in range(i1, i2):
            # A word without counterpart matches the last word in its place, or the next one.
            places.append(j1 + i - i1 if tag == "equal" else max(j2 - (i2 - i), j1))
    return places


def _token_name(layout: Layout, position: int) -> str:
    if position < layout.start:
        return "start"
    return "end" if position == layout.end else layout.words[position]
