"""A proposer of phrases that are more frequent in the captions of one set than of the other.

It needs no API key, no network and no random numbers. A phrase has one to four words and reads as a
concept. Its score is the log-odds ratio with an informative Dirichlet prior of Monroe, Colaresi and
Quinn, "Fightin' Words" (2008), Political Analysis 16(4). The trials are captions: a repetition in
the same caption does not count.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from visdiff.errors import InputError
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.proposers.units import Unit, text_of, units_of, with_singulars
from visdiff.proposers.whole_phrases import MIN_CONTAINMENT, parts_of, whole_phrases
from visdiff.results import Direction, Hypothesis
from visdiff.words import ARTICLES, STOP_WORDS, base_forms

# Phrases with a common word and at least this Jaccard index of their captions are duplicates.
_MIN_JACCARD = 0.9

_SEP = "\x1f"


@dataclass
class _Phrase:
    """A candidate phrase: its words, the captions that contain it, and its score."""

    keys: tuple[str, ...]
    rows: np.ndarray  # sorted indices of the captions of both sets that contain it
    in_a: int
    in_b: int
    z: float  # positive if more frequent in A
    text: str = ""
    starts: float = 0.0  # share of captions where it starts a phrase
    ends: float = 0.0  # share of captions where it ends one

    @property
    def completeness(self) -> float:
        """0 … 2; a whole phrase of the captions has 2."""
        return self.starts + self.ends


class NgramProposer(Proposer):
    """A proposer of phrases with a high log-odds z-score, reduced to readable concepts.

    Phrases begin with a noun, an adjective or a preposition, and end with neither an article nor a
    preposition ("on the grass", "in front of a brick wall", not "of a" or "in the"). Counts ignore
    articles, case and the plural; the result uses their most frequent form in the captions.

    Of a phrase and a longer one that contains it, the longer one is kept if it occurs in nearly all
    captions with the short one. The short one is kept if it also occurs elsewhere, or separates the
    sets without the longer one. Both are kept if the longer one adds information. Phrases with a
    common word in nearly the same captions are duplicates.

    Args:
        max_hypotheses: Maximum number of phrases per direction.
        min_z: Minimum absolute z of a phrase. It limits the number of candidates if the captions do
            not differ; all candidates are still tested on other images.
        max_words: Maximum number of words. Articles do not count; a compound preposition ("in front
            of") is one word.
        min_count: Minimum number of captions of one set with the phrase.
        prior: Weight of the prior, as a number of captions.
        min_completeness: Least completeness of a phrase, between 0 and 2; a fragment below it is
            replaced by a whole phrase (`visdiff.proposers.whole_phrases`). 0 for none.

    Raises:
        InputError: A parameter is out of range.
    """

    name = "ngrams"
    needs_captions = True

    def __init__(
        self,
        max_hypotheses: int = 20,
        min_z: float = 1.64,
        max_words: int = 4,
        min_count: int = 2,
        prior: float = 10.0,
        min_completeness: float = 0.0,
    ) -> None:
        if max_hypotheses < 1 or max_words < 1 or min_count < 1 or min_z < 0 or prior <= 0:
            raise InputError(
                "Expected max_hypotheses, max_words and min_count of at least 1, min_z of at least "
                f"0 and a prior above 0, got {max_hypotheses}, {max_words}, {min_count}, {min_z} "
                f"and {prior}."
            )
        if not 0 <= min_completeness <= 2:
            raise InputError(
                f"Expected min_completeness between 0 and 2, got {min_completeness:g}; 0 keeps "
                "fragments of phrases."
            )
        self.max_hypotheses = max_hypotheses
        self.min_z = min_z
        self.max_words = max_words
        self.min_count = min_count
        self.prior = prior
        self.min_completeness = min_completeness

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend, its settings, and the version of its rules."""
        return {
            "proposer": self.name,
            "version": 3,
            "max_hypotheses": self.max_hypotheses,
            "min_z": self.min_z,
            "max_words": self.max_words,
            "min_count": self.min_count,
            "prior": self.prior,
            "min_completeness": self.min_completeness,
        }

    def propose(
        self, evidence: Evidence, *, rng: np.random.Generator | None = None, round: int = 1
    ) -> Proposals:
        """Returns phrases (see `visdiff.proposers.Proposer`); ``rng`` is not used."""
        captions_a, captions_b = evidence.captions(self.name)
        return Proposals(tuple(self.from_captions(captions_a, captions_b, round)))

    def from_captions(
        self, captions_a: Sequence[str], captions_b: Sequence[str], round: int = 1
    ) -> list[Hypothesis]:
        """Returns the phrases that separate two lists of captions.

        First come set A's phrases in descending order of z, then set B's. The order of the captions
        does not matter.
        """
        parsed_a = [units_of(text) for text in captions_a if text]
        parsed_b = [units_of(text) for text in captions_b if text]
        if not any(parsed_a) or not any(parsed_b):
            return []
        captions = with_singulars(parsed_a + parsed_b)
        sizes = (len(parsed_a), len(parsed_b))
        candidates = self._candidates(captions, len(parsed_a))
        found: list[Hypothesis] = []
        directions: tuple[tuple[Direction, int], ...] = (("A", 1), ("B", -1))
        for direction, sign in directions:
            phrases = {p.keys: p for p in candidates if sign * p.z >= self.min_z}
            _choose_texts(phrases, captions)
            phrases = {k: p for k, p in phrases.items() if p.text}
            merged = self._merge_nested(phrases, sign, sizes)
            if self.min_completeness:
                merged = whole_phrases(merged, phrases, self.min_completeness)
            kept = self._remove_duplicates(merged)
            found += [Hypothesis(p.text, direction, self.name, round) for p in kept]
        return found

    def _candidates(self, captions: list[list[list[Unit]]], n_a: int) -> list[_Phrase]:
        """Returns all well-formed phrases of the captions with their counts and z-scores."""

        def analyse(caption: list[list[Unit]]) -> list[str]:
            return [_SEP.join(keys) for keys, _, _ in _phrases(caption, self.max_words)]

        try:
            # The type stubs do not allow a callable as the analyzer.
            vectorizer: Any = CountVectorizer(
                analyzer=cast(Any, analyse), binary=True, min_df=self.min_count
            )
            counts = vectorizer.fit_transform(captions).tocsc()
        except ValueError:
            # scikit-learn raises this if no phrase is in `min_count` captions.
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

    def _merge_nested(
        self, phrases: dict[tuple[str, ...], _Phrase], sign: int, sizes: tuple[int, int]
    ) -> list[_Phrase]:
        """Returns phrases without those that a shorter or a longer one makes redundant."""
        # First drop longer phrases that add nothing to a more frequent part.
        informative = {
            keys: phrase
            for keys, phrase in phrases.items()
            if not any(
                len(phrase.rows) < MIN_CONTAINMENT * len(part.rows)
                and sign * self._z_given_part(phrase, part) < self.min_z
                for part in (phrases[k] for k in parts_of(keys) if k in phrases)
            )
        }
        # Then, starting with the longest, drop the parts that a longer phrase explains.
        kept: list[_Phrase] = []
        containing: defaultdict[tuple[str, ...], list[_Phrase]] = defaultdict(list)
        for phrase in sorted(informative.values(), key=lambda p: -len(p.keys)):
            if any(
                _explains(longer, phrase)
                and sign * self._z_without(phrase, longer, sizes) < self.min_z
                for longer in containing[phrase.keys]
            ):
                continue
            kept.append(phrase)
            for part in parts_of(phrase.keys):
                containing[part].append(phrase)
        return kept

    def _z_given_part(self, phrase: _Phrase, part: _Phrase) -> float:
        """Returns z of a phrase among the captions that contain a given part of it."""
        return log_odds_z(phrase.in_a, part.in_a, phrase.in_b, part.in_b, self.prior)

    def _z_without(self, part: _Phrase, longer: _Phrase, sizes: tuple[int, int]) -> float:
        """Returns z of a part among the captions without the longer phrase.

        If nine in ten pilots are men, the sets may still differ in pilots, not in men: the captions
        of the other pilots show which.
        """
        in_a, in_b = part.in_a - longer.in_a, part.in_b - longer.in_b
        return log_odds_z(in_a, sizes[0] - longer.in_a, in_b, sizes[1] - longer.in_b, self.prior)

    def _remove_duplicates(self, phrases: Iterable[_Phrase]) -> list[_Phrase]:
        """Returns the best phrases, best first, without near-duplicates."""
        # z is compared to one decimal; of equal phrases, the more complete one comes first.
        order = sorted(
            phrases,
            key=lambda p: (-round(abs(p.z), 1), -round(p.completeness, 1), -len(p.keys), p.text),
        )
        kept: list[tuple[_Phrase, list[frozenset[str]]]] = []
        for phrase in order:
            if len(kept) == self.max_hypotheses:
                break
            words = [base_forms(k) for k in phrase.keys if k not in STOP_WORDS]
            if not any(_are_duplicates(phrase, words, *other) for other in kept):
                kept.append((phrase, words))
        return sorted((p for p, _ in kept), key=lambda p: (-abs(p.z), p.text))


def log_odds_z(in_a: int, n_a: int, in_b: int, n_b: int, prior: float) -> float:
    """Returns the z-score of a log-odds ratio with an informative Dirichlet prior.

    The prior adds ``prior`` captions to each set, with the phrase in the same share of them as in
    both sets together (Monroe et al. 2008). The paper drops the variance terms of trials without
    the word, because a word's share of all words is small. They are kept here, because a phrase's
    share of captions can be large.

    Args:
        in_a: Captions of A with the phrase, 0 … n_a.
        n_a: Captions of A.
        in_b: Captions of B with the phrase, 0 … n_b.
        n_b: Captions of B.
        prior: Weight of the prior, above 0.

    Returns:
        z, positive if the phrase is more frequent in A; 0 for equal shares or an empty set.
    """
    if not n_a or not n_b or in_a + in_b in (0, n_a + n_b):
        return 0.0
    share = (in_a + in_b) / (n_a + n_b)
    prior_with, prior_without = prior * share, prior * (1 - share)
    with_a, without_a = in_a + prior_with, n_a - in_a + prior_without
    with_b, without_b = in_b + prior_with, n_b - in_b + prior_without
    difference = np.log(with_a / without_a) - np.log(with_b / without_b)
    return float(difference / np.sqrt(1 / with_a + 1 / without_a + 1 / with_b + 1 / without_b))


def _phrases(
    caption: list[list[Unit]], max_words: int
) -> Iterator[tuple[tuple[str, ...], list[Unit], tuple[Unit | None, Unit | None]]]:
    """Yields each well-formed phrase of a caption: keys, units, and the units next to it."""
    for segment in caption:
        for start, head in enumerate(segment):
            if head.role == "link":
                continue
            for end in range(start + 1, min(start + max_words, len(segment)) + 1):
                units = segment[start:end]
                if units[-1].role != "content":
                    continue
                before = segment[start - 1] if start else None
                after = segment[end] if end < len(segment) else None
                yield tuple(unit.key for unit in units), units, (before, after)


def _choose_texts(
    phrases: dict[tuple[str, ...], _Phrase], captions: list[list[list[Unit]]]
) -> None:
    """Sets the most frequent text and the completeness of each phrase.

    A phrase with a preposition that is usually cut before its noun ("on a green") gets no text.
    """
    longest = max((len(keys) for keys in phrases), default=0)
    # (keys, whether the phrase ends with a phrase of the caption) → texts.
    texts: defaultdict[tuple[tuple[str, ...], bool], Counter[str]] = defaultdict(Counter)
    begins: Counter[tuple[str, ...]] = Counter()
    mixed: dict[tuple[str, ...], bool] = {}
    for row in sorted({int(r) for p in phrases.values() for r in p.rows}):
        for keys, units, (before, after) in _phrases(captions[row], longest):
            if keys not in phrases:
                continue
            texts[keys, after is None or after.role != "content"][text_of(units)] += 1
            mixed[keys] = any(unit.role != "content" for unit in units)
            begins[keys] += bool(
                before is None
                or units[0].article
                or units[0].role == "preposition"
                or (before.role != "content" and before.key != "and")
            )
    for keys, phrase in phrases.items():
        ended, cut = texts[keys, True].total(), texts[keys, False].total()
        phrase.starts, phrase.ends = begins[keys] / (ended + cut), ended / (ended + cut)
        if ended >= cut:
            phrase.text = _most_common(texts[keys, True])
        elif not mixed[keys]:
            # An adjective or an attributive noun loses its article: "red", not "a red".
            text = _most_common(texts[keys, False])
            head, _, rest = text.partition(" ")
            phrase.text = rest if head in ARTICLES and rest else text


def _most_common(texts: Counter[str]) -> str:
    """Returns the most common text; ties are broken alphabetically."""
    return min(texts.items(), key=lambda item: (-item[1], item[0]))[0]


def _explains(longer: _Phrase, part: _Phrase) -> bool:
    """Returns whether a part occurs almost only in the longer phrase, which is as complete."""
    contained = len(longer.rows) >= MIN_CONTAINMENT * len(part.rows)
    return contained and longer.completeness >= part.completeness - 0.25


def _are_duplicates(
    phrase: _Phrase,
    words: list[frozenset[str]],
    other: _Phrase,
    other_words: list[frozenset[str]],
) -> bool:
    """Returns whether two phrases have the same words, or a common word in the same captions."""
    shared = [any(not a.isdisjoint(b) for b in other_words) for a in words]
    if not any(shared):
        return False
    if all(shared) and all(any(not a.isdisjoint(b) for a in words) for b in other_words):
        return True
    common = len(np.intersect1d(phrase.rows, other.rows, assume_unique=True))
    return common >= _MIN_JACCARD * (len(phrase.rows) + len(other.rows) - common)
