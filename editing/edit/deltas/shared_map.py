"""One map of text vectors for all layers: the change of closed-form edits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from editing.edit.deltas.base import Delta
from editing.linear import LinearMap, Tensor
from editing.pipelines.weights import Projection


@dataclass(frozen=True, eq=False)
class SharedMap(Delta):
    """W ← W M for every layer of one space (`editing.linear.LinearMap`).

    Attributes:
        layers: The layers, in the order of the map's gains.
        map: M.
        scale: Factor on the change.
    """

    form: ClassVar[str] = "shared map"

    layers: tuple[Projection, ...]
    map: LinearMap
    scale: float = 1.0

    def names(self) -> tuple[str, ...]:
        """Returns the full names of the tensors that are changed."""
        return tuple(layer.name for layer in self.layers)

    def factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (up, down), float64, of the change of a layer whose base weight is ``weight``."""
        index = self.names().index(name)
        start, stop = self.layers[index].columns
        up, down = self.map.change(weight[:, start:stop], index)
        if (start, stop) != (0, weight.shape[1]):
            wide = down.new_zeros((down.shape[0], weight.shape[1]))
            wide[:, start:stop] = down
            down = wide
        return up * self.scale, down

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of a tensor, float64, in its shape."""
        up, down = self.factors(name, weight)
        return up @ down

    def scaled(self, factor: float) -> Self:
        """Returns the change times a factor."""
        return replace(self, scale=self.scale * factor)

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the JSON header and the tensors."""
        tensors = {"left": self.map.left, "right": self.map.right}
        if self.map.gains is not None:
            tensors["gains"] = self.map.gains
        layers = [[p.name, p.space, *p.columns] for p in self.layers]
        return {"layers": layers, "scale": self.scale}, tensors

    @classmethod
    def unpack(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Returns the change that `pack` serialised."""
        layers = tuple(Projection(n, space, (lo, hi)) for n, space, lo, hi in header["layers"])
        mapping = LinearMap(tensors["left"], tensors["right"], tensors.get("gains"))
        return cls(layers, mapping, float(header["scale"]))

    def projections(self) -> tuple[Projection, ...]:
        """Returns the layers."""
        return self.layers

    def shared_map(self) -> LinearMap:
        """Returns M."""
        return self.map
