"""Propose the phrases that captions of one set use more than captions of the other.

No key, no network, no randomness. A phrase is one to four words that read as a concept; how it
tells the sets apart is the log-odds ratio with an informative Dirichlet prior of Monroe, Colaresi
and Quinn, "Fightin' Words" (2008), Political Analysis 16(4), with captions as trials: a caption has
the phrase or it has not, and repeating it inside one caption counts once.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from visdiff.errors import InputError
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Direction, Hypothesis
from visdiff.words import ARTICLES, STOP_WORDS, base_forms

# A shorter phrase is folded into a longer one that is in this share of its captions.
_EXPLAINS = 0.85
# Two phrases that share a word and this share (Jaccard) of their captions are one.
_SAME_CAPTIONS = 0.9

_SEP = "\x1f"
_COMPOUND_TEXT = (
    "in front of|on top of|at the top of|in the middle of|in the center of|in the centre of|"
    "on the side of|at the edge of|next to|close to|out of|covered in|covered with|surrounded by|"
    "made of|filled with"
)
# By first word, the longest first.
_COMPOUND: dict[str, list[tuple[str, ...]]] = {}
for _phrase in sorted(_COMPOUND_TEXT.split("|"), key=len, reverse=True):
    _COMPOUND.setdefault(_phrase.split()[0], []).append(tuple(_phrase.split()))
_SIMPLE_TEXT = """
above across against along among around at behind below beneath beside between beyond by during from
in inside into near off on onto outside over through to toward towards under underneath upon with
within without
"""
_PREPOSITIONS = frozenset(_SIMPLE_TEXT.split()) | frozenset(_COMPOUND_TEXT.split("|"))
# Joins two parts of one phrase, but cannot begin one.
_LINKS = frozenset({"of", "and", "or", "for", "as"})
_EDGE = re.compile(r"^[\"'“”‘’(\[]+|[\"'“”‘’)\].,;:!?…]+$")
_STOPS = re.compile(r"[.,;:!?…)\]]$")


@dataclass(frozen=True)
class _Unit:
    """A word, or a compound preposition, with the article before it."""

    text: str  # as written
    key: str  # lower case
    article: str  # as written, "" when there is none
    role: Literal["content", "preposition", "link"]
    first: bool  # first word of a sentence, where a capital letter says nothing


@dataclass
class _Phrase:
    """A candidate: what it is made of, who says it, and how well it tells the sets apart."""

    keys: tuple[str, ...]
    rows: np.ndarray  # indices of the captions that have it, both sets', sorted
    in_a: int
    in_b: int
    z: float  # positive: more in A
    text: str = ""
    whole: float = 0.0  # 0 … 2: how often it begins and ends where a phrase of the caption does


class NgramProposer(Proposer):
    """Phrases by weighted log-odds, cleaned to readable concepts.

    Phrases begin with a noun, an adjective or a preposition, and end with neither an article nor a
    preposition ("on the grass", "in front of a brick wall", not "of a" or "in the"). Articles and
    case are not counted, but given back as the captions have them most often. Of a short phrase and
    a longer one around it, the longer one is kept when nearly all captions with the short one have
    it; the short one when it occurs in other company too, or tells the sets apart without it, and
    then the longer one only if it tells more. Phrases in nearly the same captions that share a word
    are one.

    Args:
        max_hypotheses: Most phrases a direction.
        min_z: Least z, in absolute value, of a phrase. What this lets through is still tested on
            other images; it is there to keep candidates few when the captions do not differ.
        max_words: Longest phrase; articles do not count, compound prepositions ("in front of")
            once.
        min_count: Captions of a set that must have the phrase.
        prior: Weight of the prior, in captions: the two sets' common share of captions with the
            phrase is taken for known from so many.

    Raises:
        InputError: A parameter is out of range.
    """

    name = "ngrams"
    needs_captions = True

    def __init__(
        self,
        max_hypotheses: int = 20,
        min_z: float = 1.96,
        max_words: int = 4,
        min_count: int = 2,
        prior: float = 10.0,
    ) -> None:
        if max_hypotheses < 1 or max_words < 1 or min_count < 1 or min_z < 0 or prior <= 0:
            raise InputError(
                "expected max_hypotheses, max_words and min_count of at least 1, min_z of at least "
                f"0 and a prior above 0, got {max_hypotheses}, {max_words}, {min_count}, {min_z} "
                f"and {prior}"
            )
        self.max_hypotheses = max_hypotheses
        self.min_z = min_z
        self.max_words = max_words
        self.min_count = min_count
        self.prior = prior

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend, its thresholds, and the version of its rules."""
        return {
            "proposer": self.name,
            "version": 2,
            "max_hypotheses": self.max_hypotheses,
            "min_z": self.min_z,
            "max_words": self.max_words,
            "min_count": self.min_count,
            "prior": self.prior,
        }

    def propose(
        self, evidence: Evidence, *, rng: np.random.Generator | None = None, round: int = 1
    ) -> Proposals:
        """Propose phrases (see `visdiff.proposers.Proposer`); ``rng`` is not used."""
        said_a, said_b = evidence.said(self.name)
        return Proposals(tuple(self.from_captions(said_a, said_b, round)))

    def from_captions(
        self, captions_a: Sequence[str], captions_b: Sequence[str], round: int = 1
    ) -> list[Hypothesis]:
        """Return the phrases that tell two lists of captions apart.

        The same captions in another order give the same list: set A's phrases by falling z, then
        set B's.
        """
        parsed_a = [_units(text) for text in captions_a if text]
        parsed_b = [_units(text) for text in captions_b if text]
        if not any(parsed_a) or not any(parsed_b):
            return []
        captions = parsed_a + parsed_b
        sizes = (len(parsed_a), len(parsed_b))
        candidates = self._candidates(captions, len(parsed_a))
        found: list[Hypothesis] = []
        directions: tuple[tuple[Direction, int], ...] = (("A", 1), ("B", -1))
        for direction, sign in directions:
            phrases = {p.keys: p for p in candidates if sign * p.z >= self.min_z}
            _write_out(phrases, captions)
            phrases = {k: p for k, p in phrases.items() if p.text}
            kept = self._distinct(self._folded(phrases, sign, sizes))
            found += [Hypothesis(p.text, direction, self.name, round) for p in kept]
        return found

    def _candidates(self, captions: list[list[list[_Unit]]], n_a: int) -> list[_Phrase]:
        """Count every well-formed phrase, caption by caption, and score it."""

        def analyse(caption: list[list[_Unit]]) -> list[str]:
            return [_SEP.join(keys) for keys, _, _ in _phrases(caption, self.max_words)]

        try:
            # The stubs know of analyzers by name only.
            vectorizer: Any = CountVectorizer(
                analyzer=cast(Any, analyse), binary=True, min_df=self.min_count
            )
            counts = vectorizer.fit_transform(captions).tocsc()
        except ValueError:
            # scikit-learn's way of saying that no phrase is in enough captions.
            return []
        n_b = len(captions) - n_a
        phrases = []
        for column, name in enumerate(vectorizer.get_feature_names_out()):
            rows = np.sort(counts.indices[counts.indptr[column] : counts.indptr[column + 1]])
            in_a = int(np.searchsorted(rows, n_a))
            in_b = len(rows) - in_a
            if max(in_a, in_b) < self.min_count:
                continue
            z = log_odds_z(in_a, n_a, in_b, n_b, self.prior)
            phrases.append(_Phrase(tuple(str(name).split(_SEP)), rows, in_a, in_b, z))
        return phrases

    def _folded(
        self, phrases: dict[tuple[str, ...], _Phrase], sign: int, sizes: tuple[int, int]
    ) -> list[_Phrase]:
        """Keep the right one of each phrase and the longer ones around it, or both."""
        # First drop the longer ones that tell no more than a part used more widely.
        telling = {
            keys: phrase
            for keys, phrase in phrases.items()
            if not any(
                len(phrase.rows) < _EXPLAINS * len(part.rows)
                and sign * self._given(phrase, part) < self.min_z
                for part in (phrases[k] for k in _parts(keys) if k in phrases)
            )
        }
        # Then, longest first, drop the parts that each survivor accounts for.
        kept: list[_Phrase] = []
        around: defaultdict[tuple[str, ...], list[_Phrase]] = defaultdict(list)
        for phrase in sorted(telling.values(), key=lambda p: -len(p.keys)):
            if any(
                _explains(longer, phrase)
                and sign * self._without(phrase, longer, sizes) < self.min_z
                for longer in around[phrase.keys]
            ):
                continue
            kept.append(phrase)
            for part in _parts(phrase.keys):
                around[part].append(phrase)
        return kept

    def _given(self, phrase: _Phrase, part: _Phrase) -> float:
        """Return z of a phrase among the captions that have a part of it."""
        return log_odds_z(phrase.in_a, part.in_a, phrase.in_b, part.in_b, self.prior)

    def _without(self, part: _Phrase, longer: _Phrase, sizes: tuple[int, int]) -> float:
        """Return z of a part among the captions that lack the longer phrase around it.

        Nine in ten pilots may be men, yet what the sets differ in is pilots: the tenth tells too.
        """
        in_a, in_b = part.in_a - longer.in_a, part.in_b - longer.in_b
        return log_odds_z(in_a, sizes[0] - longer.in_a, in_b, sizes[1] - longer.in_b, self.prior)

    def _distinct(self, phrases: Iterable[_Phrase]) -> list[_Phrase]:
        """Return the best phrases, best first, without near-duplicates."""
        # z to one decimal: below that, the better-formed phrase goes first.
        order = sorted(
            phrases,
            key=lambda p: (-round(abs(p.z), 1), -round(p.whole, 1), -len(p.keys), p.text),
        )
        kept: list[tuple[_Phrase, list[frozenset[str]]]] = []
        for phrase in order:
            if len(kept) == self.max_hypotheses:
                break
            content = [base_forms(k) for k in phrase.keys if k not in STOP_WORDS]
            if not any(_same(phrase, content, other, theirs) for other, theirs in kept):
                kept.append((phrase, content))
        return sorted((p for p, _ in kept), key=lambda p: (-abs(p.z), p.text))


