"""Requests in, Edit out: the one door to all methods, and to changing closed-form edits.

>>> import editing
>>> edit = editing.fit(pipe, [editing.Erase("church")])  # doctest: +SKIP
>>> with edit.applied(pipe):  # doctest: +SKIP
...     image = pipe("a church").images[0]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from editing.changes import SharedMap
from editing.concepts import Preserve, Request, checked
from editing.diagnostics import diagnose
from editing.edit import Edit
from editing.ledger import Ledger
from editing.methods import find
from editing.methods.closed_form import ClosedForm
from editing.settings import LinearConfig
from editing.target import Projection, load_pipeline, projections
from visdiff.errors import InputError


def fit(pipe: Any, requests: Sequence[Request], method: str = "uce", **settings: Any) -> Edit:
    """Makes an edit that meets all requests at once. The pipeline is only read.

    Args:
        pipe: A diffusers pipeline of Stable Diffusion 1, 2 or XL, or what
            `editing.target.load_pipeline` takes.
        requests: Erase, Replace, Debias, Moderate and Preserve, in any mixture.
        method: One of `editing.methods.names`, such as "uce", "uce-2024", "uce-2025", "time" or
            "rece".
        **settings: The method's own; for the closed forms those of
            `editing.methods.closed_form.ClosedForm.fit` and `editing.settings.LinearConfig`.

    Returns:
        The edit; of a closed form, with its ledger and diagnostics.

    Raises:
        InputError: There is no such method, requests contradict each other, a concept has no
            tokens, a setting is not sound, or the pipeline has nothing that reads text.
    """
    return find(method).fit(pipe, requests, **settings)


def add(edit: Edit, pipe: Any, requests: Sequence[Request]) -> Edit:
    """Returns the edit with more requests, exactly as if all had been asked for at once.

    Args:
        edit: An edit with its ledger.
        pipe: The unedited pipeline that it was fitted to, to read the new concepts.
        requests: What is asked for besides.

    Raises:
        InputError: The edit has no ledger, the base is another, or the requests contradict.
    """
    ledger, chosen, settings = _opened(edit)
    pipe = load_pipeline(pipe)
    edit.check_base(pipe)
    added = checked([*edit.requests, *requests])[len(edit.requests) :]
    chosen.check(added)
    ledger = ledger.with_entries(chosen.entries(pipe, added, settings))
    return _again(edit, ledger, (*edit.requests, *added), chosen, settings, projections(pipe))


def withdraw(edit: Edit, requests: Sequence[Request]) -> Edit:
    """Returns the edit without some requests, exactly as if they had never been made.

    No pipeline is needed: what the text encoder said is in the ledger.

    Raises:
        InputError: The edit has no ledger, holds no such request, or nothing would be left.
    """
    ledger, chosen, settings = _opened(edit)
    ledger = ledger.without(requests)
    kept = tuple(r for r in edit.requests if r not in requests)
    if all(isinstance(r, Preserve) for r in kept):
        raise InputError(
            "Expected requests to remain after the withdrawal, got none; leave the edit off "
            "instead."
        )
    layers = tuple(p for c in edit.changes if isinstance(c, SharedMap) for p in c.layers)
    return _again(edit, ledger, kept, chosen, settings, layers)


def _opened(edit: Edit) -> tuple[Ledger, ClosedForm, LinearConfig]:
    chosen = find(edit.method) if edit.ledger is not None else None
    if edit.ledger is None or not isinstance(chosen, ClosedForm):
        raise InputError(
            f"Expected an edit with its ledger, got one of {edit.method} without; only closed-form "
            "edits as they were fitted (not scaled, composed or stripped) can be changed."
        )
    return edit.ledger, chosen, LinearConfig(**edit.config)


def _again(
    edit: Edit,
    ledger: Ledger,
    requests: tuple[Request, ...],
    chosen: ClosedForm,
    settings: LinearConfig,
    layers: Sequence[Projection],
) -> Edit:
    changes, solutions = chosen.solve(ledger, settings, layers)
    # Which tokens stand for a concept and what lies near it is known only where it was encoded.
    found = diagnose(ledger, solutions)
    shown: Mapping[str, Any] = edit.diagnostics.get("tokens", {})
    concepts = {r.concept for r in requests if not isinstance(r, Preserve)}
    found["tokens"] = {c: t for c, t in shown.items() if c in concepts}
    return replace(edit, requests=requests, changes=changes, ledger=ledger, diagnostics=found)
