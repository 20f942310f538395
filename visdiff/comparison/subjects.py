"""Groups of phrases that name one thing: "snow" and "snowy", "cell", "phone" and "cell phone".

`visdiff.stats.redundant` groups phrases with the same words or with nearly the same scores. Phrases
of one thing can have rather different scores: a caption has either "snow" or "snowy", and a phone
is not always a cell phone.
"""

from collections.abc import Sequence

import numpy as np

from visdiff.stats.redundancy import spearman
from visdiff.words import is_part, same_subject

#: Least rank correlation of the scores of a phrase and of a phrase that contains its words.
_MIN_CORRELATION = 0.5


def one_subject(
    groups: Sequence[Sequence[int]], texts: Sequence[str], scores: np.ndarray
) -> list[list[int]]:
    """Merges groups of hypotheses that name one thing.

    A group joins an earlier one if a member of each has the same subject
    (`visdiff.words.same_subject`), or if the words of one are among the other's and the scores of
    the first members have a rank correlation of at least 0.5. "red", "red car" and "car" are
    therefore one thing only if most red things are cars.

    Args:
        groups: Groups of indices, best first; the first index represents its group.
        texts: The h hypotheses, all of one direction within the groups.
        scores: (h, n) scores, NaN where unscored.

    Returns:
        The groups in the order of their representatives.
    """
    correlation = spearman(np.asarray(scores, np.float64)[[group[0] for group in groups]])
    with np.errstate(invalid="ignore"):
        together = correlation >= _MIN_CORRELATION
    left, merged = list(range(len(groups))), list[list[int]]()
    while left:
        first = left.pop(0)
        members, more = list(groups[first]), [first]
        while more:
            # Again after each round: "cell" joins "phone" through "cell phone".
            more = [k for k in left if _related(members, groups[k], texts, together[first, k])]
            members += [i for k in more for i in groups[k]]
            left = [k for k in left if k not in more]
        merged.append(members)
    return merged


def _related(
    members: Sequence[int], others: Sequence[int], texts: Sequence[str], together: bool
) -> bool:
    return any(_one_thing(texts[i], texts[j], together) for i in members for j in others)


def _one_thing(first: str, second: str, together: bool) -> bool:
    if same_subject(first, second):
        return True
    return together and (is_part(first, second) or is_part(second, first))