def log_odds_z(in_a: int, n_a: int, in_b: int, n_b: int, prior: float) -> float:
    """Return the z-score of a log-odds ratio with an informative Dirichlet prior.

    The prior of each set is worth ``prior`` captions, with the phrase in the share of them that it
    has in both sets together (Monroe et al. 2008). The variance keeps the terms of captions without
    the phrase, which the paper drops: a word's share of all words is small, a phrase's share of
    captions need not be.

    Args:
        in_a: Captions of A with the phrase, 0 … n_a.
        n_a: Captions of A.
        in_b: Captions of B with the phrase, 0 … n_b.
        n_b: Captions of B.
        prior: Weight of the prior, above 0.

    Returns:
        Positive when A's captions have it more; 0 when the shares are equal or a set is empty.
    """
    if not n_a or not n_b or in_a + in_b in (0, n_a + n_b):
        return 0.0
    share = (in_a + in_b) / (n_a + n_b)
    yes, no = prior * share, prior * (1 - share)
    have_a, lack_a = in_a + yes, n_a - in_a + no
    have_b, lack_b = in_b + yes, n_b - in_b + no
    difference = np.log(have_a / lack_a) - np.log(have_b / lack_b)
    return float(difference / np.sqrt(1 / have_a + 1 / lack_a + 1 / have_b + 1 / lack_b))


