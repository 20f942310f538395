"""The kinds of weight changes.

A closed-form edit is a shared map: a few kilobytes that define a linear map of text vectors, from
which the change of every layer follows. Trained edits are low-rank changes, full changes, or shifts
of singular values. New tokens extend a tokenizer and its embedding table.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from editing.edit.deltas.base import Delta
from editing.edit.deltas.full import Full
from editing.edit.deltas.low_rank import LowRank
from editing.edit.deltas.new_tokens import NewTokens
from editing.edit.deltas.shared_map import SharedMap
from editing.edit.deltas.spectral_shift import SpectralShift
from editing.linear import Tensor
from editing.pipelines.weights import tensor_digest

KINDS: dict[str, type[Delta]] = {
    kind.form: kind for kind in (SharedMap, LowRank, Full, SpectralShift, NewTokens)
}
"""Name in the header of a file → kind of change."""


def pack(change: Delta) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the serialised change: a JSON header, and tensors by short names."""
    header, tensors = change.pack()
    return {"form": change.form, **header}, tensors


def unpack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    """Returns the change that `pack` serialised.

    Raises:
        KeyError: A field is missing or the kind is unknown: the file is damaged or of another
            version.
    """
    form = header["form"]
    if form not in KINDS:
        raise KeyError(f"a change of the kind {form!r}")
    return KINDS[form].unpack(header, tensors)


def content(change: Delta) -> list[Any]:
    """Returns the content of a change that determines images, as values for canonical JSON."""
    header, tensors = pack(change)
    shapes = {name: [str(t.dtype), list(t.shape), _exact_digest(t)] for name, t in tensors.items()}
    return [header, shapes]


def _exact_digest(tensor: Tensor) -> str:
    # `tensor_digest` converts to float32; hashing bits distinguishes float64 factors too.
    return tensor_digest(
        tensor.contiguous().view(torch.int32 if tensor.element_size() >= 4 else torch.int16)
    )


def tensors_of(changes: tuple[Delta, ...]) -> Iterator[str]:
    """Yields the names of the tensors that are changed, each once, in order."""
    yield from dict.fromkeys(name for change in changes for name in change.names())


__all__ = [
    "KINDS",
    "Delta",
    "Full",
    "LowRank",
    "NewTokens",
    "SharedMap",
    "SpectralShift",
    "content",
    "pack",
    "tensors_of",
    "unpack",
]
