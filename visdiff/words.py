"""Words of captions and short English phrases: splitting, stop words, inflections."""

import re

# scikit-learn's stop words contain "no", "not", "without" and "fire". Snowball stems do not match
# "men", "leaves" and "children" with "man", "leaf" and "child". Neither is used here.
ARTICLES = frozenset({"a", "an", "the"})

# Words without a meaning of their own. Negations ("no", "not", "without") are not stop words.
_STOP_WORDS = """
about above across after against along also among and any are around as at be because been before
behind being below beneath beside between beyond both but by can could did do does doing down
during each for from had has have having he her here hers him his how i if in inside into is it
its itself just like may me might more most my near next of off on onto or our out outside over
own she should so some such than that their theirs them then there these they this those through
to toward towards under underneath until up upon us very was we were what when where which while
who whose why will with within would you your
"""
_NEGATIONS = frozenset({"no", "not", "without", "never", "none"})
STOP_WORDS = ARTICLES | frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_VOWEL = re.compile(r"[aeiouy]")
# One syllable that ends in one vowel and one consonant. Its -ing and -ed forms double the
# consonant, so "caring" is a form of "care" and not of "car".
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
# Nouns and the adjectives that name the same thing. A rule for -y would also relate "party" and
# "part", "story" and "store".
_ADJECTIVES = """
snow snowy, sand sandy, rain rainy, cloud cloudy, sun sunny, wind windy, storm stormy, fog foggy,
mist misty, haze hazy, ice icy, frost frosty, grass grassy, rock rocky, stone stony, mud muddy,
dust dusty, dirt dirty, smoke smoky, leaf leafy, fur furry, hair hairy, hill hilly, rust rusty,
feather feathery, curl curly, blur blurry, grain grainy, shadow shadowy, wood wooden, wood woody,
gold golden, wool woolen, wool woollen, metal metallic, mountain mountainous, flower floral
"""
_NOUNS = {adj: noun for noun, adj in (pair.split() for pair in _ADJECTIVES.split(","))}


def words(text: str) -> list[str]:
    """Splits a text into lower-case words; hyphens and apostrophes inside a word are kept."""
    return [word.lower() for word in _WORD.findall(text)]


def base_forms(word: str) -> frozenset[str]:
    """Returns the possible base forms of a lower-case word, including the word itself.

    Plurals, -ing and -ed are removed by spelling rules, without a dictionary. If the spelling is
    ambiguous, every possibility is returned. Two words match if they share a form.
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


def content_words(text: str) -> list[frozenset[str]]:
    """Returns the base forms of each word of a text that is not a stop word.

    A text of stop words only is returned with all of its words.
    """
    found = words(text.replace("-", " "))
    return [base_forms(word) for word in found if word not in STOP_WORDS] or [
        base_forms(word) for word in found
    ]


def same_subject(first: str, second: str) -> bool:
    """Returns whether two phrases differ in stop words, order and word class only.

    "snow", "in the snow" and "snowy" have the same subject; "a dog" and "a black dog" do not.
    """
    left, right = _subjects(first), _subjects(second)
    if not left or not right:
        return first == second
    return all(any(a & b for b in right) for a in left) and all(
        any(a & b for a in left) for b in right
    )


def is_part(part: str, whole: str) -> bool:
    """Returns whether the content words of a phrase are among those of another.

    "a hat" is a part of "a man with a hat", but not of "a man without a hat".
    """
    words_of_part, others = _subjects(part), _subjects(whole)
    if not words_of_part or any(forms & _NEGATIONS for forms in words_of_part + others):
        return False
    return all(any(a & b for b in others) for a in words_of_part)


def _subjects(text: str) -> list[frozenset[str]]:
    """Returns the content words of a text, each with the noun of an adjective."""
    return [forms | {_NOUNS[f] for f in forms if f in _NOUNS} for forms in content_words(text)]


def same_words(first: str, second: str) -> bool:
    """Returns whether two texts have the same words in the same order.

    Case, punctuation, articles and inflections are ignored; other stop words are not.
    """
    left, right = (
        [base_forms(w) for w in words(text.replace("-", " ")) if w not in ARTICLES]
        for text in (first, second)
    )
    if len(left) != len(right):
        return False
    return all(a & b for a, b in zip(left, right, strict=True)) if left else first == second


def singulars(word: str) -> frozenset[str]:
    """Returns the possible singulars of a lower-case noun; empty if it is not a plural."""
    forms = {_IRREGULAR[word]} if word in _IRREGULAR else _without_plural(word)
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
    """Returns the verbs whose -ing or -ed form has this stem."""
    if len(stem) < 2 or not _VOWEL.search(stem):
        return set()
    if stem[-1] == stem[-2]:
        return {stem, stem[:-1]}
    if _SHORT.fullmatch(stem):
        return {stem + "e"}
    return {stem, stem + "e"}
