"""The subjects of one training: their tokens, their groups, and what is shown of them."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from editing.personalize.data import Caption, Pictures, fixed_caption
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.subject import Subject
from visdiff.errors import InputError
from visdiff.imageset import ImageSet


def named_by_token(subject: Subject, config: PersonalizeConfig) -> Subject:
    """Returns the subject with a token of its own as identifier, if one is trained."""
    if not config.new_token:
        return subject
    # CLIP's tokenizers lower their input, so that a caption with "<Olis>" has the token. The
    # expansion of several vectors searches the text itself and needs the same spelling.
    name = subject.identifier.lower()
    return subject.renamed(name if name.startswith("<") else f"<{name}>")


def by_identifier(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """Returns the subjects in groups of one identifier: folders of the same subject."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.identifier, []).append(subject)
    if not groups:
        raise InputError("Expected at least one subject, got none; open one with Subject.open.")
    for identifier, group in groups.items():
        nouns = sorted({s.noun for s in group})
        if len(nouns) > 1:
            raise InputError(
                f"Expected one class noun for {identifier!r}, got {' and '.join(nouns)}; give each "
                "subject an identifier of its own."
            )
    return list(groups.values())


def token_notes(pipe: Any, subject: Subject, config: PersonalizeConfig) -> list[str]:
    """Returns notes on the identifier and the noun as tokens."""
    notes = []
    if config.new_token:
        notes.append(f"The subject is {subject.phrase!r} in prompts: the token is new.")
    else:
        pieces = pipe.tokenizer.tokenize(subject.identifier)
        if len(pieces) > 1:
            notes.append(
                f"The identifier {subject.identifier!r} is {len(pieces)} tokens "
                f"({' '.join(pieces)}), which prompts with these pieces share; a single rare token "
                "is better (visdiff personalize identifier)."
            )
    pieces = pipe.tokenizer.tokenize(subject.noun)
    if len(pieces) > 2 * len(subject.noun.split()):
        notes.append(
            f"The noun {subject.noun!r} is {len(pieces)} pieces for the model, which may not know "
            "it; name a more common class."
        )
    return notes


def pictures_of(group: Sequence[Subject], config: PersonalizeConfig) -> Pictures:
    """Returns the images of all folders of one subject."""
    phrase = group[0].phrase
    return Pictures(
        reduce(ImageSet.joined, [s.images for s in group]),
        [_caption(text, phrase, config.templates) for s in group for text in s.captions],
        phrase,
        [mask for s in group for mask in s.masks],
        [s.repeats for s in group for _ in range(len(s))],
        group[0].identifier,
    )


def _caption(text: str, phrase: str, templates: Sequence[str]) -> Caption:
    if text != phrase:
        return fixed_caption(text)
    return lambda rng: templates[int(rng.integers(len(templates)))].replace("{}", text)
