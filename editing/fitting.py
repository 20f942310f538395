"""Requests in, Edit out: the one door to all methods, and to changing closed-form edits.

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
from visdiff.errors import InputError


def fit(pipe: Any, requests: Sequence[Request], method: str = "uce", **settings: Any) -> Edit:
    """Makes an edit that meets all requests at once. The pipeline is only read.

    Args:
        pipe: A diffusers pipeline of Stable Diffusion 1, 2 or XL, or what
            `editing.pipelines.loading.load_pipeline` takes.
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
    chosen, _ = _opened(edit)
    pipe = load_pipeline(pipe)
    edit.check_base(pipe)
    return chosen.amended(edit, pipe, [*edit.requests, *requests])


def withdraw(edit: Edit, requests: Sequence[Request]) -> Edit:
    """Returns the edit without some requests, exactly as if they had never been made.

    No pipeline is needed: what the text encoder said is in the ledger.

    Raises:
        InputError: The edit has no ledger, holds no such request, or nothing would be left.
    """
    chosen, ledger = _opened(edit)
    ledger.without(requests)  # Raises if it lacks one.
    kept = [r for r in edit.requests if r not in requests]
    if not changes_of(kept):
        raise InputError(
            "Expected requests to remain after the withdrawal, got none; leave the edit off "
            "instead."
        )
    return chosen.amended(edit, None, kept)


def _opened(edit: Edit) -> tuple[ClosedForm, Ledger]:
    chosen = find(edit.method) if edit.ledger is not None else None
    if edit.ledger is None or not isinstance(chosen, ClosedForm):
        raise InputError(
            f"Expected an edit with its ledger, got one of {edit.method} without; only closed-form "
            "edits as they were fitted (not scaled, composed or stripped) can be changed."
        )
    return chosen, edit.ledger
