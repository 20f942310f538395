"""Methods of editing, one file a paper; `find` knows them by name."""

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.requests import Request

_METHODS = {
    "all-but-one": "editing.methods.score.all_but_one:ALL_BUT_ONE",
    "concept-ablation": "editing.methods.score.concept_ablation:CONCEPT_ABLATION",
    "esd-u": "editing.methods.score.esd:ESD_U",
    "esd-x": "editing.methods.score.esd:ESD_X",
    "esd-x-strict": "editing.methods.score.esd:ESD_X_STRICT",
    "rece": "editing.methods.closed_form.rece:RECE",
    "time": "editing.methods.closed_form.time:TIME",
    "uce": "editing.methods.closed_form.uce:UCE",
    "uce-2024": "editing.methods.closed_form.uce:UCE_2024",
    "uce-2025": "editing.methods.closed_form.uce:UCE_2025",
}


class Method(Protocol):
    """What makes an edit of requests."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of requests that it takes."""
        ...

    def fit(self, pipe: Any, requests: "Sequence[Request]", /, **settings: Any) -> "Edit":
        """Returns an edit that meets the requests. The pipeline is only read."""
        ...


def names() -> list[str]:
    """Returns the names that `find` knows."""
    return list(_METHODS)


def find(name: str) -> Method:
    """Returns a method by name.

    Raises:
        InputError: There is none of that name.
    """
    if name not in _METHODS:
        close = difflib.get_close_matches(name.lower(), _METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"Expected a method, got {name!r}{hint}; choose from {', '.join(_METHODS)}."
        )
    module, _, attribute = _METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def check_kinds(method: Method, requests: "Sequence[Request]", *alternatives: str) -> None:
    """Makes sure that a method takes every kind of request.

    Args:
        method: The method.
        requests: What is asked of it.
        *alternatives: Methods to suggest, the first that takes all of the requests.

    Raises:
        InputError: It does not take one of them.
    """
    refused = next((r for r in requests if r.kind not in method.kinds), None)
    if refused is None:
        return
    asked = {r.kind for r in requests}
    able = [n for n in alternatives if asked <= find(n).kinds]
    raise InputError(
        f"Expected requests to {', '.join(sorted(method.kinds))} for {method.name}, which has no "
        f"{refused.kind} term, got {refused.describe()!r}; "
        f"{f'use {able[0]}' if able else 'make it an edit of its own'}."
    )
