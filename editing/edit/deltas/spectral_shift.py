"""A shift of the singular values of one tensor: SVDiff.

Han et al., "SVDiff: Compact Parameter Space for Diffusion Fine-Tuning" (ICCV 2023),
arXiv:2303.11305.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

import torch

from editing.edit.deltas.base import Delta
from editing.edit.spectrum import Singular, singular
from editing.linear import Tensor
from visdiff.errors import InputError

NormMode = Literal["scalar", "elementwise"]
"""How a vector, such as the weight of a norm layer, is shifted: as a whole, or by element."""


@dataclass(frozen=True, eq=False)
class SpectralShift(Delta):
    """W = U diag(σ) Vᵀ ← U diag(ReLU(σ + scale · shift)) Vᵀ, for one tensor (equation 2).

    A weight of a convolution is the matrix (out, in · h · w). A vector w, such as the weight of a
    norm layer, is a matrix of one row ("scalar": σ = ‖w‖), or of independent elements
    ("elementwise": σ is the size of each element).

    Because of the ReLU the change is linear in the scale only while no singular value reaches 0.

    Attributes:
        name: Full name of the tensor.
        shift: Shape (k,): min(out, in · h · w) for a matrix; for a vector of n elements, 1 or n.
        norm_mode: How a vector is shifted; without effect on a matrix.
        scale: Factor on the shift.
    """

    form: ClassVar[str] = "spectral shift"

    name: str
    shift: Tensor
    norm_mode: NormMode = "scalar"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.norm_mode not in get_args(NormMode):
            raise InputError(
                f"Expected a norm mode, got {self.norm_mode!r}; use one of "
                f"{', '.join(get_args(NormMode))}."
            )

    def names(self) -> tuple[str, ...]:
        """Returns the full name of the one tensor that is changed."""
        return (self.name,)

    def factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (up, down), float64, whose product is the change of the weight as a matrix."""
        found = decompose(weight, self.norm_mode)
        return found.u * self._gains(found.sigma), found.vt

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of the tensor, float64, in its shape."""
        if weight.ndim == 1 and self.norm_mode == "elementwise":
            value = weight.detach().to(device="cpu", dtype=torch.float64)
            sign = torch.where(value < 0, -1.0, 1.0).to(torch.float64)
            return sign * self._gains(value.abs())
        up, down = self.factors(name, weight)
        return (up @ down).reshape(weight.shape)

    def _gains(self, sigma: Tensor) -> Tensor:
        """Returns ReLU(σ + scale · shift) − σ."""
        if self.shift.shape != sigma.shape:
            raise InputError(
                f"Expected {len(sigma)} spectral shifts of {self.name}, got shape "
                f"{tuple(self.shift.shape)}; apply them to the model that they were fitted to."
            )
        shift = self.shift.detach().to(device="cpu", dtype=torch.float64)
        return torch.relu(sigma + self.scale * shift) - sigma

    def scaled(self, factor: float) -> Self:
        """Returns the change with its shift times a factor."""
        return replace(self, scale=self.scale * factor)

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the JSON header and the tensors."""
        header = {"name": self.name, "norm_mode": self.norm_mode, "scale": self.scale}
        return header, {"shift": self.shift}

    @classmethod
    def unpack(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Returns the change that `pack` serialised."""
        return cls(header["name"], tensors["shift"], header["norm_mode"], float(header["scale"]))


def decompose(weight: Tensor, norm_mode: NormMode = "scalar") -> Singular:
    """Returns U, σ, Vᵀ of a weight as `SpectralShift` uses them.

    Args:
        weight: Of any shape with at least one dimension.
        norm_mode: How a vector w is seen: one row ("scalar"), or a diagonal matrix
            ("elementwise").

    Returns:
        For a matrix or a convolution, `editing.edit.spectrum.singular`. For a vector of n elements,
        u is (1, 1) and vt (1, n) for "scalar"; u is the (n, n) diagonal matrix of signs and vt the
        identity for "elementwise".
    """
    if weight.ndim != 1:
        return singular(weight)
    value = weight.detach().to(device="cpu", dtype=torch.float64)
    if norm_mode == "elementwise":
        sign = torch.where(value < 0, -1.0, 1.0).to(torch.float64)
        return Singular(torch.diag(sign), value.abs(), torch.eye(len(value), dtype=torch.float64))
    size = value.norm()
    direction = value / size if float(size) > 0 else torch.zeros_like(value)
    one = torch.ones(1, 1, dtype=torch.float64)
    return Singular(one, size[None], direction[None])
