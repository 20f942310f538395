"""The interface of what a personalisation method trains."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from editing.edit.deltas import Delta

Tensor = torch.Tensor
Weights = Mapping[str, Tensor]


class Trained(ABC):
    """Tensors of a pipeline that are trained, and their change as an edit.

    The pipeline keeps its own weights. `installed` makes it ready for the training (adapters, new
    tokens) and restores it afterwards; inside, `substituted` computes with trained tensors.

    Attributes:
        changes_text: Whether the encoding of every prompt changes.
        tokens: Tokens whose prompts change their encoding, when not all do.
        only_tokens: Whether prompts without these tokens give the same images as before.
    """

    changes_text: bool = False
    tokens: tuple[str, ...] = ()
    only_tokens: bool = False

    @property
    @abstractmethod
    def initial(self) -> Weights:
        """Name → initial value. A name begins with the component that it belongs to."""

    @abstractmethod
    def substituted(self, weights: Weights) -> AbstractContextManager[None]:
        """Returns a context in which the pipeline computes with ``weights``, differentiably."""

    @abstractmethod
    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns the change from the pipeline's own weights to ``weights``, on the CPU."""

    def installed(self) -> AbstractContextManager[None]:
        """Returns a context in which the pipeline has the modules that training needs."""
        return nullcontext()


class Together(Trained):
    """Several kinds of trained tensors at once.

    Args:
        parts: The kinds; their names must differ.
    """

    def __init__(self, parts: Sequence[Trained]) -> None:
        self._parts = tuple(parts)
        self.changes_text = any(p.changes_text for p in parts)
        self.tokens = tuple(t for p in parts for t in p.tokens)

    @property
    def initial(self) -> Weights:
        """Name → initial value, of all parts."""
        return {name: value for part in self._parts for name, value in part.initial.items()}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Makes the pipeline ready for all parts, in order."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.installed())
            yield

    @contextmanager
    def substituted(self, weights: Weights) -> Iterator[None]:
        """Lets the pipeline compute with the weights of all parts."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.substituted(weights))
            yield

    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns the changes of all parts, in order."""
        return tuple(delta for part in self._parts for delta in part.deltas(weights))
