"""Composition of several edits into one, and the conflicts between them.

Composition adds the weight changes. This is accurate as long as no edit acts on what another one
edits; otherwise both are reported as a conflict. Requests that can be solved together
(`editing.add`) should be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch

from editing.edit import Edit
from editing.edit.deltas import Delta
from editing.linear import LinearMap
from editing.pipelines.weights import Space
from editing.requests import Request, changes_of, normal, preserved_of
from visdiff.errors import InputError

OVERLAP = 0.2
"""Smallest overlap that is reported."""


@dataclass(frozen=True)
class Conflict:
    """Two edits that act on the same thing.

    Attributes:
        first: Index of one edit.
        second: Index of the other.
        overlap: In [0, 1]; 0 is none, 1 is the same direction.
        reason: Explanation for the user, a sentence.
    """

    first: int
    second: int
    overlap: float
    reason: str


@dataclass(frozen=True, eq=False)
class Composition:
    """The sum of several edits.

    Attributes:
        edit: The sum.
        conflicts: Conflicts between the edits, largest overlap first.
    """

    edit: Edit
    conflicts: tuple[Conflict, ...]


def compose(edits: Sequence[Edit], scales: Sequence[float] | None = None) -> Composition:
    """Returns the sum of edits of one base.

    Args:
        edits: Two or more, fitted to the same base.
        scales: Factor on each edit; 1 by default.

    Returns:
        The composed edit, without a ledger, and the conflicts found.

    Raises:
        InputError: There are fewer than two edits, their bases differ, or two add the same token.
    """
    scales = [1.0] * len(edits) if scales is None else list(scales)
    if len(edits) < 2 or len(scales) != len(edits):
        raise InputError(
            f"Expected two or more edits and a scale for each, got {len(edits)} and "
            f"{len(scales)}; pass as many scales as edits."
        )
    first = edits[0]
    for edit in edits[1:]:
        if edit.base_hash != first.base_hash:
            raise InputError(
                f"Expected edits of one base, got {first.base_model} ({first.base_hash[:12]}) and "
                f"{edit.base_model} ({edit.base_hash[:12]}); fit them to the same model."
            )
    changes = tuple(
        change.scaled(scale)
        for edit, scale in zip(edits, scales, strict=True)
        for change in edit.changes
    )
    # One edit may add a token to each of two tokenizers.
    tokens = [t for edit in edits for t in {t for c in edit.changes for t in c.tokens()}]
    if len(tokens) != len(set(tokens)):
        raise InputError(
            "Expected edits that add different tokens, got the same token twice; train one of them "
            "with another token."
        )
    summed = replace(
        first,
        method="+".join(dict.fromkeys(e.method for e in edits)),
        requests=tuple(dict.fromkeys(r for e in edits for r in e.requests)),
        config={"parts": [e.digest for e in edits], "scales": scales},
        changes=changes,
        ledger=None,
        diagnostics={},
        seeds=tuple(s for e in edits for s in e.seeds),
    )
    found = [c for pair in combinations(range(len(edits)), 2) for c in _conflicts(edits, *pair)]
    return Composition(summed, tuple(sorted(found, key=lambda c: -c.overlap)))


def overlap(first: Edit, second: Edit) -> float:
    """Returns how much two edits act on the same directions, in [0, 1].

    For two closed-form edits it is the distance by which either moves the concepts of the other,
    relative to the distance by which their own edit moves them; without a ledger, the absolute
    cosine between the two maps. For other edits it is the largest cosine between their changes of
    a tensor that both store in full or as factors.
    """
    values = [0.0]
    for a, b in product(first.changes, second.changes):
        x, y = a.shared_map(), b.shared_map()
        if x is not None and y is not None and a.projections() == b.projections():
            values.append(_map_overlap(first, x, second, y, a.projections()[0].space))
        elif a.standalone and b.standalone:
            values += [_cosine(a, b, name) for name in a.names() if name in b.names()]
    return min(max(values), 1.0)


def _map_overlap(first: Edit, a: LinearMap, second: Edit, b: LinearMap, space: Space) -> float:
    if first.ledger is None or second.ledger is None:
        return abs(_map_cosine(a, b))
    return max(
        _relative_displacement(first, a, b, space), _relative_displacement(second, b, a, space)
    )


def _relative_displacement(edit: Edit, own: LinearMap, other: LinearMap, space: Space) -> float:
    """Returns how far another map moves an edit's concepts, relative to its own map."""
    assert edit.ledger is not None
    rows = [
        e.blocks[space].source
        for e in edit.ledger.entries
        if e.role == "change" and space in e.blocks
    ]
    sources = torch.cat([r for r in rows if r is not None])
    own_distance = float(own.displacement(sources).norm())
    return float(other.displacement(sources).norm()) / own_distance if own_distance > 0 else 0.0


def _map_cosine(a: LinearMap, b: LinearMap) -> float:
    def inner(x: LinearMap, y: LinearMap) -> float:
        return float(((x.left @ y.left.T) * (x.right @ y.right.T)).sum())

    size = (inner(a, a) * inner(b, b)) ** 0.5
    return inner(a, b) / size if size > 0 else 0.0


def _cosine(a: Delta, b: Delta, name: str) -> float:
    # Both are standalone, so the weight is not used.
    none = torch.empty(0)
    x = a.delta(name, none).flatten()
    y = b.delta(name, none).flatten()
    return abs(float(torch.nn.functional.cosine_similarity(x, y, dim=0)))


def _conflicts(edits: Sequence[Edit], i: int, j: int) -> list[Conflict]:
    first, second = edits[i], edits[j]
    found = [
        Conflict(i, j, 1.0, f"Edits {i + 1} and {j + 1} have different targets for {concept!r}.")
        for concept in _contradictions(first.requests, second.requests)
    ]
    measured = overlap(first, second)
    if measured >= OVERLAP:
        found.append(
            Conflict(
                i,
                j,
                measured,
                f"Edits {i + 1} and {j + 1} act on the same directions ({measured:.0%}): fit "
                "their requests together, or scale one down.",
            )
        )
    return found


def _contradictions(a: Sequence[Request], b: Sequence[Request]) -> list[str]:
    wanted = {normal(r.concept): r for r in changes_of(a)}
    preserved = {normal(text) for text in preserved_of(a)}
    found = []
    for request in b:
        found += [text for text in request.preserved if normal(text) in wanted]
        other = wanted.get(normal(request.concept))
        if other is not None and (other.kind, other.target) != (request.kind, request.target):
            found.append(request.concept)
    return found + [r.concept for r in changes_of(b) if normal(r.concept) in preserved]
