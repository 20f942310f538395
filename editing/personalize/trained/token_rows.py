"""Embedding rows of new tokens (textual inversion).

Gal et al., "An Image is Worth One Word" (ICLR 2023), arXiv:2208.01618. Only the new rows are
trained: the rows of all other tokens are no part of the optimisation and keep their bits.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from editing.edit import Applied
from editing.edit.deltas import Delta, NewTokens
from editing.personalize.trained.base import Trained, Weights
from visdiff.errors import InputError

_ENCODERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
"""Tokenizer → its CLIP text encoder."""


class TokenRows(Trained):
    """New tokens, in every CLIP text encoder of a pipeline.

    Args:
        pipe: A pipeline of Stable Diffusion 1, 2 or XL.
        initializers: New token → the word (or phrase) whose mean embedding it starts from.
        vectors: Embedding rows of a token. With more than one, diffusers expands "<olis>" in a
            prompt to "<olis> <olis>_1 …".

    Raises:
        InputError: The pipeline is of another family, a tokenizer has a token already, or no token
            represents a word.
    """

    only_tokens = True

    def __init__(self, pipe: Any, initializers: Mapping[str, str], vectors: int = 1) -> None:
        if getattr(pipe, "unet", None) is None:
            raise InputError(
                f"Expected a pipeline of Stable Diffusion 1, 2 or XL for new tokens, got "
                f"{type(pipe).__name__}; use lora without a new token."
            )
        self._pipe = pipe
        self.tokens = tuple(initializers)
        self._starts: dict[tuple[str, str], torch.Tensor] = {}
        for tokenizer_name, encoder_name in _ENCODERS.items():
            tokenizer = getattr(pipe, tokenizer_name, None)
            if tokenizer is None:
                continue
            table = getattr(pipe, encoder_name).get_input_embeddings().weight.detach().float()
            for token, word in initializers.items():
                if token in tokenizer.get_vocab():
                    raise InputError(
                        f"Expected a token that the tokenizer does not have, got {token!r}; write "
                        f"it as '<{token}>', or take another identifier."
                    )
                ids = tokenizer(word, add_special_tokens=False)["input_ids"]
                if not ids:
                    raise InputError(
                        f"Expected a word that the tokenizer has tokens for, got {word!r}; name "
                        "another initializer."
                    )
                self._starts[tokenizer_name, token] = table[ids].mean(0).repeat(vectors, 1)

    @property
    def initial(self) -> Weights:
        """``tokens.TOKENIZER.TOKEN`` → rows, shape (vectors, d)."""
        return {f"tokens.{name}.{token}": s for (name, token), s in self._starts.items()}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Adds the tokens to the tokenizers and tables, and removes them afterwards."""
        handle = Applied()
        try:
            for change in self.deltas(self.initial):
                change.extend(self._pipe, handle)
            yield
        finally:
            handle.revert()

    @contextmanager
    def substituted(self, weights: Weights) -> Iterator[None]:
        """Lets the embedding layers return the rows of ``weights`` for the new tokens."""
        with ExitStack() as stack:
            for name in dict.fromkeys(name for name, _ in self._starts):
                rows = torch.cat([weights[f"tokens.{name}.{token}"] for token in self.tokens])
                # All are added at once, so their ids follow each other and are the last.
                first = getattr(self._pipe, name).convert_tokens_to_ids(self.tokens[0])
                layer = getattr(self._pipe, _ENCODERS[name]).get_input_embeddings()
                hook = layer.register_forward_hook(_rows_from(first, rows))
                stack.callback(hook.remove)
            yield

    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns the new tokens of each tokenizer."""
        return tuple(
            NewTokens(
                name,
                _ENCODERS[name],
                self._by_token(name, weights),
                self._by_token(name, self.initial),
            )
            for name in dict.fromkeys(name for name, _ in self._starts)
        )

    def _by_token(self, name: str, weights: Weights) -> dict[str, torch.Tensor]:
        found = {}
        for token in self.tokens:
            for number, row in enumerate(weights[f"tokens.{name}.{token}"].detach().float().cpu()):
                found[f"{token}_{number}" if number else token] = row.clone()
        return found


def _rows_from(first: int, rows: torch.Tensor) -> Any:
    def replace(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        del module
        own = args[0] - first
        chosen = rows.to(output.dtype)[own.clamp(min=0)]
        return torch.where((own >= 0)[..., None], chosen, output)

    return replace
