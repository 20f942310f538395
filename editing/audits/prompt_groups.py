"""The prompts that an edit is audited with, built from what the edit was asked for.

An audit looks where side effects hide: at other wordings of what was changed, at what is near it in
the text encoder, at what was to be preserved, at things that have nothing to do with it, and at the
empty prompt, whose drift guidance multiplies.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editing.generate.phrases import bare, own_seed, phrase
from editing.generate.prompts import Sample
from editing.pipelines.text import neighbours
from editing.requests import Request, changes_of, normal, preserved_of
from visdiff.imageset import ImageSet

TARGETS = "targets"
PARAPHRASES = "paraphrases"
NEIGHBOURS = "neighbours"
PRESERVED = "preserved"
THINGS = "things"
PEOPLE = "people"
PLACES = "places"
STYLES = "styles"
EMPTY = "empty prompt"

MEANT = (TARGETS, PARAPHRASES)
"""The groups that the edit was asked to change."""

MOST_NEIGHBOURS = 24
"""Nearest words that are looked at, over all changed concepts."""

WORDINGS = (
    "a picture of {}",
    "{} in the snow",
    "{} at night",
    "{} on the grass",
    "a pencil sketch of {}",
    "{} next to a house",
)
"""Paraphrases: the concept in the middle of other things, {} where it stands."""

ELSEWHERE: Mapping[str, tuple[tuple[str, str], ...]] = {
    THINGS: (
        ("penguin", "a penguin"),
        ("bicycle", "a bicycle"),
        ("apple", "an apple"),
        ("castle", "a castle"),
        ("guitar", "a guitar"),
        ("clock", "a clock"),
    ),
    PEOPLE: (
        ("farmer", "a farmer"),
        ("teacher", "a teacher"),
        ("cook", "a cook"),
        ("judge", "a judge"),
    ),
    PLACES: (
        ("grass", "a robot on the grass"),
        ("snow", "a robot in the snow"),
        ("night", "a robot at night"),
        ("sand", "a robot on the sand"),
    ),
    STYLES: (
        ("pencil sketch", "a pencil sketch of a rose"),
        ("sepia photo", "a sepia photo of a rose"),
        ("pop art", "pop art of a rose"),
        ("pixel art", "pixel art of a rose"),
    ),
}
"""Group → concepts and prompts that most edits have nothing to do with. Few prompts a group: each
shall have enough images for a change of it alone to be told."""


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind.

    Attributes:
        name: One of the names above, or the user's own.
        prompts: Distinct prompts, one or more.
        concepts: What each prompt names; "" for nothing in particular.
    """

    name: str
    prompts: tuple[str, ...]
    concepts: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, name: str, pairs: Iterable[tuple[str, str]]) -> "PromptGroup":
        """Makes a group of (concept, prompt) pairs; of equal prompts the first counts."""
        distinct = {prompt: concept for concept, prompt in reversed(list(pairs))}
        ordered = dict(reversed(distinct.items()))
        return cls(name, tuple(ordered), tuple(ordered.values()))


def prompt_groups(
    pipe: Any,
    requests: Sequence[Request],
    *,
    near: Sequence[str] = (),
    count: int = 4,
    elsewhere: Mapping[str, Sequence[tuple[str, str]]] = ELSEWHERE,
) -> list[PromptGroup]:
    """Builds the groups of an edit; those that would be empty are left out.

    Args:
        pipe: The unedited pipeline; its text encoder says what is near.
        requests: What the edit was asked for.
        near: Neighbours that the user names, besides the nearest words of the encoder.
        count: Nearest words a changed concept.
        elsewhere: Group → concepts and prompts to look at beside; those that the edit changes, and
            its targets, are left out.
    """
    changes, kept = changes_of(requests), preserved_of(requests)
    meant = {bare(c.concept) for c in changes}
    named = {bare(text) for request in requests for text in request.named}
    nearest = [word for c in changes for word in neighbours(pipe, c.concept, count)]
    words = dict.fromkeys([*near, *nearest[:MOST_NEIGHBOURS]])
    beside = [w for w in words if bare(w) not in named]
    taken = named | {bare(w) for w in beside}
    groups = [
        PromptGroup.of(TARGETS, ((c.concept, phrase(c.concept)) for c in changes)),
        PromptGroup.of(
            PARAPHRASES,
            ((c.concept, w.replace("{}", phrase(c.concept))) for c in changes for w in WORDINGS),
        ),
        PromptGroup.of(NEIGHBOURS, ((w, phrase(w)) for w in beside)),
        PromptGroup.of(PRESERVED, ((t, phrase(t)) for t in kept if bare(t) not in meant)),
        *(
            PromptGroup.of(
                name,
                ((c, p) for c, p in pairs if bare(c) not in taken and not _names(p, meant)),
            )
            for name, pairs in elsewhere.items()
        ),
        PromptGroup(EMPTY, ("",), ("",)),
    ]
    return [group for group in groups if group.prompts]


def samples_of(groups: Sequence[PromptGroup], images: int, seed: int = 0) -> list[Sample]:
    """Crosses each group's prompts with as many seeds as give it enough images.

    Every prompt has seeds of its own, which its words determine. Equal noise gives prompts equal
    backgrounds: with common seeds, pairs would not be as many independent ones as a test counts.

    Args:
        groups: The prompts.
        images: Fewest images a group; each prompt has two seeds or more, since the distance between
            seeds is what drift is measured in.
        seed: Shifts all seeds.

    Returns:
        Samples whose columns "group" and "concept" say what they are for.
    """
    samples = []
    for group in groups:
        count = max(2, math.ceil(images / len(group.prompts)))
        for prompt, concept in zip(group.prompts, group.concepts, strict=True):
            columns = {"group": group.name, "concept": concept}
            first = seed + own_seed(prompt)
            samples += [Sample(prompt, s, None, columns) for s in range(first, first + count)]
    return samples


def concepts_of(images: ImageSet) -> list[str]:
    """Returns the concept of each image, "" where its manifest names none."""
    if "concept" not in images.frame.columns:
        return [""] * len(images)
    return [c if isinstance(c, str) else "" for c in images.frame["concept"]]


def _names(prompt: str, concepts: Iterable[str]) -> bool:
    """Whether a prompt says one of the concepts, as whole words."""
    return any(f" {concept} " in f" {normal(prompt)} " for concept in concepts)
