"""Fits on the modules of a pipeline without wrappers."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from editing.edit import Edit
from editing.pipelines.wrappers import merged_adapters, plain_modules

S = TypeVar("S")
P = ParamSpec("P")


def on_plain_modules(
    fit: Callable[Concatenate[S, Any, P], Edit],
) -> Callable[Concatenate[S, Any, P], Edit]:
    """Returns a fit that finds all layers of a pipeline, whatever wraps them.

    Compiled modules and layers of fused LoRAs are replaced by the modules inside them during the
    fit. A fused LoRA is part of the base, and the diagnostics of the edit have a warning of it.

    Args:
        fit: (method, pipeline, …) → edit.
    """

    @wraps(fit)
    def run(self: S, pipe: Any, *args: P.args, **kwargs: P.kwargs) -> Edit:
        merged = merged_adapters(pipe)
        with plain_modules(pipe):
            edit = fit(self, pipe, *args, **kwargs)
        if not merged:
            return edit
        names = ", ".join(map(repr, merged))
        warning = f"The base includes the fused LoRA {names}: the edit is for that model only."
        warnings = [*edit.diagnostics.get("warnings", []), warning]
        return replace(edit, diagnostics={**edit.diagnostics, "warnings": warnings})

    return run
