"""What every kind of weight change answers for itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import torch

from editing.linear import LinearMap, Tensor
from editing.pipelines.weights import Projection


class Handle(Protocol):
    """Records what was replaced, so that it can be put back."""

    def swap(self, holder: torch.nn.Parameter, value: Tensor) -> None:
        """Replaces a parameter's data."""
        ...

    def swap_part(self, owner: Any, name: str, value: Any) -> None:
        """Replaces an attribute."""
        ...


class Delta(ABC):
    """One change of a model's weights.

    Attributes:
        form: Name of the kind in the header of an edit's file.
        standalone: Whether `delta` is the same for every base weight.
    """

    form: ClassVar[str]
    standalone: ClassVar[bool] = False

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Returns the full names of the tensors that it changes."""

    @abstractmethod
    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of a tensor whose base is ``weight``, float64, in its shape."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """Returns the change times a factor.

        Raises:
            InputError: The kind cannot be scaled.
        """

    @abstractmethod
    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns what a file holds: a JSON header without the form, and tensors by short names."""

    @classmethod
    @abstractmethod
    def unpacked(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Reads what `packed` returned.

        Raises:
            KeyError: Something is missing.
        """

    def factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (up, down), float64, whose product is the change of a linear layer."""
        delta = self.delta(name, weight)
        return delta, torch.eye(delta.shape[1], dtype=torch.float64)

    def extend(self, pipe: Any, handle: Handle) -> None:  # noqa: B027
        """Changes what is not a tensor of the base, such as a tokenizer; by default nothing."""

    def tokens(self) -> tuple[str, ...]:
        """Returns the tokens that it adds."""
        return ()

    def projections(self) -> tuple[Projection, ...]:
        """Returns the layers that share one map; none for other kinds."""
        return ()

    def shared_map(self) -> LinearMap | None:
        """Returns the map that `projections` share; None for other kinds."""
        return None
