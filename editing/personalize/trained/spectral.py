"""Spectral shifts of layers (SVDiff).

Han et al., "SVDiff" (ICCV 2023), arXiv:2303.11305: W = U diag(σ) Vᵀ is decomposed once, and only
the shifts δ of U diag(ReLU(σ + δ)) Vᵀ are trained.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from editing.edit.deltas import Delta
from editing.edit.deltas import spectral_shift as shifts
from editing.personalize.trained.base import Trained, Weights
from editing.pipelines.substitute import Place, place_of, substituted

NormMode = Literal["scalar", "elementwise", "off"]
"""How one-dimensional weights of norms are shifted: as one singular value (the published code), one
an element (the paper's table of sizes), or not at all."""


def _key(name: str, place: Place) -> str:
    # Norms have a rate of their own, so their names begin alike.
    return f"norms.{name}.shift" if place.parameter.ndim == 1 else f"{name}.shift"


@dataclass(frozen=True, eq=False)
class _Layer:
    place: Place
    own: torch.Tensor
    mode: shifts.NormMode
    left: torch.Tensor
    sigma: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, place: Place, mode: shifts.NormMode) -> "_Layer":
        weight = place.parameter.detach()
        found = shifts.decompose(weight, mode)
        parts = (t.to(weight.device, torch.float32) for t in (found.u, found.sigma, found.vt))
        return cls(place, weight, mode, *parts)

    def weight(self, shift: torch.Tensor) -> torch.Tensor:
        """Returns W + U diag(ReLU(σ + δ) − σ) Vᵀ: exactly W for δ = 0."""
        # Not the place's own parameter: inside `substituted` that is the shifted weight.
        own = self.own
        gains = torch.relu(self.sigma + shift) - self.sigma
        if own.ndim == 1 and self.mode == "elementwise":
            return own.float() + self.left.diagonal() * gains
        return own.float() + ((self.left * gains) @ self.right).reshape(own.shape)


class SpectralShifts(Trained):
    """Shifts of singular values, one vector a layer.

    Args:
        pipe: The pipeline.
        names: Full names of weights of linear, convolution and norm layers.
        norm_mode: How weights of norms are shifted; "off" leaves them out.
    """

    def __init__(self, pipe: Any, names: Sequence[str], norm_mode: NormMode) -> None:
        mode: shifts.NormMode = "elementwise" if norm_mode == "elementwise" else "scalar"
        places = {name: place_of(pipe, name) for name in names}
        self._layers = {
            name: _Layer.of(place, mode)
            for name, place in places.items()
            if norm_mode != "off" or place.parameter.ndim > 1
        }
        self.changes_text = any(name.startswith("text_encoder") for name in self._layers)

    @property
    def initial(self) -> Weights:
        """``WEIGHT.shift`` (of norms ``norms.WEIGHT.shift``) → zeros, one a singular value."""
        return {
            _key(name, layer.place): torch.zeros_like(layer.sigma)
            for name, layer in self._layers.items()
        }

    @contextmanager
    def substituted(self, weights: Weights) -> Iterator[None]:
        """Lets the layers compute with shifted singular values."""
        places = {name: layer.place for name, layer in self._layers.items()}
        values = {
            name: layer.weight(weights[_key(name, layer.place)])
            for name, layer in self._layers.items()
        }
        with substituted(places, values):
            yield

    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns the shifts of each layer."""
        return tuple(
            shifts.SpectralShift(
                name, weights[_key(name, layer.place)].detach().float().cpu(), layer.mode
            )
            for name, layer in self._layers.items()
        )
