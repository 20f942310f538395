"""What a personalisation trains: whole tensors, low-rank changes, spectral shifts, token rows."""

from editing.personalize.trained.base import Together, Trained, Weights
from editing.personalize.trained.full import Whole
from editing.personalize.trained.low_rank import Adapters, DoraAdapters
from editing.personalize.trained.spectral import SpectralShifts
from editing.personalize.trained.token_rows import TokenRows

__all__ = [
    "Adapters",
    "DoraAdapters",
    "SpectralShifts",
    "Together",
    "TokenRows",
    "Trained",
    "Weights",
    "Whole",
]
