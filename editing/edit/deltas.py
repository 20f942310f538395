"""The forms that a change of weights takes, and what each does to a tensor.

A shared map is what closed-form edits are: a few kilobytes that say what happens to text before
any layer reads it, from which every layer's change follows. Low-rank and full changes are what
training leaves behind. New tokens extend a tokenizer and its embedding table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from editing.linear import LinearMap, Tensor
from editing.pipelines.weights import Projection, tensor_digest
from visdiff.errors import InputError


@dataclass(frozen=True, eq=False)
class SharedMap:
    """W ← W M for every layer of one space (`editing.linear.LinearMap`).

    Attributes:
        layers: The layers, in the order of the map's gains.
        map: M.
        scale: Factor on the change.
    """

    layers: tuple[Projection, ...]
    map: LinearMap
    scale: float = 1.0

    def names(self) -> tuple[str, ...]:
        """Returns the full names of the tensors that it changes."""
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


@dataclass(frozen=True, eq=False)
class LowRank:
    """W ← W + up · down, for one linear layer.

    Attributes:
        name: Full name of the tensor.
        up: Shape (out, rank).
        down: Shape (rank, in).
        scale: Factor on the change.
    """

    name: str
    up: Tensor
    down: Tensor
    scale: float = 1.0

    def names(self) -> tuple[str, ...]:
        """Returns the full name of the tensor that it changes, alone."""
        return (self.name,)

    def factors(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (up, down), float64."""
        return self.up.to(torch.float64) * self.scale, self.down.to(torch.float64)

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of the tensor, float64, in its shape."""
        up, down = self.factors(name, weight)
        return up @ down


@dataclass(frozen=True, eq=False)
class Full:
    """W ← W + delta, for a tensor of any shape.

    Attributes:
        name: Full name of the tensor.
        difference: In the tensor's shape.
        scale: Factor on the change.
    """

    name: str
    difference: Tensor
    scale: float = 1.0

    def names(self) -> tuple[str, ...]:
        """Returns the full name of the tensor that it changes, alone."""
        return (self.name,)

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Returns the change of the tensor, float64, in its shape."""
        return self.difference.to(torch.float64) * self.scale


@dataclass(frozen=True, eq=False)
class NewTokens:
    """Tokens that a tokenizer does not know, with their rows of the embedding table.

    Attributes:
        tokenizer: Component that learns the tokens, "tokenizer" or "tokenizer_2".
        encoder: Text encoder whose table grows, "text_encoder" or "text_encoder_2".
        vectors: Token → embedding, shape (d,). A scale does not apply to them.
    """

    tokenizer: str
    encoder: str
    vectors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", MappingProxyType(dict(self.vectors)))
        if not self.vectors:
            raise InputError("Expected at least one new token, got none.")

    def names(self) -> tuple[str, ...]:
        """Returns nothing: no tensor of the base is changed, one grows."""
        return ()


AnyChange = SharedMap | LowRank | Full | NewTokens
"""What an edit is made of."""


def scaled(change: AnyChange, factor: float) -> AnyChange:
    """Returns the change times a factor.

    Raises:
        InputError: New tokens by any factor but one: there is no half a token.
    """
    if isinstance(change, NewTokens):
        if factor != 1.0:
            raise InputError(
                f"Expected scale 1 for an edit that adds tokens, got {factor:g}; leave the token "
                "out of the prompt instead."
            )
        return change
    return replace(change, scale=change.scale * factor)


def packed(change: AnyChange) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns what a file holds of a change: JSON, and tensors by short names."""
    match change:
        case SharedMap():
            tensors = {"left": change.map.left, "right": change.map.right}
            if change.map.gains is not None:
                tensors["gains"] = change.map.gains
            layers = [[p.name, p.space, *p.columns] for p in change.layers]
            return {"form": "shared map", "layers": layers, "scale": change.scale}, tensors
        case LowRank():
            header = {"form": "low rank", "name": change.name, "scale": change.scale}
            return header, {"up": change.up, "down": change.down}
        case Full():
            header = {"form": "full", "name": change.name, "scale": change.scale}
            return header, {"difference": change.difference}
        case NewTokens():
            header = {
                "form": "new tokens",
                "tokenizer": change.tokenizer,
                "encoder": change.encoder,
                "tokens": list(change.vectors),
            }
            return header, {"vectors": torch.stack(list(change.vectors.values()))}


def unpacked(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AnyChange:
    """Reads what `packed` returned.

    Raises:
        KeyError: Something is missing; the file is damaged or of another version.
    """
    form = header["form"]
    if form == "shared map":
        layers = tuple(Projection(n, space, (lo, hi)) for n, space, lo, hi in header["layers"])
        mapping = LinearMap(tensors["left"], tensors["right"], tensors.get("gains"))
        return SharedMap(layers, mapping, float(header["scale"]))
    if form == "low rank":
        return LowRank(header["name"], tensors["up"], tensors["down"], float(header["scale"]))
    if form == "full":
        return Full(header["name"], tensors["difference"], float(header["scale"]))
    if form == "new tokens":
        rows = zip(header["tokens"], tensors["vectors"], strict=True)
        return NewTokens(header["tokenizer"], header["encoder"], dict(rows))
    raise KeyError(f"a change of the form {form!r}")


def content(change: AnyChange) -> list[Any]:
    """Returns what of a change makes images differ, as canonical JSON can write it."""
    header, tensors = packed(change)
    shapes = {name: [str(t.dtype), list(t.shape), _exact_digest(t)] for name, t in tensors.items()}
    return [header, shapes]


def _exact_digest(tensor: Tensor) -> str:
    # `tensor_digest` sees float32; float64 factors are told apart by their bits.
    return tensor_digest(
        tensor.contiguous().view(torch.int32 if tensor.element_size() >= 4 else torch.int16)
    )


def tensors_of(changes: tuple[AnyChange, ...]) -> Iterator[str]:
    """Yields the names of the tensors that changes touch, each once, in order."""
    yield from dict.fromkeys(name for change in changes for name in change.names())
