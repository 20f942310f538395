"""The contribution of each request to the statistics of a closed-form edit.

A and B of `editing.linear` are sums over requests. As long as the contribution of each request is
stored, adding or withdrawing a request is exact and takes one sum and one solve, whereas errors
accumulate when an edited model is edited again. Contributions are summed in a canonical order, so
that not even rounding depends on the order of the requests.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch

from editing.linear import Solution, Tensor, absolute_lambda, gram, solve
from editing.pipelines.weights import Space
from editing.requests import Request, from_dict
from editing.settings import LinearConfig
from visdiff.errors import InputError
from visdiff.hashing import canonical_json

Role = Literal["change", "preserve", "null", "corpus", "revive"]
"""What an entry contributes. "revive" is no term of the objective: it holds every position of a
changed concept's prompts, of which RECE searches the reviving vectors."""


@dataclass(frozen=True, eq=False)
class Block:
    """The vectors of one request in one space.

    Attributes:
        source: Outputs of the text encoder, float32, shape (n, d); None for more than d vectors,
            for which ``moment`` is sufficient.
        moment: Sum of their outer products, float64, shape (d, d), if ``source`` is None.
        shift: Target − source of the edited vectors, float64, shape (r, d); None without any.
        index: Index of the source of each row of ``shift``, int64, shape (r,).
        gains: Factor on each row of ``shift`` for each layer, float64, shape (layers, r), or None.
    """

    source: Tensor | None
    moment: Tensor | None = None
    shift: Tensor | None = None
    index: Tensor | None = None
    gains: Tensor | None = None

    @property
    def second_moment(self) -> Tensor:
        """Sum of outer products, float64, shape (d, d)."""
        if self.moment is not None:
            return self.moment
        assert self.source is not None
        return gram(self.source)


@dataclass(frozen=True, eq=False)
class Entry:
    """The contribution of one request.

    Attributes:
        role: Role of the vectors in the objective.
        request: The request; None for '' and for the corpus.
        texts: Number of texts.
        vectors: Number of vectors, by space.
        blocks: The vectors, by space.
    """

    role: Role
    request: Request | None
    texts: int
    vectors: Mapping[Space, int]
    blocks: Mapping[Space, Block]

    @property
    def key(self) -> str:
        """Unique key of the entry within a ledger."""
        if self.request is None:
            return self.role
        own = canonical_json(self.request.to_dict())
        return f"revive {own}" if self.role == "revive" else own


