"""A full change of one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from editing.edit.deltas.base import Delta
from editing.linear import Tensor


@dataclass(frozen=True, eq=False)
class Full(Delta):
    """W ← W + delta, for a tensor of any shape.

    Attributes:
        name: Full name of the tensor.
        difference: The change, in the shape of the tensor.
        scale: Factor on the change.
    """

    form: ClassVar[str] = "full"
    standalone: ClassVar[bool] = True

    name: str
    difference: Tensor
    scale: float = 1.0

    def names(self) -> tuple[str, ...]:
        """Returns the full name of the one tensor that is changed."""
        return (self.name,)

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of the tensor, float64, in its shape."""
        return self.difference.to(torch.float64) * self.scale

    def scaled(self, factor: float) -> Self:
        """Returns the change times a factor."""
        return replace(self, scale=self.scale * factor)

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the JSON header and the tensors."""
        header = {"name": self.name, "scale": self.scale}
        return header, {"difference": self.difference}

    @classmethod
    def unpack(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Returns the change that `pack` serialised."""
        return cls(header["name"], tensors["difference"], float(header["scale"]))
