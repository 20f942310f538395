"""Editing methods, one file per paper, and their table of names."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.requests import Request
    from editing.settings import MethodConfig, RunConfig
    from editing.training import OnEvent

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
    """An editing method."""

    @property
    def name(self) -> str:
        """Name of the method in the table."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of requests that the method supports."""
        ...

    @property
    def inputs(self) -> frozenset[str]:
        """Arguments of `fit` besides requests and settings, such as "corpus"."""
        ...

    @property
    def config(self) -> "MethodConfig":
        """Its settings."""
        ...

    @property
    def run(self) -> "RunConfig":
        """Its settings that do not change the edit; `fit` takes them by name."""
        ...

    @property
    def fixed(self) -> frozenset[str]:
        """Settings that define the method and cannot be changed."""
        ...

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """Kind of model → settings that differ for it."""
        ...

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Checks settings, those of `config` and of `run`, before a pipeline is loaded.

        Raises:
            InputError: A setting is unknown, out of range, or fixed for this method.
        """
        ...

    def fit(
        self,
        pipe: Any,
        requests: "Sequence[Request]",
        /,
        *,
        on_event: "OnEvent | None" = None,
        **settings: Any,
    ) -> "Edit":
        """Returns an edit that meets the requests. The pipeline is not changed.

        Args:
            pipe: The pipeline.
            requests: The requests.
            on_event: Called with each event of a training (`editing.training`).
            **settings: Settings of the method.
        """
        ...


def names() -> list[str]:
    """Returns the names of all methods."""
    return list(_METHODS)


def check_name(name: str) -> None:
    """Checks the name of a method without importing it.

    Raises:
        InputError: The name is unknown.
    """
    if name not in _METHODS:
        close = difflib.get_close_matches(name.lower(), _METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"Expected the name of a method, got {name!r}{hint}; choose from {', '.join(_METHODS)}."
        )


def find(name: str) -> Method:
    """Returns a method by name.

    Raises:
        InputError: The name is unknown.
    """
    check_name(name)
    module, _, attribute = _METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def check_kinds(method: Method, requests: "Sequence[Request]", *alternatives: str) -> None:
    """Checks that a method supports the kind of every request.

    Args:
        method: The method.
        requests: The requests.
        *alternatives: Names of methods to suggest; the first that supports all requests is named.

    Raises:
        InputError: A request is not supported.
    """
    unsupported = next((r for r in requests if r.kind not in method.kinds), None)
    if unsupported is None:
        return
    kinds = {r.kind for r in requests}
    able = [n for n in alternatives if kinds <= find(n).kinds]
    raise InputError(
        f"Expected requests to {', '.join(sorted(method.kinds))} for {method.name}, which has no "
        f"{unsupported.kind} term, got {unsupported.describe()!r}; "
        f"{f'use {able[0]}' if able else 'fit it as a separate edit'}."
    )
