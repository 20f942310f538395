"""Structured regularisation prompts: what a class looks like when it is not the subject.

He et al. (arXiv 2311.04315) draw regularisation images from many prompts of one grammar instead of
the single "a dog" of DreamBooth:

    a [style] of a [shape] [colour] [texture] [noun] [background]      things
    a [style] of a [body] [skin] [emotion] [noun] [motion]             animals
    a [style] of a [build] [skin] [emotion] [noun] [motion]            people

A fifth of the prompts describes the training images' own backgrounds ("against"), three fifths are
photographs and a fifth is in other styles. The words are ours (``pools/*.toml``); their numbers are
the paper's. The paper's sets include the evaluation prompts. Ours leave them out by default.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import cycle, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import tomli_w

from editing.generate.phrases import with_article
from visdiff.errors import InputError
from visdiff.files import explained, write_whole

Kind = Literal["thing", "living", "person", "miniature"]
"""What the class noun names; it decides the slots of the grammar. "miniature": anything that the
bundled model knows, in its words."""

Part = Literal["against", "photo", "styled"]
"""Which part of the set a prompt belongs to."""

SHARES: Mapping[Part, float] = MappingProxyType({"against": 0.2, "photo": 0.6, "styled": 0.2})
"""Share of each part in a regularisation set (He et al., section 3)."""

# Keys of a file of pools that are no pools.
_PROVENANCE = ("kind", "slots", "excluded", "noun", "model", "prompts")
_FUNCTION_WORDS = frozenset({
    "a", "an", "the", "of", "on", "in", "at", "by", "to", "with", "from", "around", "its", "top",
    "background", "and", "front",
})  # fmt: skip


@dataclass(frozen=True)
class Pools:
    """The words of one kind of class.

    Attributes:
        kind: Which grammar they fill.
        adjectives: Slot → words, in the order in which the slots stand before the noun.
        settings: Backgrounds of a thing, motions of a living being.
        photographic: Wordings of a photograph.
        styles: Other styles.
        excluded: Words of the pools that were left out because an evaluation prompt asks for them.
    """

    kind: Kind
    adjectives: Mapping[str, tuple[str, ...]]
    settings: tuple[str, ...]
    photographic: tuple[str, ...]
    styles: tuple[str, ...]
    excluded: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: Kind, evaluation: Sequence[str] | None = None) -> "Pools":
        """Returns the bundled pools of a kind.

        Args:
            kind: "thing", "living" (animals), "person", or "miniature".
            evaluation: Phrases of evaluation prompts ("in the snow", "red"). A pool entry with all
                content words of one of them is left out. DreamBench's by default; () excludes none.

        Raises:
            InputError: The kind is unknown.
        """
        if kind not in get_args(Kind):
            raise InputError(
                f"Expected the kind of a class, got {kind!r}; choose from "
                f"{', '.join(get_args(Kind))}."
            )
        words, styles = _table(kind), _table("styles")
        if "settings" in words:
            settings = tuple(words["settings"])
        elif kind == "thing":
            places = _table("places")
            settings = _products(places["places"], places["conditions"])
        else:
            motions = _table("motions")
            settings = _products(words.get("actions", motions["actions"]), motions["places"])
        pools = cls(
            kind,
            MappingProxyType({slot: tuple(words[slot]) for slot in words["slots"]}),
            settings,
            tuple(words.get("photographic", styles["photographic"])),
            tuple(words.get("styled", styles["styled"])),
        )
        return pools.without(evaluation_phrases(kind) if evaluation is None else evaluation)

    @classmethod
    def read(cls, path: Path, evaluation: Sequence[str] | None = None) -> "Pools":
        """Reads pools from a TOML file, by `write` or by hand.

        Args:
            path: The keys ``kind``, one array of words for each slot and ``settings``; optionally
                ``slots`` (names of the arrays, in the order of the grammar), ``photographic`` and
                ``styles``. Missing ones are the bundled ones.
            evaluation: As for `of`.

        Raises:
            InputError: The file cannot be read, or an array is missing, unknown or empty.
        """
        with explained("a TOML file of pools", path, "check the path"):
            data = path.read_bytes()
        try:
            table = tomllib.loads(data.decode("utf-8-sig"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(
                f"Expected TOML in {path}, got a syntax error: {error}; correct the file."
            ) from error
        bundled = cls.of(table.get("kind", ""), ())
        arrays: dict[str, Any] = {
            "slots": list(bundled.adjectives),
            "photographic": list(bundled.photographic),
            "styles": list(bundled.styles),
            "excluded": [],
            **table,
        }
        slots = _strings(arrays, "slots", path)
        unknown = set(table) - {*slots, "settings", "photographic", "styles", *_PROVENANCE}
        if unknown:
            raise InputError(
                f"Expected the arrays {', '.join(slots)}, settings, photographic and styles in "
                f"{path}, got {sorted(unknown)[0]!r}; rename it or add it to slots."
            )
        pools = cls(
            bundled.kind,
            MappingProxyType({slot: _strings(arrays, slot, path) for slot in slots}),
            _strings(arrays, "settings", path),
            _strings(arrays, "photographic", path),
            _strings(arrays, "styles", path),
            _strings(arrays, "excluded", path) if arrays["excluded"] else (),
        )
        return pools.without(evaluation_phrases(pools.kind) if evaluation is None else evaluation)

    def write(self, path: Path, provenance: Mapping[str, str]) -> None:
        """Writes the pools as TOML for `read`.

        Args:
            path: The file.
            provenance: Where the words come from: ``noun``, ``model``, ``prompts``.

        Raises:
            InputError: The file cannot be written.
        """
        table = {
            "kind": self.kind,
            **provenance,
            "slots": list(self.adjectives),
            **{slot: list(words) for slot, words in self.adjectives.items()},
            "settings": list(self.settings),
            "photographic": list(self.photographic),
            "styles": list(self.styles),
            "excluded": list(self.excluded),
        }
        with explained("a file that can be written", path):
            write_whole(path, tomli_w.dumps(table).encode())

    def without(self, phrases: Sequence[str]) -> "Pools":
        """Returns the pools without every entry that has all content words of a phrase."""
        asked = [content for p in phrases if (content := _content(p))]
        dropped: list[str] = []

        def kept(entries: Iterable[str]) -> tuple[str, ...]:
            left = []
            for entry in entries:
                hit = any(content <= _content(entry) for content in asked)
                (dropped if hit else left).append(entry)
            return tuple(left)

        adjectives = {slot: kept(entries) for slot, entries in self.adjectives.items()}
        pools = replace(
            self,
            adjectives=MappingProxyType(adjectives),
            settings=kept(self.settings),
            styles=kept(self.styles),
            excluded=(*self.excluded, *dropped),
        )
        empty = [s for s, e in {**adjectives, "settings": pools.settings}.items() if not e]
        if empty:
            raise InputError(
                f"Expected evaluation prompts that leave words in every pool, got none left for "
                f"{', '.join(empty)}; give more specific prompts to exclude."
            )
        return pools


@dataclass(frozen=True)
class ClassPrompt:
    """One regularisation prompt.

    Attributes:
        noun: The class noun, "dog".
        part: Part of the set.
        style: How the image is made, "photo".
        adjectives: Slot → word, in order.
        setting: What follows the noun, "on a wooden table at sunset".
    """

    noun: str
    part: Part
    style: str
    adjectives: Mapping[str, str]
    setting: str

    @property
    def text(self) -> str:
        """The prompt in words; articles fit the words that follow them."""
        phrase = " ".join([*self.adjectives.values(), self.noun])
        return " ".join(
            part
            for part in (with_article(self.style), "of", with_article(phrase), self.setting)
            if part
        )

    def without(self, slots: Iterable[str]) -> "ClassPrompt":
        """Returns the prompt without the adjectives of some slots."""
        gone = set(slots)
        left = {slot: word for slot, word in self.adjectives.items() if slot not in gone}
        return replace(self, adjectives=MappingProxyType(left))

    def drop_words(self, probability: float, rng: np.random.Generator) -> "ClassPrompt":
        """Returns the prompt with each adjective removed independently.

        The image stays the one that was drawn from the whole prompt. The paper does not state its
        probability; 0.3 keeps all three adjectives in a third of the steps.

        Args:
            probability: Of removing one adjective, in [0, 1].
            rng: Decides.
        """
        removed = rng.random(len(self.adjectives)) < probability
        return self.without(s for s, r in zip(self.adjectives, removed, strict=True) if r)

    def columns(self) -> dict[str, str]:
        """Returns what a manifest records of the prompt: noun, part, style, setting, slots."""
        slots = {f"slot_{slot}": word for slot, word in self.adjectives.items()}
        return {
            "noun": self.noun, "part": self.part, "style": self.style, "setting": self.setting,
            **slots,
        }  # fmt: skip


def class_prompts(
    noun: str,
    pools: Pools,
    count: int,
    rng: np.random.Generator,
    backgrounds: Sequence[str] = (),
    shares: Mapping[Part, float] = SHARES,
) -> list[ClassPrompt]:
    """Writes the prompts of a regularisation set.

    Args:
        noun: The class noun, "dog".
        pools: Words to choose from.
        count: Number of prompts, 1 or more.
        rng: Chooses the words.
        backgrounds: What the training captions say after the noun ("on a rock"); the part
            "against" uses them. Without any, its share goes to the photographs.
        shares: Share of each part; they sum to one.

    Returns:
        ``count`` prompts, in the order against, photo, styled. Those of a part are distinct as long
        as the words suffice, then they are repeated in order: their images differ by seed.

    Raises:
        InputError: The noun is empty, the count is below one, or the shares do not sum to one.
    """
    if not noun.strip():
        raise InputError("Expected a class noun such as 'dog', got an empty text; give one.")
    if count < 1:
        raise InputError(f"Expected at least one regularisation prompt, got {count}; ask for more.")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"Expected shares that sum to one, got {dict(shares)}; change them.")
    if not backgrounds:
        shares = {**shares, "against": 0.0, "photo": shares["photo"] + shares["against"]}
    settings: Mapping[Part, Sequence[str]] = {
        "against": backgrounds, "photo": pools.settings, "styled": pools.settings,
    }  # fmt: skip
    styles: Mapping[Part, Sequence[str]] = {
        "against": pools.photographic, "photo": pools.photographic, "styled": pools.styles,
    }  # fmt: skip
    found: list[ClassPrompt] = []
    # A stream for each part: subjects of one noun share the photographs and the styled images.
    streams = dict(zip(SHARES, rng.spawn(len(SHARES)), strict=True))
    for part, n in _counts(count, shares).items():
        distinct: dict[str, ClassPrompt] = {}
        for _ in range(100 * n):
            if len(distinct) == n:
                break
            draw = streams[part].choice
            adjectives = {s: str(draw(words)) for s, words in pools.adjectives.items()}
            prompt = ClassPrompt(
                noun, part, str(draw(styles[part])), MappingProxyType(adjectives),
                str(draw(settings[part])),
            )  # fmt: skip
            distinct.setdefault(prompt.text, prompt)
        found += islice(cycle(distinct.values()), n)
    return found


def background_of(caption: str, noun: str) -> str:
    """Returns what a training caption says after the class noun; "" when nothing follows it."""
    found = re.search(rf"\b{re.escape(noun)}\b[\s,]*(.*)", caption, re.IGNORECASE | re.DOTALL)
    return found.group(1).strip().rstrip(".") if found else ""


def evaluation_phrases(kind: Kind) -> tuple[str, ...]:
    """Returns what DreamBench's prompts ask for, for a kind of class."""
    if kind == "miniature":
        # Its pools leave out half of the places and styles already.
        return ()
    table = _table("dreambench")
    return (*table["both"], *table["thing" if kind == "thing" else "living"])


def _strings(table: Mapping[str, Any], name: str, path: Path) -> tuple[str, ...]:
    """An array of a file of pools, which has at least one text."""
    words = table.get(name)
    if isinstance(words, list) and words and all(isinstance(w, str) and w.strip() for w in words):
        return tuple(words)
    raise InputError(f"Expected words in the array {name!r} of {path}, got {words!r}; add some.")


def _counts(count: int, shares: Mapping[Part, float]) -> dict[Part, int]:
    """Whole numbers with the given shares and sum; the photographs take the remainder."""
    counts: dict[Part, int] = {part: int(count * share) for part, share in shares.items()}
    counts["photo"] += count - sum(counts.values())
    return counts


def _products(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{a} {b}".strip() for a in first for b in second)


def _content(phrase: str) -> frozenset[str]:
    words = re.findall(r"[a-z0-9]+", phrase.casefold())
    return frozenset(w for w in words if w not in _FUNCTION_WORDS)


@cache
def _table(name: str) -> dict[str, list[str]]:
    file = resources.files("editing.personalize") / "pools" / f"{name}.toml"
    return tomllib.loads(file.read_text("utf-8"))
