"""Statistics of the vectors of many prompts, without storing all vectors."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from editing.edit.ledger import Block
from editing.linear import Tensor
from editing.pipelines.text import Encoded, Layout, Phrase, encode
from editing.pipelines.weights import Projection, Space, parameter, widths
from editing.settings import LinearConfig


def second_moments(
    pipe: Any, layers: Sequence[Projection], dtype: torch.dtype = torch.float64
) -> dict[Space, Tensor]:
    """Returns Σ WᵀW over the layers of each space, float64, shape (d, d), computed in a dtype."""
    found: dict[Space, Tensor] = {}
    for layer in layers:
        start, stop = layer.columns
        weight = parameter(pipe, layer.name).detach()[:, start:stop].cpu().to(dtype)
        share = weight.T @ weight
        found[layer.space] = share if layer.space not in found else found[layer.space].add_(share)
    return {space: total.to(torch.float64) for space, total in found.items()}


def pooled_of(encoded: Encoded) -> Tensor:
    """Returns the pooled vector of a prompt, shape (p,), of a model that has pooled vectors."""
    assert encoded.pooled is not None
    return encoded.pooled


def moments(
    pipe: Any,
    phrases: Sequence[Phrase],
    positions: Callable[[Layout], list[int]],
    config: LinearConfig,
) -> tuple[dict[Space, Block], dict[Space, int]]:
    """Returns the vectors of prompts, or their sum of outer products if they are many.

    Args:
        pipe: The pipeline.
        phrases: The prompts.
        positions: Selects the positions of a prompt that count.
        config: Settings; `pooled` decides whether the pooled vector counts.

    Returns:
        A block and the number of vectors for each space.
    """
    spaces = widths(pipe)
    accumulators: dict[Space, _Accumulator] = {"tokens": _Accumulator(spaces["tokens"])}
    if config.pooled == "edit" and "pooled" in spaces:
        accumulators["pooled"] = _Accumulator(spaces["pooled"])
    stream = encode(pipe, phrases)
    while chunk := list(islice(stream, 32)):
        accumulators["tokens"].add(torch.cat([e.states[positions(e.layout)] for e in chunk]))
        if "pooled" in accumulators:
            accumulators["pooled"].add(torch.stack([pooled_of(e) for e in chunk]))
    return {s: g.block() for s, g in accumulators.items()}, {
        s: g.count for s, g in accumulators.items()
    }


class _Accumulator:
    """Vectors while there are fewer than their dimension, then their sum of outer products."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._width = width
        self._rows: list[Tensor] = []
        self._moment: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        self._rows.append(rows)
        if self._moment is not None or self.count >= self._width:
            wide = torch.cat(self._rows).to(torch.float64)
            share = wide.T @ wide
            self._moment = share if self._moment is None else self._moment.add_(share)
            self._rows = []

    def block(self) -> Block:
        if self._moment is not None:
            return Block(None, self._moment)
        return Block(torch.cat(self._rows))


def rows(block: Block) -> int:
    """Returns the number of vectors of a block that stores them."""
    assert block.source is not None
    return int(block.source.shape[0])
