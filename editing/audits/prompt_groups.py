"""The prompts that an edit is audited with, derived from its requests.

An audit covers the prompts where side effects are likely: paraphrases of the changed concepts,
their neighbours in the text encoder, preserved concepts, unrelated concepts, and the empty prompt,
whose drift is multiplied by classifier-free guidance.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from editing.generate.phrases import own_seed, phrase, strip_determiner
from editing.generate.prompts import Sample
from editing.personalize.pictured import names_subject, without_identifier
from editing.pipelines.text import neighbours
from editing.requests import Request, changes_of, normal, preserved_of
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

TARGETS = "targets"
PARAPHRASES = "paraphrases"
CLASS = "class noun"
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
"""Most neighbours taken from the text encoder, over all changed concepts."""

WORDINGS = (
    "a picture of {}",
    "{} in the snow",
    "{} at night",
    "{} on the grass",
    "a pencil sketch of {}",
    "{} next to a house",
)
"""Templates of paraphrases; {} stands for the concept."""

CONTEXTS = (
    "{}",
    "a picture of {}",
    "{} in the snow",
    "{} at night",
    "{} on the grass",
    "a pencil sketch of {}",
    "pop art of {}",
    "{} next to a house",
)
"""Templates of the prompts of a taught subject and of its class noun. There are at least two places
and two styles, so that whether a prompt is followed can be measured."""

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
"""Group → (concept, prompt) pairs that are unrelated to most edits. Groups are small so that each
prompt has enough images for a change of that prompt alone to be detected."""


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind.

    Attributes:
        name: One of the names above, or a name given by the user.
        prompts: Distinct prompts, one or more.
        concepts: The concept of each prompt; "" for none.
        seeds_of: Prompt → prompt whose seeds it shares; its own seeds for the others.
    """

    name: str
    prompts: tuple[str, ...]
    concepts: tuple[str, ...] = field(default=())
    seeds_of: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, pairs: Iterable[tuple[str, str]]) -> "PromptGroup":
        """Creates a group from (concept, prompt) pairs; of equal prompts the first is used."""
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
    """Builds the prompt groups of an edit, each prompt in one of them; empty groups are left out.

    A subject that was taught is asked for in several contexts, and its class noun in the same ones
    from the same noise: what the noun draws now is the language drift, and what the untaught model
    draws for it is what the subject's images are compared with.

    Args:
        pipe: The unedited pipeline; its text encoder determines the neighbours.
        requests: The requests of the edit.
        near: Neighbours named by the user, in addition to the nearest words of the encoder.
        count: Nearest words per changed concept.
        elsewhere: Group → (concept, prompt) pairs of unrelated prompts; concepts that the edit
            changes or uses as targets are left out.
    """
    changes, preserved = changes_of(requests), preserved_of(requests)
    taught = [c for c in changes if c.noun]
    others = [c for c in changes if not c.noun]
    meant = {strip_determiner(text) for c in changes for text in (c.concept, c.noun) if text}
    named = {strip_determiner(text) for request in requests for text in request.named}
    # The identifier means nothing to the unedited encoder.
    nearest = [word for c in changes for word in neighbours(pipe, c.noun or c.concept, count)]
    words = dict.fromkeys([*near, *nearest[:MOST_NEIGHBOURS]])
    near_words = [w for w in words if strip_determiner(w) not in named]
    taken = named | {strip_determiner(w) for w in near_words}
    groups = [
        PromptGroup.of(
            TARGETS,
            [
                *((c.concept, phrase(c.concept)) for c in others),
                *((c.concept, w.replace("{}", c.wording)) for c in taught for w in CONTEXTS),
            ],
        ),
        PromptGroup.of(
            PARAPHRASES,
            ((c.concept, w.replace("{}", phrase(c.concept))) for c in others for w in WORDINGS),
        ),
        PromptGroup.of(
            CLASS, ((c.noun, w.replace("{}", phrase(c.noun))) for c in taught for w in CONTEXTS)
        ),
        PromptGroup.of(NEIGHBOURS, ((w, phrase(w)) for w in near_words)),
        PromptGroup.of(
            PRESERVED, ((t, phrase(t)) for t in preserved if strip_determiner(t) not in meant)
        ),
        *(
            PromptGroup.of(
                name,
                (
                    (c, p)
                    for c, p in pairs
                    if strip_determiner(c) not in taken and not _mentions(p, meant)
                ),
            )
            for name, pairs in elsewhere.items()
        ),
        PromptGroup(EMPTY, ("",), ("",)),
    ]
    return share_noise([group for group in _once(groups) if group.prompts], requests)


