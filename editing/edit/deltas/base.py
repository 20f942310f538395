"""The interface of every kind of weight change."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import torch

from editing.linear import LinearMap, Tensor
from editing.pipelines.weights import Projection


class Handle(Protocol):
    """A record of replaced objects, which can be restored."""

    def swap(self, holder: torch.nn.Parameter, value: Tensor) -> None:
        """Replaces a parameter's data."""
        ...

    def swap_part(self, owner: Any, name: str, value: Any) -> None:
        """Replaces an attribute."""
        ...


class Delta(ABC):
    """A change of a model's weights.

    Attributes:
        form: Name of the kind in the header of an edit's file.
        standalone: Whether `delta` does not depend on the base weight (at most on its shape). Two
            standalone changes of a tensor can be compared without the model.
    """

    form: ClassVar[str]
    standalone: ClassVar[bool] = False

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Returns the full names of the tensors that are changed."""

    @abstractmethod
    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of a tensor whose base is ``weight``, float64, in its shape."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """Returns the change at another strength: 0 is no change, 1 the change itself.

        Most kinds multiply the change by the factor. A spectral shift multiplies its shift, which
        is the same while no singular value reaches 0; new tokens move along the line from their
        starts to their vectors.

        Raises:
            InputError: The change cannot be scaled: new tokens whose starts are not known.
        """

    @abstractmethod
    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the serialised change: a JSON header without the form, and named tensors."""

    @classmethod
    @abstractmethod
    def unpack(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Returns the change that `pack` serialised.

        Raises:
            KeyError: A field is missing.
        """

    def factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (up, down), float64, whose product is the change of the weight as a matrix.

        A weight of a convolution is the matrix (out, in · h · w).
        """
        delta = self.delta(name, weight).flatten(1)
        return delta, torch.eye(delta.shape[1], dtype=torch.float64)

    def extend(self, pipe: Any, handle: Handle) -> None:  # noqa: B027
        """Changes objects other than the base's tensors, such as a tokenizer; default: none."""

    def tokens(self) -> tuple[str, ...]:
        """Returns the tokens that are added."""
        return ()

    def embeddings(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Returns text encoder → token → embedding, shape (d,), of the added tokens."""
        return {}

    def projections(self) -> tuple[Projection, ...]:
        """Returns the layers that share one map; none for other kinds."""
        return ()

    def shared_map(self) -> LinearMap | None:
        """Returns the map that `projections` share; None for other kinds."""
        return None
