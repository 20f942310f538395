"""Whether an edit did what it was asked: shares of images that show what each request seeks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from editing.audits.prompt_groups import MEANT, PLACES, STYLES, concepts_of
from editing.generate.phrases import phrase
from editing.metrics.proportions import Proportion, proportion
from editing.requests import Request, changes_of
from visdiff.comparison.backends import Backends
from visdiff.encoders.zero_shot import nearest_text
from visdiff.imageset import ImageSet

_EDGE = 0.1
"""An attribute's share counts as reached within this."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request, read off its prompts' images by zero-shot classification.

    Attributes:
        request: What was asked for.
        sought: What was looked for: the concept itself, its target, or an attribute.
        before: Share of the original's images that show it.
        after: Share of the edited model's.
        wanted: "less", "more", or the share asked for.
        met: "yes", "in part" or "no".
    """

    request: Request
    sought: str
    before: Proportion
    after: Proportion
    wanted: str | float
    met: str

    @classmethod
    def of(cls, request: Request, sought: str, before: Proportion, after: Proportion) -> "Outcome":
        """Judges the shares: a tenth is left of what shall go, eight tenths show what shall come.

        In part: the intervals of the two shares lie apart, on the right side of each other.
        """
        wanted = request.sought[sought]
        if not isinstance(wanted, str):
            reached = abs(after.value - wanted) <= _EDGE
            partly = abs(after.value - wanted) < abs(before.value - wanted)
        elif wanted == "less":
            reached, partly = after.value <= 0.1 * before.value, after.high < before.low
        else:
            reached, partly = after.value >= 0.8, after.low > before.high
        met = "yes" if reached else "in part" if partly else "no"
        return cls(request, sought, before, after, wanted, met)


def outcomes_of(
    requests: Sequence[Request],
    original: ImageSet,
    edited: ImageSet,
    by: str,
    models: Backends,
) -> list[Outcome]:
    """Classifies each request's images among the concepts of the audit, or among its attributes.

    Args:
        requests: What was asked for.
        original: The unedited model's images.
        edited: The edited model's, aligned with them.
        by: Column of the groups.
        models: Of the comparison; the ranker's encoder classifies.

    Returns:
        What became of each request; nothing without an encoder or the column.
    """
    changes = changes_of(requests)
    encoder = models.ranker.encoder
    features = models.features(original, edited)
    if not changes or encoder is None or features is None or by not in original.frame.columns:
        return []
    concepts = np.array(concepts_of(original), dtype=object)
    groups = original.frame[by].astype(str).to_numpy()
    meant = np.isin(groups, MEANT)
    # An image of a church on the grass is of both; what is chosen from are things.
    things = concepts[~np.isin(groups, (PLACES, STYLES))]
    every = [c for c in dict.fromkeys([*things, *(r.target for r in changes)]) if c]
    found: list[Outcome] = []
    for request in changes:
        rows = np.flatnonzero(meant & (concepts == request.concept))
        if not len(rows):
            continue
        options = list(request.ratios) or every
        texts = encoder.encode_texts([phrase(o) for o in options])
        before = [options[i] for i in nearest_text(features[rows], texts)]
        after = [options[i] for i in nearest_text(features[len(original) + rows], texts)]
        found += [
            Outcome.of(request, sought, _share(before, sought), _share(after, sought))
            for sought in request.sought
        ]
    return found


def _share(seen: Sequence[str], sought: str) -> Proportion:
    return proportion([name == sought for name in seen])
