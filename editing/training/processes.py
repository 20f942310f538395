"""The processes that share the samples of each step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class Processes:
    """The processes of a training; one, unless accelerate launched more.

    Attributes:
        first: Whether this is the first process, which writes files.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.first: bool = state.is_main_process
        self._count, self._index = state.num_processes, state.process_index

    def share(self, samples: int) -> list[int]:
        """Returns the samples of this process, of those of a step."""
        return list(range(self._index, samples, self._count))

    def sum_all(
        self, tensors: Sequence[torch.Tensor], means: Mapping[str, float]
    ) -> dict[str, float]:
        """Sums the gradients of tensors over all processes, in place.

        A tensor that no process read keeps None for its gradient in each of them.

        Args:
            tensors: The tensors, the same in each process.
            means: The share of this process of the mean of each part of the loss.

        Returns:
            The means.
        """
        if self._count == 1:
            return dict(means)
        from accelerate.utils import gather_object, reduce

        each: Any = gather_object([(means, [tensor.grad is not None for tensor in tensors])])
        flags = zip(*(read for _, read in each), strict=True)
        for tensor, read in zip(tensors, flags, strict=True):
            if any(read):
                own = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                summed: Any = reduce(own.detach(), "sum")
                tensor.grad = summed
        names = dict.fromkeys(name for one, _ in each for name in one)
        return {name: sum(one.get(name, 0.0) for one, _ in each) for name in names}
