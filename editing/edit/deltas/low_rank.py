"""A low-rank change of one linear layer or convolution."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from editing.edit.deltas.base import Delta
from editing.linear import Tensor


@dataclass(frozen=True, eq=False)
class LowRank(Delta):
    """W ← W + up · down, for one linear layer or convolution.

    A weight of a convolution is the matrix (out, in · h · w).

    Attributes:
        name: Full name of the tensor.
        up: Shape (out, rank).
        down: Shape (rank, in), or (rank, in · h · w).
        scale: Factor on the change.
    """

    form: ClassVar[str] = "low rank"
    standalone: ClassVar[bool] = True

    name: str
    up: Tensor
    down: Tensor
    scale: float = 1.0

    def names(self) -> tuple[str, ...]:
        """Returns the full name of the one tensor that is changed."""
        return (self.name,)

    def factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (up, down), float64."""
        return self.up.to(torch.float64) * self.scale, self.down.to(torch.float64)

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of the tensor, float64, in its shape."""
        up, down = self.factors(name, weight)
        product = up @ down
        # Of another size: the caller compares the shapes.
        return product.reshape(weight.shape) if product.numel() == weight.numel() else product

    def scaled(self, factor: float) -> Self:
        """Returns the change times a factor."""
        return replace(self, scale=self.scale * factor)

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the JSON header and the tensors."""
        header = {"name": self.name, "scale": self.scale}
        return header, {"up": self.up, "down": self.down}

    @classmethod
    def unpack(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Returns the change that `pack` serialised."""
        return cls(header["name"], tensors["up"], tensors["down"], float(header["scale"]))
