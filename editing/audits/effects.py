"""The side effects of an edit, each thing once, and how they are put into words.

A comparison groups synonyms and phrases of one thing (`visdiff.stats.redundant` and
`visdiff.comparison.subjects`). An audit has one comparison per group of prompts, so the same thing
can be confirmed in several of them, in other words. Here these are grouped over all groups.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visdiff import stats
from visdiff.comparison.subjects import one_subject
from visdiff.results import Difference, score_column
from visdiff.words import STOP_WORDS, content_words, is_part, words

if TYPE_CHECKING:
    from editing.audits.report import GroupAudit

Key = tuple[str, str, str]
"""Group, sentence and direction of a confirmed difference."""

Found = tuple["GroupAudit", Difference]
"""A confirmed difference and its group."""


@dataclass(frozen=True)
class SideEffect:
    """One thing that an edit changed besides what it was asked.

    Attributes:
        found: The confirmed differences that name it; the first one represents it.
    """

    found: tuple[Found, ...]

    @property
    def group(self) -> "GroupAudit":
        """The group of the representative difference."""
        return self.found[0][0]

    @property
    def difference(self) -> Difference:
        """The representative difference."""
        return self.found[0][1]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of prompts in which it was found, that of the representative first."""
        return tuple(dict.fromkeys(group.name for group, _ in self.found))

    @property
    def sentence(self) -> str:
        """The side effect in words: "a hospital: more often (things, people)"."""
        return f"{self.change} ({', '.join(self.groups)})"

    @property
    def change(self) -> str:
        """The side effect without its groups: "a hospital: more often"."""
        return change_text(self.difference.text, self.difference.direction)

    def to_dict(self) -> dict[str, Any]:
        """Returns the side effect as JSON values."""
        d = self.difference
        return {
            "sentence": self.sentence,
            "text": d.text,
            "direction": d.direction,
            "groups": list(self.groups),
            "auroc": d.auroc,
            "ci_low": d.ci_low,
            "ci_high": d.ci_high,
            "q_value": d.q_value,
            "found": [
                {"group": g.name, "text": f.text, "auroc": f.auroc, "q_value": f.q_value}
                for g, f in self.found
            ],
        }


def often(direction: str) -> str:
    """Returns "more often" for what the edit added (B), "less often" for what it removed (A)."""
    return "more often" if direction == "B" else "less often"


def change_text(text: str, direction: str) -> str:
    """Returns a confirmed difference of an audit in words: "a hospital: more often"."""
    return f"{text}: {often(direction)}"


def side_effects_of(
    groups: Iterable["GroupAudit"], same: Sequence[Sequence[Key]] = ()
) -> tuple[SideEffect, ...]:
    """Returns the side effects, largest first: the confirmed differences, each thing once.

    Differences with one text are one thing in any case.

    Args:
        groups: The audited groups; those that the edit was asked to change are left out.
        same: Differences that name one thing, from `same_things`.
    """
    first = {key: keys[0] for keys in same for key in keys}
    things: dict[Key, list[Found]] = {}
    for group, d in _confirmed(groups):
        key = first.get((group.name, d.text, d.direction), ("", d.text, d.direction))
        things.setdefault(key, []).append((group, d))
    effects = [SideEffect(tuple(_represented(found))) for found in things.values()]
    return tuple(sorted(effects, key=lambda e: -e.difference.auroc))


def same_things(groups: Iterable["GroupAudit"], threshold: float) -> tuple[tuple[Key, ...], ...]:
    """Returns which confirmed side effects name one thing, over all groups.

    Scores are compared on the images of those groups in which both sentences were scored. Without
    such a group, sentences are one thing if they have the same subject.

    Args:
        groups: The audited groups, with the scores of their comparisons.
        threshold: Least rank correlation of synonyms.

    Returns:
        Groups of two or more differences.
    """
    groups = [group for group in groups if not group.meant]
    things = []
    for direction in ("A", "B"):
        found = [(g, d) for g, d in _confirmed(groups) if d.direction == direction]
        found.sort(key=lambda item: -item[1].auroc)
        texts = list(dict.fromkeys(d.text for _, d in found))
        scores = _scores(groups, texts)
        synonyms = stats.redundant(scores, texts, range(len(texts)), threshold)
        for members in one_subject(synonyms, texts, scores):
            names = {texts[i] for i in members}
            keys = tuple((g.name, d.text, direction) for g, d in found if d.text in names)
            things += [keys] if len(keys) > 1 else []
    return tuple(things)


def _confirmed(groups: Iterable["GroupAudit"]) -> list[Found]:
    return [(group, d) for group in groups if not group.meant for d in group.confirmed]


def _scores(groups: Iterable["GroupAudit"], texts: Sequence[str]) -> np.ndarray:
    """Returns the scores (h, n) of the texts on the images of all groups, NaN where unscored."""
    blocks = [np.empty((len(texts), 0))]
    for group in groups:
        table = group.report.scores
        if table is not None and texts:
            unscored = np.full(len(table), np.nan)
            rows = [table.get(score_column(text), unscored) for text in texts]
            blocks.append(np.array(rows, np.float64))
    return np.concatenate(blocks, axis=1)


def _represented(found: Sequence[Found]) -> list[Found]:
    """Returns the differences of one thing, the representative first, then by AUROC.

    It is the one with the largest AUROC, or a whole phrase that contains its words ("dark skin"
    for "skin") if the AUROC of that one is within the interval of the largest.
    """
    ranked = sorted(found, key=lambda item: -item[1].auroc)
    best = ranked[0][1]
    wholes = [
        item
        for item in ranked
        if is_part(best.text, item[1].text)
        and not is_part(item[1].text, best.text)
        and _is_one_phrase(item[1].text)
        and item[1].auroc >= best.ci_low
    ]
    first = max(wholes, key=lambda item: len(content_words(item[1].text)), default=ranked[0])
    return [first, *(item for item in ranked if item is not first)]


def _is_one_phrase(text: str) -> bool:
    """Returns whether no stop word separates the other words: not so in "a robot on the grass"."""
    kept = [word not in STOP_WORDS for word in words(text)]
    return all(kept[kept.index(True) :]) if True in kept else False
