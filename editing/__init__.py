"""Edits of text-to-image diffusion models, each audited with `visdiff`.

The second package of the distribution. It edits models (closed-form concept edits, fine-tuned
erasure, personalisation) and audits each edit with `visdiff`, which reports intended and unintended
changes.

    >>> import editing
    >>> edit = editing.fit(pipe, [editing.Erase("church")])  # doctest: +SKIP
    >>> edit.save("church.safetensors")  # doctest: +SKIP

The public names below are imported on first use (PEP 562): ``import editing`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editing.audits.audit import audit
    from editing.audits.prompt_groups import prompt_groups
    from editing.audits.report import AuditReport
    from editing.edit import Edit
    from editing.edit.compose import compose
    from editing.fitting import add, fit, withdraw
    from editing.methods.debias import Control, crossed, debias
    from editing.personalize import personalize
    from editing.personalize.subject import Subject
    from editing.pipelines.loading import load_pipeline
    from editing.pipelines.sampling import Settings
    from editing.requests import Debias, Erase, Learn, Moderate, Preserve, Replace

__all__ = [
    "AuditReport",
    "Control",
    "Debias",
    "Edit",
    "Erase",
    "Learn",
    "Moderate",
    "Preserve",
    "Replace",
    "Settings",
    "Subject",
    "add",
    "audit",
    "compose",
    "crossed",
    "debias",
    "fit",
    "load_pipeline",
    "personalize",
    "prompt_groups",
    "withdraw",
]

_HOME = {
    "AuditReport": "editing.audits.report",
    "Control": "editing.methods.debias",
    "Debias": "editing.requests",
    "Edit": "editing.edit",
    "Erase": "editing.requests",
    "Learn": "editing.requests",
    "Moderate": "editing.requests",
    "Preserve": "editing.requests",
    "Replace": "editing.requests",
    "Settings": "editing.pipelines.sampling",
    "Subject": "editing.personalize.subject",
    "add": "editing.fitting",
    "audit": "editing.audits.audit",
    "compose": "editing.edit.compose",
    "crossed": "editing.methods.debias",
    "debias": "editing.methods.debias",
    "fit": "editing.fitting",
    "load_pipeline": "editing.pipelines.loading",
    "personalize": "editing.personalize",
    "prompt_groups": "editing.audits.prompt_groups",
    "withdraw": "editing.fitting",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name and caches the name."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name])
    # `editing.personalize` is a package that can be called.
    value = module if module.__name__ == f"editing.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names; submodules are left out."""
    return sorted(__all__)
