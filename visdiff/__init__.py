"""Describes how one set of images differs from another, in sentences and with statistics.

    >>> import visdiff
    >>> report = visdiff.compare("photos/before", "photos/after")  # doctest: +SKIP
    >>> print(report.verdict)  # doctest: +SKIP

The public names below are imported on first use (PEP 562), so that ``import visdiff`` takes
milliseconds and does not import numpy or torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visdiff.comparison.compare import compare
    from visdiff.config import Config
    from visdiff.imageset import ImageSet
    from visdiff.recipes.classifier_failures import classifier_failures
    from visdiff.results import Difference, DifferenceReport, Hypothesis

__version__ = "0.2.0"

__all__ = [
    "Config",
    "Difference",
    "DifferenceReport",
    "Hypothesis",
    "ImageSet",
    "__version__",
    "classifier_failures",
    "compare",
]

_HOME = {
    "Config": "visdiff.config",
    "Difference": "visdiff.results",
    "DifferenceReport": "visdiff.results",
    "Hypothesis": "visdiff.results",
    "ImageSet": "visdiff.imageset",
    "classifier_failures": "visdiff.recipes.classifier_failures",
    "compare": "visdiff.comparison.compare",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names; submodules are left out."""
    return sorted(__all__)
