"""Whole tensors: all weights of a component (DreamBooth), or some layers (Custom Diffusion)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from editing.edit.deltas import Delta, Full
from editing.personalize.trained.base import Trained, Weights
from editing.pipelines.substitute import place_of, substituted


class Whole(Trained):
    """Tensors that are trained as they are.

    Args:
        pipe: The pipeline.
        names: Full names of the tensors ("unet.….weight").

    Raises:
        InputError: The pipeline lacks one of them.
    """

    def __init__(self, pipe: Any, names: Sequence[str]) -> None:
        self._places = {name: place_of(pipe, name) for name in names}
        # Kept here: inside `substituted`, the places hold the trained tensors.
        self._own = {name: place.parameter.detach() for name, place in self._places.items()}
        self.changes_text = any(name.startswith("text_encoder") for name in names)

    @property
    def initial(self) -> Weights:
        """Name → the pipeline's own tensor."""
        return self._own

    def substituted(self, weights: Weights) -> AbstractContextManager[None]:
        """Returns a context in which the tensors are replaced."""
        return substituted(self._places, weights)

    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns the difference of each tensor, float32."""
        return tuple(
            Full(name, (weights[name].detach().float() - value.float()).cpu())
            for name, value in self.initial.items()
        )