def share_noise(groups: Sequence[PromptGroup], requests: Sequence[Request]) -> list[PromptGroup]:
    """Returns the groups with the seeds of "a dog" for "a olis dog", so that they can be compared.

    Args:
        groups: The prompts.
        requests: The requests of the edit; those without an identifier change nothing.
    """
    return [
        replace(
            group,
            seeds_of={
                prompt: without_identifier(prompt, r.identifier, [r.noun])
                for prompt in group.prompts
                for r in requests
                if r.identifier and names_subject(prompt, r.identifier)
            },
        )
        for group in groups
    ]


def samples_of(groups: Sequence[PromptGroup], images: int, seed: int = 0) -> list[Sample]:
    """Crosses each group's prompts with enough seeds for the wanted number of images.

    Every prompt has its own seeds, derived from its text, or those of the prompt that
    `PromptGroup.seeds_of` names. Within a group, equal noise gives similar backgrounds, so
    with common seeds the pairs would not be independent, as the tests assume.

    Args:
        groups: The prompts.
        images: Fewest images per group. Each prompt has at least two seeds, since drift is measured
            in units of the distance between seeds.
        seed: Added to all seeds.

    Returns:
        Samples with the columns "group" and "concept".

    Raises:
        InputError: A prompt is in two groups.
    """
    owners: dict[str, str] = {}
    for group in groups:
        for prompt in group.prompts:
            if owners.setdefault(prompt, group.name) != group.name:
                # Both would have the same seeds, and pairs are found by prompt and seed.
                raise InputError(
                    f"Expected each prompt in one group, got {prompt!r} in {owners[prompt]} and in "
                    f"{group.name}; leave it out of one of them."
                )
    samples = []
    for group in groups:
        count = max(2, math.ceil(images / len(group.prompts)))
        for prompt, concept in zip(group.prompts, group.concepts, strict=True):
            columns = {"group": group.name, "concept": concept}
            first = seed + own_seed(group.seeds_of.get(prompt, prompt))
            samples += [Sample(prompt, s, None, columns) for s in range(first, first + count)]
    return samples


def concepts_of(images: ImageSet) -> list[str]:
    """Returns the concept of each image; "" if the manifest names none."""
    if "concept" not in images.frame.columns:
        return [""] * len(images)
    return [c if isinstance(c, str) else "" for c in images.frame["concept"]]


def _once(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """Returns the groups with each prompt in the first one that has it.

    Texts of requests come first: "church at night" may be preserved, and a paraphrase of "church".
    """
    owners: dict[str, str] = {}
    for group in sorted(groups, key=lambda g: g.name not in (TARGETS, PRESERVED)):
        owners = dict.fromkeys(group.prompts, group.name) | owners
    return [
        PromptGroup.of(
            group.name,
            (
                (concept, prompt)
                for concept, prompt in zip(group.concepts, group.prompts, strict=True)
                if owners[prompt] == group.name
            ),
        )
        for group in groups
    ]


def _mentions(prompt: str, concepts: Iterable[str]) -> bool:
    """Returns whether a prompt contains one of the concepts, as whole words."""
    return any(f" {concept} " in f" {normal(prompt)} " for concept in concepts)
