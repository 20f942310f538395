"""Training captions: selectively informative descriptions (SID, Kim et al., arXiv 2403.15330).

A caption that describes everything except the subject lets the identifier learn the subject alone.
The paper's table 1 names four cases by what a caption states:

    case   subject noun   its details   other things   their details
    1      yes            no            no             no              "a [v] dog"
    2      yes            no            yes            no              "a [v] dog on a couch"
    3      yes            no            yes            yes             "a [v] dog on a green couch"
    4      yes            yes           any            any             "a brown [v] dog on a couch"

Case 4 loses the identity: details in words need not be learnt by the identifier. `case_of` sorts a
caption into its case without a language model, from the words around the class noun; `reduced`
makes the poorer cases from a case 3 caption, for ablations.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

from editing.generate.phrases import with_article
from editing.personalize.instructions import INSTRUCTION as INSTRUCTION
from editing.personalize.instructions import STYLE_INSTRUCTION as STYLE_INSTRUCTION
from editing.requests.wording import ARTICLE, subject_phrase
from visdiff.errors import InputError

_DETERMINERS = frozenset({
    "a", "an", "the", "this", "that", "one", "some", "its", "his", "her", "their", "my", "your",
    "our", "two", "three", "several", "many",
})  # fmt: skip
_FUNCTION_WORDS = _DETERMINERS | frozenset({
    "in", "on", "at", "by", "of", "with", "under", "against", "near", "from", "next", "to",
    "beside", "behind", "between", "over", "above", "below", "into", "onto", "through", "across",
    "along", "around", "inside", "outside", "front", "top", "side", "left", "right", "background",
    "foreground", "and", "or", "but", "while", "as", "is", "are", "was", "were", "it", "who",
    "which", "there", "up", "down", "out", "off", "very",
})  # fmt: skip
# Words between which adjectives stand: "a brown and white dog".
_BETWEEN = frozenset({"and", "or", "but", "very"})
_BEFORE = _FUNCTION_WORDS - _BETWEEN
# Words in -ing that are things; the others are what the subject does.
_ING_THINGS = frozenset({
    "awning", "bedding", "building", "ceiling", "clearing", "clothing", "crossing", "drawing",
    "duckling", "dwelling", "earring", "evening", "flooring", "icing", "king", "landing",
    "lighting", "lightning", "lining", "morning", "painting", "parking", "pudding", "railing",
    "ring", "sapling", "seedling", "siding", "spring", "string", "swing", "thing", "wedding",
    "wing",
})  # fmt: skip
_VERBS = frozenset({
    "sits", "stands", "lies", "sleeps", "rests", "walks", "runs", "jumps", "plays", "looks",
    "wears", "holds", "carries", "leans", "eats", "drinks", "swims", "climbs",
})  # fmt: skip
# What a subject has by nature: "with floppy ears" is a detail of the subject, "with a ball" is not.
_OWN_PARTS = frozenset({
    "fur", "hair", "coat", "skin", "ears", "ear", "eyes", "eye", "nose", "snout", "tail", "paws",
    "paw", "legs", "leg", "feet", "spots", "spot", "stripes", "stripe", "markings", "marking",
    "patches", "patch", "mane", "beak", "feathers", "wings", "horns", "whiskers", "face", "body",
    "handle", "handles", "strap", "straps", "lid", "sole", "soles", "laces", "logo", "label",
    "buttons", "wheels", "sleeves", "zip", "pockets", "pattern",
})  # fmt: skip
_PHOTOGRAPH = re.compile(
    r"^\s*(?:an?|the)?\s*(?:photo|photograph|picture|image)\s+of\s+", re.IGNORECASE
)
_PLACEHOLDER = re.compile(r"\[(?:identifier|trigger)\]", re.IGNORECASE)
# Tokens of textual inversion such as "<olis>" are one word, with their brackets.
_WORD = re.compile(r"<[^<>\s]+>|[^\W_][\w'-]*")


class Case(IntEnum):
    """The cases of SID's table 1."""

    NOUN = 1
    OTHERS = 2
    SID = 3
    SUBJECT_DETAILS = 4


@dataclass(frozen=True)
class CaptionCheck:
    """What a caption states.

    Attributes:
        case: Its case.
        subject_details: Words that describe the subject itself; () in the cases 1 to 3.
        others: Other things that are named, each with its modifiers.
    """

    case: Case
    subject_details: tuple[str, ...]
    others: tuple[str, ...]


def case_of(caption: str, noun: str, identifier: str) -> CaptionCheck:
    """Sorts a caption into its case.

    Content words directly before the class noun, and "with" followed by a part of the subject
    ("with floppy ears"), are details of the subject. A run of two or more other content words is a
    thing with details ("green couch"). Verbs are neither.

    Args:
        caption: With or without the identifier.
        noun: The class noun, one word or more.
        identifier: The token that stands for the subject, "olis".

    Raises:
        InputError: The caption does not name the class noun exactly once.
    """
    words = _words(_PHOTOGRAPH.sub("", caption), identifier, rf"{_WORD.pattern}|[,;:.!?]")
    target = _words(noun)
    places = [
        i for i in range(len(words) - len(target) + 1) if words[i : i + len(target)] == target
    ]
    if len(places) != 1:
        raise InputError(
            f"Expected a caption that names the class noun {noun!r} once, got it {len(places)} "
            f"times in {caption!r}; edit the caption."
        )
    start = places[0]
    details = [w for w in _before(words[:start]) if w != identifier.lower()]
    rest = words[start + len(target) :]
    others: list[str] = []
    for run in _runs(rest):
        own = run[-1] in _OWN_PARTS
        (details if own else others).append(" ".join(run))
    if details:
        case = Case.SUBJECT_DETAILS
    elif any(" " in thing for thing in others):
        case = Case.SID
    else:
        case = Case.OTHERS if others else Case.NOUN
    return CaptionCheck(case, tuple(details), tuple(others))


