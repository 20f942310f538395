"""The deterministic judge: what a sentence says about the attributes of the miniature's world.

A sentence is read for the facts it states: values of subject (one or two, professions included),
gender, skin tone, style and place, each by its own words. The facts that the truth about the
claimed set has and the truth about the other set has not are *planted*. A claim then gets

- **0** when it states something false of its set: a fact of the other set alone, or another value
  of a gender, tone, style or place that its set is known to have;
- **1** when it states every planted fact, and nothing that the truth does not say of its set;
- **0.5** when it states planted facts but more than is known ("a dog on the grass" where only the
  grass is planted: narrower), or only some of several (broader), or when it names no planted fact
  but a kind that has a planted subject and none of the other set's ("an animal" for dogs against
  trumpets);
- **0** in every other case, among them every claim about two sets whose truth is the same.

There is no verdict on a negated sentence, nor when the truth has no fact of this world in it.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from visdiff.judges import Claim, Verdict
from visdiff.miniature import world
from visdiff.words import base_forms, words

Fact = tuple[str, str]
"""An attribute ("subject", "gender", "tone", "style", "place") and one of its values."""

#: Attributes of which a scene has one value: naming another denies it. A scene has two subjects.
_EXCLUSIVE = frozenset({"gender", "tone", "style", "place"})

#: Other ways to say a value, beside its name in the world.
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
    """Applies the rule of this module."""

    def __init__(self, **_: Any) -> None:
        """Take any settings: the rule has none."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The rule and its version."""
        return {"judge": "world", "version": 1}

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        """Judge every claim, see `visdiff.judges.Judge.judge`."""
        return [_verdict(claim) for claim in claims]


@lru_cache(maxsize=4096)
def facts(text: str) -> frozenset[Fact]:
    """Read the facts that a sentence states; the longest name wins ("medium-light skin")."""
    tokens = _forms(text)
    found, at = set[Fact](), 0
    while at < len(tokens):
        fits = [
            entry
            for form in tokens[at]
            for entry in _lexicon().get(form, ())
            if _says(tokens[at : at + len(entry[0])], entry[0])
        ]
        # Without a name here, one word is passed over.
        phrase, fact = max(fits, key=lambda entry: len(entry[0]), default=((None,), None))
        found |= {fact} if fact else set()
        at += len(phrase)
    return frozenset(found)


def kinds(text: str) -> frozenset[str]:
    """Return the subjects of the kinds that a sentence names: all animals for "an animal"."""
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
        return Verdict(None, "the truth tells the sets apart by no attribute of the world")
    if any(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in words(claim.text)):
        return Verdict(None, "a negated sentence, which the rule does not read")
    told, planted = facts(claim.text), own - other
    known = {attribute for attribute, _ in own} & _EXCLUSIVE
    for attribute, value in sorted(told - own):
        if (attribute, value) in other or attribute in known:
            return Verdict(0.0, f"false of the set: {value}")
    if not told & planted:
        return _of_kind(claim.text, planted, other)
    if told - own:
        return Verdict(0.5, f"narrower: also {_listed(told - own)}")
    if planted - told:
        return Verdict(0.5, f"broader: without {_listed(planted - told)}")
    return Verdict(1.0, f"names {_listed(planted)}")


def _of_kind(text: str, planted: frozenset[Fact], other: frozenset[Fact]) -> Verdict:
    named = {("subject", subject) for subject in kinds(text)}
    if named & planted and not named & other:
        return Verdict(0.5, f"broader: a kind of {_listed(named & planted)}")
    return Verdict(0.0, "names nothing that is planted")


def _listed(some: frozenset[Fact] | set[Fact]) -> str:
    return ", ".join(sorted(value for _, value in some))


def _forms(text: str) -> list[frozenset[str]]:
    return [base_forms(word) for word in words(text.replace("-", " "))]


def _says(tokens: Sequence[frozenset[str]], phrase: Sequence[frozenset[str]]) -> bool:
    return len(tokens) == len(phrase) and all(map(frozenset.intersection, tokens, phrase))


@cache
def _lexicon() -> Mapping[str, Sequence[tuple[tuple[frozenset[str], ...], Fact]]]:
    """Map every form of a name's first word to the names that begin so, with their facts."""
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