@dataclass(frozen=True, eq=False)
class Ledger:
    """The contributions of all requests, in a canonical order.

    Attributes:
        entries: One per request, sorted by key, and one each for '' and the corpus if used.
        second: Σ WᵀW over the layers of each space, float64, shape (d, d), for methods that
            search for revivals of a concept.
    """

    entries: tuple[Entry, ...]
    second: Mapping[Space, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.entries, key=lambda e: e.key))
        object.__setattr__(self, "entries", ordered)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests, in the ledger's order."""
        return tuple(dict.fromkeys(e.request for e in self.entries if e.request is not None))

    def spaces(self) -> tuple[Space, ...]:
        """Returns the spaces in which vectors are edited."""
        found: dict[Space, None] = {}
        for entry in self.entries:
            if entry.role == "change":
                found |= dict.fromkeys(entry.blocks)
        return tuple(found)

    def with_entries(self, entries: Iterable[Entry]) -> "Ledger":
        """Returns a ledger with more entries.

        Raises:
            InputError: The ledger already has one of the requests.
        """
        entries = tuple(entries)
        known = {e.key for e in self.entries}
        for entry in entries:
            if entry.key in known:
                raise InputError(
                    f"Expected a request that the edit does not have yet, got {entry.request}; "
                    "leave it out."
                )
        return Ledger((*self.entries, *entries), self.second)

    def without(self, requests: Sequence[Request]) -> "Ledger":
        """Returns a ledger without some requests.

        Raises:
            InputError: The ledger lacks one of the requests.
        """
        missing = [r for r in requests if r not in self.requests]
        if missing:
            raise InputError(
                f"Expected requests of the edit, got {', '.join(r.describe() for r in missing)}; "
                "see `visdiff edit show`."
            )
        return Ledger(tuple(e for e in self.entries if e.request not in requests), self.second)

    def weight(self, entry: Entry, space: Space, config: LinearConfig) -> float:
        """Returns the weight of an entry's vectors in the objective."""
        if entry.role == "revive":
            return 0.0
        scale = 1.0 if entry.request is None else entry.request.scale
        if entry.role == "change":
            return config.erase_scale * scale
        if entry.role in ("preserve", "null"):
            if config.preserve_scale is not None:
                return config.null_scale if entry.role == "null" else config.preserve_scale * scale
            preserved = sum(e.texts for e in self.entries if e.role in ("preserve", "null"))
            return max(0.1, 1 / preserved) * scale
        changed = sum(
            e.vectors[space] for e in self.entries if space in e.blocks and e.role == "change"
        )
        return config.corpus_scale * changed / max(entry.vectors[space], 1)

    def statistics(self, space: Space, config: LinearConfig) -> Tensor:
        """Returns B without its ridge, float64, shape (d, d).

        Raises:
            InputError: No entry has vectors in the space.
        """
        summands = self._summands(space, config)
        total = next(summands, None)
        if total is None:
            raise InputError(f"Expected vectors in the space {space!r}, got none; add a request.")
        for summand in summands:
            total.add_(summand)
        return total

    def _summands(self, space: Space, config: LinearConfig) -> Iterator[Tensor]:
        """Yields the summands of B: products of the vectors of several entries, then moments."""
        rows: list[Tensor] = []
        weights: list[Tensor] = []
        moments: list[tuple[Tensor, float]] = []
        for entry in self.entries:
            weight = self.weight(entry, space, config) if space in entry.blocks else 0.0
            if weight <= 0:
                continue
            block = entry.blocks[space]
            if block.source is None:
                moments.append((block.second_moment, weight))
                continue
            rows.append(block.source)
            weights.append(torch.full((len(block.source),), weight, dtype=torch.float64))
            # Adding a product to the sum takes equally long for few vectors and for many.
            if sum(map(len, rows)) >= block.source.shape[1]:
                yield gram(torch.cat(rows), torch.cat(weights))
                rows, weights = [], []
        if rows:
            yield gram(torch.cat(rows), torch.cat(weights))
        for moment, weight in moments:
            yield moment * weight

    def solve(self, space: Space, config: LinearConfig) -> Solution:
        """Returns the solution for one space.

        Args:
            space: Space of the vectors.
            config: Scales and λ.
        """
        sources, shifts, gains = [], [], []
        for entry in self.entries:
            block = entry.blocks.get(space)
            if entry.role != "change" or block is None:
                continue
            assert block.source is not None
            assert block.shift is not None
            assert block.index is not None
            sources.append(block.source.to(torch.float64)[block.index])
            shifts.append(block.shift * self.weight(entry, space, config))
            gains.append(block.gains)
        b = self.statistics(space, config)
        lam = config.lam if config.lam is not None else absolute_lambda(b, config.lam_rel or 0.0)
        return solve(b, torch.cat(sources), torch.cat(shifts), lam, _join_gains(gains, shifts))


def pack(ledger: Ledger) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Returns the serialised ledger: JSON headers, and tensors by name."""
    headers: list[dict[str, Any]] = []
    tensors = {f"second.{space}": moment for space, moment in ledger.second.items()}
    for number, entry in enumerate(ledger.entries):
        request = None if entry.request is None else entry.request.to_dict()
        headers.append({
            "role": entry.role,
            "request": request,
            "texts": entry.texts,
            "vectors": dict(entry.vectors),
        })  # fmt: skip
        for space, block in entry.blocks.items():
            for part in ("source", "moment", "shift", "index", "gains"):
                value = getattr(block, part)
                if value is not None:
                    tensors[f"{number}.{space}.{part}"] = value
    return headers, tensors


def unpack(headers: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> Ledger:
    """Returns the ledger that `pack` serialised."""
    entries = []
    for number, header in enumerate(headers):
        request = None if header["request"] is None else from_dict(header["request"])
        blocks: dict[Space, Block] = {}
        for space in header["vectors"]:
            parts = {
                part: tensors[f"{number}.{space}.{part}"]
                for part in ("source", "moment", "shift", "index", "gains")
                if f"{number}.{space}.{part}" in tensors
            }
            blocks[cast(Space, space)] = Block(parts.pop("source", None), **parts)
        entries.append(Entry(header["role"], request, header["texts"], header["vectors"], blocks))
    second: dict[Space, Tensor] = {
        cast(Space, name.removeprefix("second.")): moment
        for name, moment in tensors.items()
        if name.startswith("second.")
    }
    return Ledger(tuple(entries), second)


def _join_gains(gains: Sequence[Tensor | None], shifts: Sequence[Tensor]) -> Tensor | None:
    present = [g for g in gains if g is not None]
    if not present:
        return None
    layers = present[0].shape[0]
    return torch.cat(
        [
            torch.ones((layers, s.shape[0]), dtype=torch.float64) if g is None else g
            for g, s in zip(gains, shifts, strict=True)
        ],
        dim=1,
    )
