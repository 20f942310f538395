"""The forms that a change of weights takes, and what each does to a tensor.

A shared map is what closed-form edits are: a few kilobytes that say what happens to text before
any layer reads it, from which every layer's change follows. Low-rank and full changes are what
training leaves behind. New tokens extend a tokenizer and its embedding table.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from editing.edit.deltas.base import Delta
from editing.edit.deltas.full import Full
from editing.edit.deltas.low_rank import LowRank
from editing.edit.deltas.new_tokens import NewTokens
from editing.edit.deltas.shared_map import SharedMap
from editing.linear import Tensor
from editing.pipelines.weights import tensor_digest

KINDS: dict[str, type[Delta]] = {kind.form: kind for kind in (SharedMap, LowRank, Full, NewTokens)}
"""The kinds of change, by their name in a file's header."""


def packed(change: Delta) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns what a file holds of a change: JSON, and tensors by short names."""
    header, tensors = change.packed()
    return {"form": change.form, **header}, tensors


def unpacked(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    """Reads what `packed` returned.

    Raises:
        KeyError: Something is missing; the file is damaged or of another version.
    """
    form = header["form"]
    if form not in KINDS:
        raise KeyError(f"a change of the form {form!r}")
    return KINDS[form].unpacked(header, tensors)


def content(change: Delta) -> list[Any]:
    """Returns what of a change makes images differ, as canonical JSON can write it."""
    header, tensors = packed(change)
    shapes = {name: [str(t.dtype), list(t.shape), _exact_digest(t)] for name, t in tensors.items()}
    return [header, shapes]


def _exact_digest(tensor: Tensor) -> str:
    # `tensor_digest` sees float32; float64 factors are told apart by their bits.
    return tensor_digest(
        tensor.contiguous().view(torch.int32 if tensor.element_size() >= 4 else torch.int16)
    )


def tensors_of(changes: tuple[Delta, ...]) -> Iterator[str]:
    """Yields the names of the tensors that changes touch, each once, in order."""
    yield from dict.fromkeys(name for change in changes for name in change.names())


__all__ = [
    "KINDS",
    "Delta",
    "Full",
    "LowRank",
    "NewTokens",
    "SharedMap",
    "content",
    "packed",
    "tensors_of",
    "unpacked",
]
