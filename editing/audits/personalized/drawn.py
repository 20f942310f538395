"""The images of an audit that show a taught subject or its class noun, in pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

from editing.personalize.pictured import names_subject, without_identifier
from editing.requests import Request
from visdiff.errors import InputError
from visdiff.imageset import ImageSet


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images of one subject by both models. Images of one position share their noise.

    Attributes:
        taught: m images of the identifier's prompts by the taught model.
        original: m images of the same prompts by the untaught model.
        untaught: m images of the same prompts without the identifier by the untaught model.
        prompts: m prompts without the identifier.
        class_taught: k images of the class noun's prompts by the taught model.
        class_untaught: k images of them by the untaught model.
    """

    taught: ImageSet
    original: ImageSet
    untaught: ImageSet
    prompts: tuple[str, ...]
    class_taught: ImageSet
    class_untaught: ImageSet


def find_drawn(original: ImageSet, edited: ImageSet, request: Request) -> Drawn:
    """Returns the images of a subject and of its class noun among those of an audit.

    Args:
        original: Images of the untaught model, with the columns ``prompt`` and ``seed``.
        edited: Images of the taught model, in the same order.
        request: The request to learn the subject.

    Raises:
        InputError: No image of the identifier has a partner: an image of the same prompt without
            the identifier from the same seed.
    """
    keys = list(zip(original.frame["prompt"].astype(str), original.frame["seed"].astype(str),
                    strict=True))  # fmt: skip
    rows = {key: i for i, key in enumerate(keys)}
    pairs: list[tuple[int, int]] = []
    prompts: list[str] = []
    for i, (prompt, seed) in enumerate(keys):
        if names_subject(prompt, request.identifier):
            plain = without_identifier(prompt, request.identifier, [request.noun])
            if (partner := rows.get((plain, seed))) is not None:
                pairs.append((i, partner))
                prompts.append(plain)
    if not pairs:
        raise InputError(
            f"Expected images of {request.wording!r} and of the same prompts without the "
            "identifier from the same seeds, got none; use the prompts of "
            "editing.audits.prompt_groups."
        )
    own, partners = [list(column) for column in zip(*pairs, strict=True)]
    of_class = _distinct(partners)
    return Drawn(
        edited.subset(own), original.subset(own), original.subset(partners), tuple(prompts),
        edited.subset(of_class), original.subset(of_class),
    )  # fmt: skip


def _distinct(rows: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(rows))
