"""English words in captions and short phrases: splitting, stop words, folded inflections."""

import re

# Not scikit-learn's stop words, which hold "no", "not", "without" and "fire"; not Snowball's stems,
# which keep "men", "leaves" and "children" apart from "man", "leaf" and "child".
ARTICLES = frozenset({"a", "an", "the"})

# Words that carry no claim of their own. Negations ("no", "not", "without") do, and are not here.
_STOP_WORDS = """
about above across after against along also among and any are around as at be because been before
behind being below beneath beside between beyond both but by can could did do does doing down
during each for from had has have having he her here hers him his how i if in inside into is it
its itself just like may me might more most my near next of off on onto or our out outside over
own she should so some such than that their theirs them then there these they this those through
to toward towards under underneath until up upon us very was we were what when where which while
who whose why will with within would you your
"""
STOP_WORDS = ARTICLES | frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_VOWEL = re.compile(r"[aeiouy]")
# One syllable that ends in one vowel and one consonant: its -ing and -ed forms double the
# consonant, so that "caring" is a form of "care" and not of "car".
_SHORT = re.compile(r"[^aeiouy]*[aeiouy][^aeiouywx]")
_IRREGULAR = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "teeth": "tooth",
    "women": "woman",
}


def words(text: str) -> list[str]:
    """Split a text into lower-case words; hyphens and apostrophes inside a word are kept."""
    return [word.lower() for word in _WORD.findall(text)]


def base_forms(word: str) -> frozenset[str]:
    """Return what a lower-case word may be an inflection of, itself included.

    Plurals, -ing and -ed are undone by spelling rules, without a dictionary; where the spelling
    leaves it open ("hoping": hope), every possibility is returned. Two words are taken for the same
    one when they share a form.
    """
    forms = {word}
    if word in _IRREGULAR:
        forms.add(_IRREGULAR[word])
    for ending in ("men", "women"):
        # policemen, firewomen
        if word.endswith(ending) and len(word) > len(ending) + 2:
            forms.add(word.removesuffix(ending) + _IRREGULAR[ending])
    forms |= _without_plural(word)
    for ending in ("ing", "ed"):
        if word.endswith(ending) and not word.endswith("eed"):
            forms |= _stems(word.removesuffix(ending))
    if word.endswith("ied") and len(word) > 4:
        forms.add(word[:-3] + "y")
    return frozenset(forms)


def _without_plural(word: str) -> set[str]:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return set()
    forms = {word[:-1]}
    if word.endswith("ies") and len(word) > 4:
        forms.add(word[:-3] + "y")
    elif word.endswith("ves"):
        forms |= {word[:-3] + "f", word[:-3] + "fe"}
    elif word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        forms.add(word[:-2])
    return forms


def _stems(stem: str) -> set[str]:
    """Return the verbs that leave ``stem`` when -ing or -ed is cut off."""
    if len(stem) < 2 or not _VOWEL.search(stem):
        return set()
    if stem[-1] == stem[-2]:
        return {stem, stem[:-1]}
    if _SHORT.fullmatch(stem):
        return {stem + "e"}
    return {stem, stem + "e"}
