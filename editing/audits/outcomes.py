"""Whether an edit met its requests, by the shares of images that show each concept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from editing.audits.personalized.result import SubjectAudit
from editing.audits.prompt_groups import MEANT, PLACES, STYLES, concepts_of
from editing.generate.phrases import phrase
from editing.metrics.proportions import Proportion, proportion
from editing.requests import Request, changes_of
from visdiff.comparison.backends import Backends
from visdiff.encoders.zero_shot import nearest_text
from visdiff.imageset import ImageSet

_EDGE = 0.1
"""Largest distance from the wanted share at which a debiasing request counts as met."""


@dataclass(frozen=True)
class Outcome:
    """The result of one request, by zero-shot classification of the images of its prompts.

    Attributes:
        request: The request.
        sought: What is counted: the concept itself, its target, or an attribute.
        before: Share of the original model's images that show it.
        after: Share of the edited model's images that show it.
        wanted: "less", "more", or the requested share.
        met: "yes", "in part" or "no"; "unknown" if the original model shows it too rarely.
    """

    request: Request
    sought: str
    before: Proportion
    after: Proportion
    wanted: str | float
    met: str

    @classmethod
    def of(cls, request: Request, sought: str, before: Proportion, after: Proportion) -> "Outcome":
        """Returns the outcome that two shares amount to.

        "less" is met if at most a tenth of the share before is left, "more" if at least eight
        tenths of the images show it, and a wanted share within 0.1. "less" and "more" are met in
        part if the intervals of the two shares do not overlap and the change has the wanted
        direction; a wanted share, if the edit moved closer to it. "less" is unknown if even no
        image after the edit would be within the interval of the share before: what is hardly drawn
        cannot be seen to go.
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
        if wanted == "less" and proportion([False] * after.n).high >= before.low:
            met = "unknown"
        return cls(request, sought, before, after, wanted, met)


def evaluate_outcomes(
    requests: Sequence[Request],
    original: ImageSet,
    edited: ImageSet,
    by: str,
    models: Backends,
) -> list[Outcome]:
    """Classifies each request's images among the concepts of the audit, or among its attributes.

    Requests to learn a subject have `subject_outcomes`: the encoder does not know the identifier.

    Args:
        requests: The requests of the edit.
        original: Images of the unedited model.
        edited: Images of the edited model, in the same order.
        by: Column of the groups.
        models: Models of the comparison; the ranker's encoder classifies.

    Returns:
        The outcomes of each request; empty without an image encoder or the column.
    """
    changes = [r for r in changes_of(requests) if not r.noun]
    encoder = models.ranker.encoder
    features = models.features(original, edited)
    if not changes or encoder is None or features is None or by not in original.frame.columns:
        return []
    concepts = np.array(concepts_of(original), dtype=object)
    meant = np.isin(original.frame[by].astype(str).to_numpy(), MEANT)
    classes = classes_of(original, by, requests)
    outcomes: list[Outcome] = []
    for request in changes:
        rows = np.flatnonzero(meant & (concepts == request.concept))
        if not len(rows):
            continue
        options = list(request.ratios) or classes
        texts = encoder.encode_texts([phrase(o) for o in options])
        before = [options[i] for i in nearest_text(features[rows], texts)]
        after = [options[i] for i in nearest_text(features[len(original) + rows], texts)]
        outcomes += [
            Outcome.of(request, sought, _share(before, sought), _share(after, sought))
            for sought in request.sought
        ]
    return outcomes


def subject_outcomes(subjects: Sequence[SubjectAudit]) -> list[Outcome]:
    """Returns whether each taught subject is drawn, by its likeness to the references.

    Subjects without references have no outcome; their audit names what is missing.
    """
    return [
        Outcome.of(s.request, s.request.concept, s.recognised.before, s.recognised.after)
        for s in subjects
        if s.recognised is not None
    ]


def classes_of(original: ImageSet, by: str, requests: Sequence[Request]) -> list[str]:
    """Returns the concepts among which images are classified: those of the audit, and the targets.

    Args:
        original: Images of the unedited model.
        by: Column of the groups.
        requests: The requests of the edit.
    """
    concepts = np.array(concepts_of(original), dtype=object)
    groups = original.frame[by].astype(str).to_numpy()
    # Places and styles are no classes: a church on the grass shows both.
    things = concepts[~np.isin(groups, (PLACES, STYLES))]
    targets = [r.target for r in changes_of(requests)]
    return [c for c in dict.fromkeys([*things, *targets]) if c]


def _share(labels: Sequence[str], sought: str) -> Proportion:
    return proportion([label == sought for label in labels])
