"""Edits of text-to-image diffusion models, each audited with `visdiff`.

The second half of the distribution. It changes models (closed-form concept edits, fine-tuned
erasure, personalisation) and then has `visdiff` say what the edit changed, meant or not.

    >>> import editing
    >>> edit = editing.fit(pipe, [editing.Erase("church")])  # doctest: +SKIP
    >>> edit.save("church.safetensors")  # doctest: +SKIP

The public names below are resolved on first use (PEP 562): ``import editing`` loads no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editing.audit import audit
    from editing.compose import compose
    from editing.concepts import Debias, Erase, Moderate, Preserve, Replace
    from editing.edit import Edit
    from editing.fit import add, fit, withdraw
    from editing.target import load_pipeline

__all__ = [
    "Debias",
    "Edit",
    "Erase",
    "Moderate",
    "Preserve",
    "Replace",
    "add",
    "audit",
    "compose",
    "fit",
    "load_pipeline",
    "withdraw",
]

_HOME = {
    "Debias": "editing.concepts",
    "Edit": "editing.edit",
    "Erase": "editing.concepts",
    "Moderate": "editing.concepts",
    "Preserve": "editing.concepts",
    "Replace": "editing.concepts",
    "add": "editing.fit",
    "audit": "editing.audit",
    "compose": "editing.compose",
    "fit": "editing.fit",
    "load_pipeline": "editing.target",
    "withdraw": "editing.fit",
}


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in and keep the name for the next time."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, resolved or not."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The type of this package's module object: `visdiff` explains why.

    ``audit``, ``compose`` and ``fit`` are functions, public, and the submodules that hold them.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
