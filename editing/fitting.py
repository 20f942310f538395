"""The public functions that fit an edit, and that change the requests of a closed-form edit.

>>> import editing
>>> edit = editing.fit(pipe, [editing.Erase("church")])  # doctest: +SKIP
>>> with edit.applied(pipe):  # doctest: +SKIP
...     image = pipe("a church").images[0]
"""

from collections.abc import Sequence
from typing import Any

from editing.edit import Edit
from editing.edit.ledger import Ledger
from editing.methods import find
from editing.methods.closed_form import ClosedForm
from editing.pipelines.loading import load_pipeline
from editing.requests import Request, changes_of
from editing.training import OnEvent
from visdiff.errors import InputError


def fit(
    pipe: Any,
    requests: Sequence[Request],
    method: str = "uce",
    *,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Edit:
    """Returns an edit that meets all requests at once. The pipeline is not changed.

    Args:
        pipe: A diffusers pipeline of Stable Diffusion 1, 2 or XL, or what
            `editing.pipelines.loading.load_pipeline` accepts.
        requests: Any combination of Erase, Replace, Debias, Moderate and Preserve.
        method: One of `editing.methods.names`, such as "uce" or "esd-x".
        on_event: Called with each event of a training (`editing.training`).
        **settings: Settings of the method; for the closed forms those of
            `editing.methods.closed_form.ClosedForm.fit` and `editing.settings.LinearConfig`.

    Returns:
        The edit; that of a closed form has a ledger and diagnostics.

    Raises:
        InputError: The method is unknown, requests contradict each other, a concept has no tokens,
            a setting is invalid, or the pipeline has no text-conditioned layers.
    """
    return find(method).fit(pipe, requests, on_event=on_event, **settings)


def add(edit: Edit, pipe: Any, requests: Sequence[Request]) -> Edit:
    """Returns the edit with more requests, exactly as if all had been fitted at once.

    Args:
        edit: An edit with a ledger.
        pipe: The unedited pipeline that it was fitted to; it encodes the new concepts.
        requests: Additional requests.

    Raises:
        InputError: The edit has no ledger, the base differs, or requests contradict each other.
    """
    closed_form, _ = _open_ledger(edit)
    pipe = load_pipeline(pipe)
    edit.check_base(pipe)
    return closed_form.amend(edit, pipe, [*edit.requests, *requests])


def withdraw(edit: Edit, requests: Sequence[Request]) -> Edit:
    """Returns the edit without some requests, exactly as if fitted without them.

    No pipeline is needed, because the ledger stores the text vectors.

    Args:
        edit: An edit with a ledger.
        requests: Requests of the edit to remove.

    Raises:
        InputError: The edit has no ledger, lacks one of the requests, or none would remain.
    """
    closed_form, ledger = _open_ledger(edit)
    ledger.without(requests)  # Raises if one is missing.
    remaining = [r for r in edit.requests if r not in requests]
    if not changes_of(remaining):
        raise InputError(
            "Expected requests to remain after the withdrawal, got none; do not apply the edit "
            "instead."
        )
    return closed_form.amend(edit, None, remaining)


def _open_ledger(edit: Edit) -> tuple[ClosedForm, Ledger]:
    closed_form = find(edit.method) if edit.ledger is not None else None
    if edit.ledger is None or not isinstance(closed_form, ClosedForm):
        raise InputError(
            f"Expected an edit with its ledger, got one of {edit.method} without; use a "
            "closed-form edit as it was fitted, not scaled, composed or stripped."
        )
    return closed_form, edit.ledger
