"""Personalisation: teach a subject to a text-to-image model, by one file a paper.

>>> import editing
>>> subject = editing.Subject.open("photos/my-dog", noun="dog")  # doctest: +SKIP
>>> edit = editing.personalize(pipe, subject, method="lora")  # doctest: +SKIP
>>> with edit.applied(pipe):  # doctest: +SKIP
...     image = pipe("a olis dog on the beach").images[0]
"""

import difflib
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from visdiff.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from editing.edit import Edit
    from editing.personalize.personalizer import Personalizer
    from editing.personalize.subject import Subject

_METHODS = {
    "custom-diffusion": "editing.personalize.custom_diffusion:CUSTOM_DIFFUSION",
    "dreambooth": "editing.personalize.dreambooth:DREAMBOOTH",
    "lora": "editing.personalize.lora:LORA",
    "svdiff": "editing.personalize.svdiff:SVDIFF",
    "textual-inversion": "editing.personalize.textual_inversion:TEXTUAL_INVERSION",
}


def names() -> list[str]:
    """Returns the names of all methods."""
    return list(_METHODS)


def find(name: str) -> "Personalizer":
    """Returns a method by name.

    Raises:
        InputError: The name is unknown.
    """
    if name not in _METHODS:
        close = difflib.get_close_matches(name.lower(), _METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"Expected a personalisation method, got {name!r}{hint}; choose from "
            f"{', '.join(_METHODS)}."
        )
    module, _, attribute = _METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def personalize(
    pipe: Any,
    subject: "Subject | Sequence[Subject]",
    method: str = "lora",
    prior: "str | Path | None" = None,
    **settings: Any,
) -> "Edit":
    """Teaches a subject to a model. The pipeline is not changed.

    Args:
        pipe: A pipeline of Stable Diffusion 1, 2, XL or (lora) 3 or Flux, or what
            `editing.load_pipeline` accepts.
        subject: The subject, or several that are taught together.
        method: One of `names`.
        prior: "none", "prompt", "structured", "teacher", or a folder or manifest with images of the
            class; None for the method's own.
        **settings: Further arguments of `editing.personalize.personalizer.Personalizer.fit`, and
            fields of `editing.personalize.settings.PersonalizeConfig`.

    Returns:
        The edit.

    Raises:
        InputError: As `Personalizer.fit`, or the method is unknown.
    """
    return find(method).fit(pipe, subject, prior=prior, **settings)


class _Callable(ModuleType):
    """The public function `editing.personalize` has the name of this package: both work."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Edit":
        return personalize(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
