"""Typed requests for an edit, and the validation of a list of them.

A concept is a phrase as it appears in a prompt ("church", "van gogh"). Requests of different kinds
may be combined in one list; they are solved together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from editing.requests.base import Request, normal
from editing.requests.kinds import Debias, Erase, Learn, Moderate, Preserve, Replace
from visdiff.errors import InputError

__all__ = [
    "KINDS",
    "Debias",
    "Erase",
    "Learn",
    "Moderate",
    "Preserve",
    "Replace",
    "Request",
    "changes_of",
    "checked",
    "from_dict",
    "normal",
    "preserved_of",
]

KINDS: dict[str, type[Request]] = {
    cls.kind: cls for cls in (Erase, Replace, Debias, Moderate, Preserve, Learn)
}
"""Name → class of every kind of request."""


def changes_of(requests: Sequence[Request]) -> list[Request]:
    """Returns the requests that change a concept."""
    return [r for r in requests if r.concept]


def preserved_of(requests: Sequence[Request]) -> tuple[str, ...]:
    """Returns the texts that requests preserve."""
    return tuple(text for r in requests for text in r.preserved)


def checked(requests: Sequence[Request]) -> tuple[Request, ...]:
    """Returns the requests without duplicates, after checking that they do not contradict.

    Raises:
        InputError: No request changes a concept; two requests change the same concept; a preserved
            concept is also changed; or a target or attribute is itself erased.
    """
    unique: list[Request] = []
    for request in requests:
        if type(request) not in KINDS.values():
            raise InputError(
                f"Expected requests ({', '.join(c.__name__ for c in KINDS.values())}), got "
                f"{type(request).__name__}; use the classes of editing.requests."
            )
        if request not in unique:
            unique.append(request)
    changes = changes_of(unique)
    if not changes:
        raise InputError(
            "Expected at least one concept to erase, replace, debias or moderate, got none; "
            "add one: an edit cannot consist of preserved concepts alone."
        )
    by_concept: dict[str, Request] = {}
    for request in changes:
        other = by_concept.setdefault(normal(request.concept), request)
        if other is not request:
            raise InputError(
                f"Expected one request per concept, got {other.describe()!r} and "
                f"{request.describe()!r}; they contradict each other: keep one."
            )
    for text in preserved_of(unique):
        if normal(text) in by_concept:
            raise InputError(
                f"Expected preserved concepts that no request changes, got {text!r}, which "
                f"{by_concept[normal(text)].describe()!r} changes; take it off the preserve list."
            )
    for request in changes:
        for text in (request.target, *request.ratios):
            other = by_concept.get(normal(text))
            if other is not None and other.removes:
                raise InputError(
                    f"Expected targets that stay in the model, got {request.describe()!r} together "
                    f"with {other.describe()!r}; they contradict each other: keep one."
                )
    return tuple(unique)


def from_dict(values: Mapping[str, Any]) -> Request:
    """Returns the request of a dictionary, from `Request.to_dict` or a table of a request file.

    Raises:
        InputError: The kind or a field is unknown, or a value is not valid.
    """
    kind = values.get("kind")
    cls = KINDS.get(str(kind))
    if cls is None:
        raise InputError(
            f"Expected a request of kind {', '.join(KINDS)}, got {kind!r}; correct it."
        )
    return cls.from_dict({k: v for k, v in values.items() if k != "kind"})
