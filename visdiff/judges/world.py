"""A deterministic judge for the attributes of the miniature's world.

The rule extracts the facts of a sentence: values of subject (one or two, professions included),
gender, skin tone, style and place, by keywords. Facts in the description of the claimed set that
are missing from that of the other set are *planted*. A claim gets

- **0** if it is false of its set: it states a fact of the other set only, or a different gender,
  tone, style or place than its set has;
- **1** if it states all planted facts, and nothing that is not in the description of its set;
- **0.5** if it states planted facts and more ("a dog on the grass" if only the grass is planted:
  narrower), or only some of them (broader), or if it names no planted fact but a kind that includes
  a planted subject and none of the other set's ("an animal" for dogs against trumpets);
- **0** otherwise, and for every claim about two sets with equal descriptions.

There is no verdict on negated sentences, nor on pairs whose descriptions differ in no attribute of
this world.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from visdiff.judges import Claim, Verdict
from visdiff.miniature import world
from visdiff.words import base_forms, words

Fact = tuple[str, str]
"""An attribute ("subject", "gender", "tone", "style", "place") and one of its values."""

#: Attributes with one value per scene, so that another value is false. Subjects can be two.
_EXCLUSIVE = frozenset({"gender", "tone", "style", "place"})

#: Synonyms of the values' names.
_ALIASES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "place": {
        "white background": ("white",),
        "grass": ("grassy", "lawn"),
        "sand": ("sandy", "beach"),
        "night sky": ("night", "nighttime"),
        "ocean": ("sea",),
        "brick wall": ("brick", "wall"),
        "sunset": (),
        "snow": ("snowy",),
    },
    "style": {
        "pixel art": ("pixel", "pixelated"),
        "pencil sketch": ("pencil", "sketch"),
        "sepia photo": ("sepia",),
    },
    "gender": {"man": ("male",), "woman": ("female",)},
}

_PERSON = ("person", "people", "human")
_KINDS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("animal",): (*world.SUBJECTS_BY_KIND["animal"], "dog", "fish"),
    ("food",): world.SUBJECTS_BY_KIND["food"],
    ("vehicle",): (*world.SUBJECTS_BY_KIND["vehicle"], "delivery truck"),
    ("building",): (*world.SUBJECTS_BY_KIND["building"], "church"),
    ("plant",): world.SUBJECTS_BY_KIND["plant"],
    ("instrument",): (*world.SUBJECTS_BY_KIND["instrument"], "postal horn"),
    _PERSON: world.PROFESSIONS,
}

_NEGATIONS = frozenset({"no", "not", "without", "never", "none", "lack", "lacks", "lacking"})


class WorldJudge:
    """A judge that applies the rule of this module."""

    def __init__(self, **_: Any) -> None:
        """Creates the judge; all settings are ignored."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The rule and its version."""
        return {"judge": "world", "version": 1}

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        """Judges every claim (see `visdiff.judges.Judge.judge`)."""
        return [_verdict(claim) for claim in claims]


@lru_cache(maxsize=4096)
def facts(text: str) -> frozenset[Fact]:
    """Returns the facts that a sentence states; the longest name wins ("medium-light skin")."""
    tokens = _forms(text)
    found, position = set[Fact](), 0
    while position < len(tokens):
        matches = [
            entry
            for form in tokens[position]
            for entry in _lexicon().get(form, ())
            if _matches(tokens[position : position + len(entry[0])], entry[0])
        ]
        # Without a match, one word is skipped.
        phrase, fact = max(matches, key=lambda entry: len(entry[0]), default=((None,), None))
        found |= {fact} if fact else set()
        position += len(phrase)
    return frozenset(found)


def kinds(text: str) -> frozenset[str]:
    """Returns all subjects of the kinds in a sentence, such as all animals for "an animal"."""
    tokens = _forms(text)
    return frozenset(
        subject
        for names, subjects in _KINDS.items()
        for name in names
        if any(base_forms(name) & forms for forms in tokens)
        for subject in subjects
    )


def _verdict(claim: Claim) -> Verdict:
    if words(claim.truth_a) == words(claim.truth_b):
        return Verdict(0.0, "the sets do not differ")
    own, other = facts(claim.own), facts(claim.other)
    if own == other:
        return Verdict(None, "the descriptions of the sets differ in no attribute of the world")
    if any(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in words(claim.text)):
        return Verdict(None, "a negated sentence, which the rule does not support")
    stated, planted = facts(claim.text), own - other
    known = {attribute for attribute, _ in own} & _EXCLUSIVE
    for attribute, value in sorted(stated - own):
        if (attribute, value) in other or attribute in known:
            return Verdict(0.0, f"false of the set: {value}")
    if not stated & planted:
        return _of_kind(claim.text, planted, other)
    if stated - own:
        return Verdict(0.5, f"narrower: also {_list_values(stated - own)}")
    if planted - stated:
        return Verdict(0.5, f"broader: without {_list_values(planted - stated)}")
    return Verdict(1.0, f"names {_list_values(planted)}")


def _of_kind(text: str, planted: frozenset[Fact], other: frozenset[Fact]) -> Verdict:
    named = {("subject", subject) for subject in kinds(text)}
    if named & planted and not named & other:
        return Verdict(0.5, f"broader: a kind of {_list_values(named & planted)}")
    return Verdict(0.0, "names nothing that is planted")


def _list_values(some: frozenset[Fact] | set[Fact]) -> str:
    return ", ".join(sorted(value for _, value in some))


def _forms(text: str) -> list[frozenset[str]]:
    return [base_forms(word) for word in words(text.replace("-", " "))]


def _matches(tokens: Sequence[frozenset[str]], phrase: Sequence[frozenset[str]]) -> bool:
    return len(tokens) == len(phrase) and all(map(frozenset.intersection, tokens, phrase))


@cache
def _lexicon() -> Mapping[str, Sequence[tuple[tuple[frozenset[str], ...], Fact]]]:
    """Returns the names by the forms of their first word, with their facts."""
    names: dict[str, Fact] = {}
    values: Mapping[str, Sequence[str]] = {
        "subject": (*world.SUBJECTS, *world.PROFESSIONS),
        "gender": world.GENDERS,
        "style": world.STYLES,
        "place": tuple(world.PLACES),
    }
    for attribute, all_values in values.items():
        for value in all_values:
            for name in (value, *_ALIASES.get(attribute, {}).get(value, ())):
                names[name] = (attribute, value)
    for tone in world.TONES:
        for noun in ("skin", "skinned", "complexion"):
            names[f"{tone} {noun}"] = ("tone", tone)
    lexicon: dict[str, list[tuple[tuple[frozenset[str], ...], Fact]]] = {}
    for name, fact in names.items():
        phrase = tuple(_forms(name))
        for form in phrase[0]:
            lexicon.setdefault(form, []).append((phrase, fact))
    return lexicon
