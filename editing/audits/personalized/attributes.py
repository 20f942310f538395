"""What captions state of the surroundings of a subject, by the five kinds of bias of SID.

Kim et al. 2024 (arXiv:2403.15330) name what a subject's references may have in common besides the
subject: a background, an object near it, an object tied to it, a style (substance), and a pose. A
caption is read by its prepositions and verbs, without a language model.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["background", "nearby object", "worn object", "style", "pose"]

KINDS: tuple[Kind, ...] = ("background", "nearby object", "worn object", "style", "pose")
"""The kinds of bias, as SID lists them."""

_POSES = frozenset({
    "sitting", "standing", "lying", "laying", "sleeping", "resting", "running", "walking",
    "jumping", "flying", "swimming", "leaning", "crouching", "kneeling", "hanging", "looking",
    "facing", "smiling", "playing", "eating", "climbing", "stretching", "yawning",
})  # fmt: skip
_CARRIED = frozenset({"wearing", "wears", "dressed"})
_WEARABLE = frozenset({
    "hat", "cap", "crown", "helmet", "scarf", "collar", "leash", "harness", "tie", "bow", "bowtie",
    "ribbon", "glasses", "sunglasses", "goggles", "shirt", "t-shirt", "sweater", "jacket", "coat",
    "dress", "costume", "vest", "cape", "boots", "shoes", "socks", "gloves", "necklace", "chain",
    "bandana", "mask", "backpack", "bell", "tag", "uniform", "suit", "robe", "belt", "watch",
    "earring", "earrings", "headphones",
})  # fmt: skip
_OWN_PARTS = frozenset({
    "fur", "hair", "skin", "ears", "ear", "eyes", "eye", "nose", "tail", "paws", "legs", "spots",
    "stripes", "mane", "beak", "feathers", "wings", "horns", "whiskers", "face", "body", "mouth",
    "tongue", "teeth", "head", "handle", "lid", "top", "bottom", "front", "back", "side", "sides",
})  # fmt: skip
_MEDIA = frozenset({
    "drawing", "painting", "sketch", "cartoon", "illustration", "art", "artwork", "sculpture",
    "watercolor", "blueprint", "poster", "mosaic", "engraving", "render", "rendering", "sticker",
})  # fmt: skip
_PHOTOGRAPHS = frozenset({"photo", "photograph", "picture", "image"})
# Longer ones first: "in front of" is not "in".
_PLACED = (
    "in front of", "on top of", "inside of", "on", "in", "at", "under", "against", "over",
    "inside", "behind", "through", "across", "along", "within", "onto", "into",
)  # fmt: skip
_NEARBY = ("next to", "close to", "surrounded by", "beside", "near", "by", "and", "holding", "with")
_DETERMINERS = frozenset({
    "a", "an", "the", "some", "its", "his", "her", "their", "two", "three", "several", "many",
    "another", "of", "very",
})  # fmt: skip
_STYLE = re.compile(
    r"in the style of (?P<of>[\w-]+(?: [\w-]+)?)|(?P<name>[\w-]+(?: [\w-]+)?) style\b"
)
_MEDIUM = re.compile(
    rf"^(?:an? )?(?P<name>(?:[\w-]+ ){{0,2}}(?:{'|'.join(sorted(_MEDIA))}|"
    r"(?:black and white|sepia|vintage|blurry) (?:photo|photograph|picture|image)))\s+of\b"
)
_SPLIT = re.compile(
    rf"(?P<punctuation>[,;:.!?])|\b(?P<word>{'|'.join((*_PLACED, *_NEARBY))}|"
    rf"{'|'.join(sorted(_POSES | _CARRIED))})\b"
)


@dataclass(frozen=True)
class Attribute:
    """One thing that a caption states besides the subject.

    Attributes:
        kind: Kind of bias.
        key: What makes two of them the same: the head noun, the style, or the verb.
        text: The words of the caption, "on the green grass".
    """

    kind: Kind
    key: str
    text: str

    @property
    def is_medium(self) -> bool:
        """Whether a style is a medium ("pencil sketch"), and not the hand of an artist ("noto")."""
        return self.kind == "style" and self.key.split()[-1] in _MEDIA | _PHOTOGRAPHS


def attributes(caption: str, noun: str) -> tuple[Attribute, ...]:
    """Returns what a caption or a prompt states besides the subject, one entry a kind and key.

    Args:
        caption: "a dog sitting on the grass next to a violin, noto style".
        noun: The class noun, which is no attribute.
    """
    text = " ".join(caption.casefold().replace("…", " ").split())
    found: list[Attribute] = []
    medium = _MEDIUM.match(text)
    if medium:
        name = medium["name"].strip()
        found.append(Attribute("style", name.removesuffix(" drawing"), name))
        text = text[medium.end() :]
    for style in _STYLE.finditer(text):
        name = style["name"] or style["of"]
        found.append(Attribute("style", name, f"{name} style"))
    text = _STYLE.sub(",", text)
    pieces = list(_SPLIT.finditer(text))
    subject = (text[: pieces[0].start()] if pieces else text).split()
    # A model may name what is worn in place of the wearer: "a hat on the grass".
    if subject and subject[-1] in _WEARABLE and subject[-1] != noun.casefold().split()[-1]:
        found.append(Attribute("worn object", subject[-1], subject[-1]))
    ends = [p.start() for p in pieces[1:]] + [len(text)] * bool(pieces)
    for piece, end in zip(pieces, ends, strict=True):
        word, phrase = piece["word"], text[piece.start() : end].strip()
        words = [w for w in text[piece.end() : end].split() if w not in _DETERMINERS]
        if word in _POSES:
            found.append(Attribute("pose", word, word))
        elif word is not None and words:
            found += _placed(word, words, phrase, noun)
    return tuple({(a.kind, a.key): a for a in reversed(found)}.values())[::-1]


def common(captions: Sequence[str], noun: str) -> list[Attribute]:
    """Returns the attributes that half of the captions or more state, most frequent first.

    Of two captions or more, two have to state it.

    Args:
        captions: Captions of the references of one subject.
        noun: The class noun.

    Returns:
        One entry per kind and key, in the words of its most frequent text.
    """
    texts: dict[tuple[Kind, str], Counter[str]] = {}
    for caption in captions:
        for attribute in attributes(caption, noun):
            counter = texts.setdefault((attribute.kind, attribute.key), Counter())
            counter[attribute.text] += 1
    least = max(len(captions) / 2, min(2, len(captions)))
    frequent = {k: c for k, c in texts.items() if c.total() >= least}
    order = sorted(frequent, key=lambda k: -frequent[k].total())
    return [Attribute(kind, key, frequent[kind, key].most_common(1)[0][0]) for kind, key in order]


def _placed(word: str, words: Sequence[str], phrase: str, noun: str) -> list[Attribute]:
    """Returns what follows a preposition: a place, a thing nearby, or a thing worn."""
    head = words[-1]
    if head in _OWN_PARTS or " ".join(words).endswith(noun.casefold()):
        return []
    # Models write "a dog next to a crown" of a dog that wears one.
    if word in _CARRIED or head in _WEARABLE:
        return [Attribute("worn object", head, " ".join(words))]
    kind: Kind = "background" if word in _PLACED else "nearby object"
    return [Attribute(kind, head, phrase if kind == "background" else " ".join(words))]
