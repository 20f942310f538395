"""Edits that are kept while a subject is learnt, so that the best step can be chosen afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from editing.edit import Edit
from editing.personalize.trained import Weights
from editing.training import Observer
from visdiff.errors import InputError


@dataclass(frozen=True)
class Keeping:
    """Which steps are kept, and where.

    Attributes:
        out: File of the finished edit, ``NAME.safetensors``. Step 200 is in
            ``NAME-000200.safetensors`` next to it. One of DreamBooth is as large as the denoiser.
        every: Steps between kept edits; the last step is kept as well.
    """

    out: Path
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(
                f"Expected kept edits every 1 or more steps, got {self.every}; correct it."
            )

    def path(self, step: int) -> Path:
        """Returns the file of a step."""
        return self.out.with_name(f"{self.out.stem}-{step:06d}.safetensors")


@dataclass(frozen=True)
class Kept:
    """The event after an edit was kept.

    Attributes:
        done: Completed steps.
        path: Its file.
    """

    done: int
    path: Path


def keeper(keeping: Keeping, edit_of: Callable[[Weights, int], Edit]) -> Observer:
    """Returns an observer that saves the edit of the current weights.

    Args:
        keeping: Which steps are kept.
        edit_of: (Weights, completed steps) → the edit.
    """

    def observe(done: int, weights: Weights) -> Kept | None:
        if not done:
            return None
        return Kept(done, edit_of(weights, done).save(keeping.path(done)))

    return Observer(keeping.every, observe)
