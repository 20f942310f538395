"""Gathering vectors of many prompts without holding them all."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from editing.edit.ledger import Block
from editing.linear import Tensor
from editing.pipelines.text import Encoded, Layout, Phrase, encode
from editing.pipelines.weights import Projection, Space, parameter, widths
from editing.settings import LinearConfig


def second_moments(pipe: Any, layers: Sequence[Projection]) -> dict[Space, Tensor]:
    """Returns Σ WᵀW over the layers of each space, float64, shape (d, d)."""
    found: dict[Space, Tensor] = {}
    for layer in layers:
        start, stop = layer.columns
        weight = parameter(pipe, layer.name).detach()[:, start:stop].cpu().to(torch.float64)
        share = weight.T @ weight
        found[layer.space] = share if layer.space not in found else found[layer.space].add_(share)
    return found


def pooled_of(encoded: Encoded) -> Tensor:
    """Returns the pooled vector of a prompt of a model that has one, shape (p,)."""
    assert encoded.pooled is not None
    return encoded.pooled


def moments(
    pipe: Any, phrases: Sequence[Phrase], keep: Callable[[Layout], list[int]], config: LinearConfig
) -> tuple[dict[Space, Block], dict[Space, int]]:
    """Gathers vectors of many prompts, and keeps their sum of products once they are many.

    Args:
        pipe: The pipeline.
        phrases: The prompts.
        keep: Which positions of a prompt count.
        config: Whether the pooled vector counts.

    Returns:
        A block and the number of vectors, by space.
    """
    spaces = widths(pipe)
    gathered: dict[Space, _Gathered] = {"tokens": _Gathered(spaces["tokens"])}
    if config.pooled == "edit" and "pooled" in spaces:
        gathered["pooled"] = _Gathered(spaces["pooled"])
    stream = encode(pipe, phrases)
    while some := list(islice(stream, 32)):
        gathered["tokens"].add(torch.cat([e.states[keep(e.layout)] for e in some]))
        if "pooled" in gathered:
            gathered["pooled"].add(torch.stack([pooled_of(e) for e in some]))
    return {s: g.block() for s, g in gathered.items()}, {s: g.count for s, g in gathered.items()}


class _Gathered:
    """Vectors as long as they are fewer than their length, then their sum of outer products."""

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
    """Returns the number of vectors of a block that holds them."""
    assert block.source is not None
    return int(block.source.shape[0])