def _units(caption: str) -> list[list[_Unit]]:
    """Cut a caption into stretches of units that a phrase may lie in."""
    stretches: list[list[_Unit]] = [[]]
    tokens = caption.split()
    lower = [token.lower() for token in tokens]
    article, first, i = "", True, 0
    while i < len(tokens):
        compounds = _COMPOUND.get(lower[i], ())
        size = next((len(c) for c in compounds if tuple(lower[i : i + len(c)]) == c), 1)
        raw = " ".join(tokens[i : i + size])
        word = _EDGE.sub("", raw)
        key = word.lower()
        i += size
        if key in ARTICLES:
            article = word
        elif key in _PREPOSITIONS or key in _LINKS or (key and key not in STOP_WORDS):
            role: Literal["content", "preposition", "link"] = (
                "preposition" if key in _PREPOSITIONS else "link" if key in _LINKS else "content"
            )
            stretches[-1].append(_Unit(word, key, article, role, first))
            article, first = "", False
        else:
            # A verb like "is", a pronoun, bare punctuation: no concept reaches across it.
            stretches.append([])
            article, first = "", False
        if _STOPS.search(raw):
            stretches.append([])
            article, first = "", raw[-1] in ".!?"
    return [stretch for stretch in stretches if stretch]


def _phrases(
    caption: list[list[_Unit]], max_words: int
) -> Iterator[tuple[tuple[str, ...], list[_Unit], tuple[_Unit | None, _Unit | None]]]:
    """Yield each well-formed phrase of a caption: its keys, its units, and the units around it."""
    for stretch in caption:
        for start, head in enumerate(stretch):
            if head.role == "link":
                continue
            for end in range(start + 1, min(start + max_words, len(stretch)) + 1):
                units = stretch[start:end]
                if units[-1].role != "content":
                    continue
                before = stretch[start - 1] if start else None
                after = stretch[end] if end < len(stretch) else None
                yield tuple(unit.key for unit in units), units, (before, after)