def check_caption(caption: str, noun: str, identifier: str) -> CaptionCheck:
    """Checks a training caption and refuses one that describes the subject.

    Raises:
        InputError: The identifier is missing or not directly before the class noun, the noun is not
            there exactly once, or the caption describes the subject (case 4).
    """
    checked = case_of(caption, noun, identifier)
    joined = " ".join(_words(caption, identifier))
    if f" {identifier.lower()} {' '.join(_words(noun))} " not in f" {joined} ":
        raise InputError(
            f"Expected the identifier directly before the noun ('{identifier} {noun}'), got "
            f"{caption!r}; write it with `insert_identifier` or by hand."
        )
    if checked.case is Case.SUBJECT_DETAILS:
        raise InputError(
            f"Expected a caption that leaves the subject to the identifier, got its details "
            f"({', '.join(checked.subject_details)}) in {caption!r}; remove them: what words "
            "describe, the identifier does not learn."
        )
    return checked


def insert_identifier(caption: str, noun: str, identifier: str) -> str:
    """Returns a caption with the identifier before the class noun's first occurrence.

    "[identifier]" and "[trigger]" in the caption are replaced; an identifier that is there already
    stays. An identifier in angle brackets, "<olis>", differs from the word without them.

    Raises:
        InputError: The caption has neither the noun, nor the placeholder, nor the identifier.
    """
    if _PLACEHOLDER.search(caption):
        return _PLACEHOLDER.sub(lambda _: identifier, caption)
    if has_identifier(caption, identifier):
        return caption
    pattern = re.compile(rf"\b(?:(an?)\s+)?{re.escape(noun)}\b", re.IGNORECASE)
    found = pattern.search(caption)
    if found is None:
        raise InputError(
            f"Expected a caption with the class noun {noun!r} or [identifier], got {caption!r}; "
            "edit the caption."
        )
    # "an owl" becomes "a olis owl", as the subject is named everywhere.
    given = found.group(1) or ""
    article = f"{ARTICLE.capitalize() if given.istitle() else ARTICLE} " if given else ""
    named = caption[found.end() - len(noun) : found.end()]
    return f"{caption[: found.start()]}{article}{identifier} {named}{caption[found.end() :]}"


def has_identifier(caption: str, identifier: str) -> bool:
    """Returns whether the identifier is a word of the caption, in any case of letters."""
    return _pattern_of(identifier).search(caption) is not None


def replace_identifier(text: str, old: str, new: str) -> str:
    """Returns the text with another identifier, wherever the old one is a word of it."""
    return _pattern_of(old).sub(lambda _: new, text)


def reduced(caption: str, noun: str, identifier: str, case: Case) -> str:
    """Returns the case 1, 2 or 3 form of a SID caption, for the paper's ablation.

    Args:
        caption: A caption of case 3 (or poorer).
        noun: The class noun.
        identifier: The identifier.
        case: `Case.NOUN` keeps "a [identifier] [noun]"; `Case.OTHERS` drops the modifiers of other
            things; `Case.SID` is the caption itself.

    Raises:
        InputError: Case 4 is asked for: details of the subject cannot be invented from a caption.
    """
    if case is Case.SUBJECT_DETAILS:
        raise InputError(
            "Expected case 1, 2 or 3, got case 4; a caption with the subject's details has to be "
            "written from the image (style 'plain')."
        )
    if case is Case.NOUN:
        return subject_phrase(identifier, noun)
    if case is Case.SID:
        return caption
    text = caption
    for thing in case_of(caption, noun, identifier).others:
        modifiers, _, head = thing.rpartition(" ")
        if modifiers:
            phrase = rf"\b(an?\s+)?{re.escape(modifiers)}\s+{re.escape(head)}\b"
            bare = with_article(head)
            text = re.sub(phrase, lambda m, n=head, b=bare: b if m[1] else n, text, flags=re.I)
    return text


def _before(words: list[str]) -> list[str]:
    """Content words between the last function word (or the beginning) and the noun."""
    first = 1 + max((i for i, w in enumerate(words) if w in _BEFORE), default=-1)
    return [w for w in words[first:] if w not in _BETWEEN and w[-1].isalnum()]


def _runs(words: list[str]) -> list[list[str]]:
    """Runs of content words: what stands between function words, verbs and punctuation."""
    runs: list[list[str]] = [[]]
    for word in words:
        verb = word in _VERBS or (word.endswith("ing") and word not in _ING_THINGS)
        if word in _FUNCTION_WORDS or verb or not word[-1].isalnum():
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def _words(text: str, identifier: str = "", word: str = _WORD.pattern) -> list[str]:
    """Lower-case words of a text; an identifier such as "V*" is one word, with its signs."""
    own = f"{_pattern_of(identifier.lower()).pattern}|" if identifier else ""
    return re.findall(own + word, text.lower())


def _pattern_of(identifier: str) -> re.Pattern[str]:
    # \b is no boundary before "<": a sign that is no letter needs none.
    return re.compile(rf"(?<![\w<]){re.escape(identifier)}(?![\w>])", re.IGNORECASE)
