"""New tokens of a tokenizer, with their embeddings."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch

from editing.edit.deltas.base import Delta, Handle
from editing.linear import Tensor
from visdiff.errors import InputError


@dataclass(frozen=True, eq=False)
class NewTokens(Delta):
    """Tokens that a tokenizer does not have, with their rows of the embedding table.

    Attributes:
        tokenizer: Name of the tokenizer that is extended, "tokenizer" or "tokenizer_2".
        encoder: Name of the text encoder whose table is extended, "text_encoder" or
            "text_encoder_2".
        vectors: Token → embedding, shape (d,).
        starts: Token → row that it was initialised from, shape (d,); empty if they are not known.
    """

    form: ClassVar[str] = "new tokens"

    tokenizer: str
    encoder: str
    vectors: Mapping[str, Tensor]
    starts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("vectors", "starts"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if not self.vectors:
            raise InputError("Expected at least one new token, got none; add one.")
        if self.starts and self.starts.keys() != self.vectors.keys():
            raise InputError(
                f"Expected the starts of the tokens {', '.join(self.vectors)}, got those of "
                f"{', '.join(self.starts)}; give the start of each token, or none."
            )

    def names(self) -> tuple[str, ...]:
        """Returns an empty tuple: the embedding table is extended, not changed."""
        return ()

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """Raises KeyError: no tensor of the base is changed."""
        raise KeyError(name)

    def scaled(self, factor: float) -> Self:
        """Returns the tokens at start + factor · (vector − start): at 0 they are as initialised.

        Raises:
            InputError: The starts are not known and the factor is not 1.
        """
        if factor == 1.0:
            return self
        if not self.starts:
            raise InputError(
                f"Expected scale 1 for an edit that adds tokens, got {factor:g}; leave the token "
                "out of the prompt instead."
            )
        moved = {
            token: torch.lerp(self.starts[token].double(), vector.double(), factor).to(vector)
            for token, vector in self.vectors.items()
        }
        return replace(self, vectors=moved)

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the JSON header and the tensors."""
        header = {
            "tokenizer": self.tokenizer,
            "encoder": self.encoder,
            "tokens": list(self.vectors),
        }
        tensors = {"vectors": torch.stack(list(self.vectors.values()))}
        if self.starts:
            tensors["starts"] = torch.stack([self.starts[token] for token in self.vectors])
        return header, tensors

    @classmethod
    def unpack(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Returns the change that `pack` serialised."""
        tokens = header["tokens"]
        vectors = dict(zip(tokens, tensors["vectors"], strict=True))
        # Files of earlier versions have no starts.
        starts = dict(zip(tokens, tensors["starts"], strict=True)) if "starts" in tensors else {}
        return cls(header["tokenizer"], header["encoder"], vectors, starts)

    def tokens(self) -> tuple[str, ...]:
        """Returns the tokens."""
        return tuple(self.vectors)

    def embeddings(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Returns the text encoder → token → embedding."""
        return {self.encoder: self.vectors}

    def extend(self, pipe: Any, handle: Handle) -> None:
        """Adds the tokens to the tokenizer and their rows to the embedding table.

        Raises:
            InputError: The tokenizer already has one of them.
        """
        encoder = getattr(pipe, self.encoder)
        table = encoder.get_input_embeddings()
        tokenizer = copy.deepcopy(getattr(pipe, self.tokenizer))
        known = [t for t in self.vectors if t in tokenizer.get_vocab()]
        if known:
            raise InputError(
                f"Expected tokens that the tokenizer does not have, got {', '.join(known)}; revert "
                "the other edit that adds them, or train with another token."
            )
        tokenizer.add_tokens(list(self.vectors))
        rows = torch.stack(list(self.vectors.values())).to(table.weight)
        # There may be a gap between the last row of the table and the first new id.
        ids = tokenizer.convert_tokens_to_ids(list(self.vectors))
        size = max(table.num_embeddings, max(ids) + 1)
        extended = table.weight.data.new_zeros((size, table.embedding_dim))
        extended[: table.num_embeddings] = table.weight.data
        extended[ids] = rows
        handle.swap(table.weight, extended)
        handle.swap_part(table, "num_embeddings", size)
        # `save_pretrained` writes it, and loading compares it with the table.
        handle.swap_part(encoder.config, "vocab_size", size)
        handle.swap_part(pipe, self.tokenizer, tokenizer)