def _write_out(phrases: dict[tuple[str, ...], _Phrase], captions: list[list[list[_Unit]]]) -> None:
    """Give phrases the text that captions have most often, and see where they begin and end.

    A phrase with a preposition that most often stops short of its noun ("on a green") gets no text.
    """
    longest = max((len(keys) for keys in phrases), default=0)
    # By whether the phrase ends where one of the caption's does.
    texts: defaultdict[tuple[tuple[str, ...], bool], Counter[str]] = defaultdict(Counter)
    begins: Counter[tuple[str, ...]] = Counter()
    mixed: dict[tuple[str, ...], bool] = {}
    for row in sorted({int(r) for p in phrases.values() for r in p.rows}):
        for keys, units, (before, after) in _phrases(captions[row], longest):
            if keys not in phrases:
                continue
            texts[keys, after is None or after.role != "content"][_spelled(units)] += 1
            mixed[keys] = any(unit.role != "content" for unit in units)
            begins[keys] += bool(
                before is None
                or units[0].article
                or units[0].role == "preposition"
                or (before.role != "content" and before.key != "and")
            )
    for keys, phrase in phrases.items():
        ended, cut = texts[keys, True].total(), texts[keys, False].total()
        phrase.whole = (begins[keys] + ended) / (ended + cut)
        if ended >= cut:
            phrase.text = _most_common(texts[keys, True])
        elif not mixed[keys]:
            # An adjective, or a noun used as one: "red", not "a red".
            text = _most_common(texts[keys, False])
            head, _, rest = text.partition(" ")
            phrase.text = rest if head in ARTICLES and rest else text


def _most_common(texts: Counter[str]) -> str:
    """Return the most common text; of several the first in the alphabet, whatever their order."""
    return min(texts.items(), key=lambda item: (-item[1], item[0]))[0]


def _spelled(units: list[_Unit]) -> str:
    """Write a phrase as the caption has it, but for the capital that begins a sentence."""
    out: list[str] = []
    for index, unit in enumerate(units):
        if unit.article:
            out.append(unit.article.lower())
        plain = unit.text[:1].isupper() and unit.text[1:] == unit.text[1:].lower()
        out.append(unit.text.lower() if plain and unit.first and not index else unit.text)
    return " ".join(out)


def _parts(keys: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return the proper contiguous parts of a phrase."""
    n = len(keys)
    return {keys[i:j] for i in range(n) for j in range(i + 1, n + 1)} - {keys}


def _explains(longer: _Phrase, part: _Phrase) -> bool:
    """Say whether a part is hardly ever without the longer phrase, which reads as well."""
    return len(longer.rows) >= _EXPLAINS * len(part.rows) and longer.whole >= part.whole - 0.25


def _same(
    phrase: _Phrase,
    content: list[frozenset[str]],
    other: _Phrase,
    theirs: list[frozenset[str]],
) -> bool:
    """Say whether two phrases are one: the same words, or a shared word in the same captions."""
    shared = [any(not a.isdisjoint(b) for b in theirs) for a in content]
    if not any(shared):
        return False
    if all(shared) and all(any(not a.isdisjoint(b) for a in content) for b in theirs):
        return True
    common = len(np.intersect1d(phrase.rows, other.rows, assume_unique=True))
    return common >= _SAME_CAPTIONS * (len(phrase.rows) + len(other.rows) - common)
