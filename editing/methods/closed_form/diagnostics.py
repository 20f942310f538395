"""Diagnostics of a closed-form edit from text vectors alone, before any image is drawn.

A shared map moves every text vector, and its effect on the vectors of other concepts predicts side
effects in images. All distances are between text vectors. ``spill`` is the distance by which
another concept moves, relative to that of the edited concepts: 0 is unchanged, 1 is moved as far.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from editing.edit.ledger import Entry, Ledger
from editing.linear import (
    LinearMap,
    Solution,
    Tensor,
    absolute_lambda,
    effective_rank,
    find_revivals,
)
from editing.pipelines.text import Encoded, Phrase, describe, encode, expanded, lay_out
from editing.pipelines.text import neighbours as nearest_words
from editing.pipelines.weights import Space
from editing.requests import Request, changes_of, normal
from editing.settings import LinearConfig

SPILL = 0.5
"""Largest spill onto a neighbour without a warning."""
DRIFT = 0.1
"""Largest spill onto preserved concepts and onto '' without a warning."""
RESIDUAL = 0.5
"""Largest residual of a request without a warning."""
REVIVE = 1e-3
"""Ridge of the search for reviving vectors, in units of tr(S) / d."""
UNDONE = 0.25
"""Largest share of the way to the target that later solves may lose without a warning."""
CONDITION = 1e12
"""Largest condition number at which the solution is accurate to four digits."""


def diagnose(
    ledger: Ledger,
    solutions: Mapping[Space, Solution],
    near: Sequence[tuple[str, Tensor]] = (),
    second: Tensor | None = None,
) -> dict[str, Any]:
    """Returns the diagnostics of a solved edit, as JSON.

    Args:
        ledger: Statistics of the edit.
        solutions: Solved map of each space.
        near: Neighbouring concepts and the token vectors that represent each, shape (n, d).
        second: S = Σ WᵀW over the layers of the token vectors, float64, shape (d, d); None if it is
            not known, and then ``revival`` is left out.

    Returns:
        ``solves`` (λ, condition, rank and effective rank, by space), ``targets`` (for each request,
        ``residual``, ‖M c − c*‖ / ‖c − c*‖, where 0 is reached and 1 is not moved; ``reached``, the
        share of the way from c to c* that M c went; ``revival``, see `_revival`; and ``first``, the
        three of them after the first solve, of a method that solves again from the edited weights),
        ``preserved`` and ``null`` (relative drift ‖M c − c‖ / ‖c‖ and spill), ``neighbours`` (spill
        of each, largest first) and ``warnings`` (sentences).
    """
    change = solutions["tokens"].map
    moved = _typical_move(ledger, change)
    edited = [e for e in ledger.entries if e.role == "change"]
    targets = [_target(e, solutions["tokens"], second) for e in edited]
    preserved = _drift([e for e in ledger.entries if e.role == "preserve"], change, moved)
    null = _drift([e for e in ledger.entries if e.role == "null"], change, moved)
    neighbours = sorted(
        ({"concept": name, "spill": _rms(change.displacement(v)) / moved} for name, v in near),
        key=lambda line: -line["spill"],
    )
    found = {
        "solves": {
            space: {
                "lambda": s.lam,
                "condition": s.condition,
                "rank": s.map.rank,
                "effective_rank": effective_rank(s.map),
            }
            for space, s in solutions.items()
        },
        "targets": targets,
        "preserved": preserved,
        "null": null,
        "neighbours": neighbours,
    }
    return {**found, "warnings": _warnings(found, ledger)}


def tokens_used(
    pipe: Any, requests: Sequence[Request], config: LinearConfig, pair_positions: Any
) -> Any:
    """Returns the tokens that represent each changed concept in its bare phrase, as JSON."""
    found = {}
    for request in changes_of(requests):
        layout = lay_out(pipe, Phrase("{}", expanded(pipe, request.concept)))
        positions = [i for i, _ in pair_positions(layout, [layout], config.tokens)]
        found[request.concept] = describe(layout, positions)
    return found


def near_vectors(
    pipe: Any, requests: Sequence[Request], texts: Sequence[str], count: int, most: int = 64
) -> list[tuple[str, Tensor]]:
    """Returns the vectors of texts near the changed concepts.

    Args:
        pipe: The pipeline.
        requests: The requests; texts that they name are not neighbours.
        texts: Texts chosen by the user.
        count: Number of nearest words of the text encoder per concept.
        most: Maximum number of nearest words in total.

    Returns:
        Text and the vectors of its last and end tokens, shape (2, d).
    """
    named = {normal(n) for request in requests for n in request.named}
    words = dict.fromkeys(texts)
    found: dict[str, None] = {}
    for request in changes_of(requests):
        if count:
            found |= dict.fromkeys(nearest_words(pipe, request.concept, count))
    words |= dict.fromkeys(list(found)[:most])
    phrases = [Phrase("{}", w) for w in words if normal(w) not in named]
    return [(e.phrase.concept, _last_and_end(e)) for e in encode(pipe, phrases)]


def _last_and_end(encoded: Encoded) -> Tensor:
    return encoded.states[[encoded.layout.last, encoded.layout.end]]


def _typical_move(ledger: Ledger, change: LinearMap) -> float:
    moves = [
        change.displacement(e.blocks["tokens"].source) for e in ledger.entries
        if e.role == "change" and e.blocks["tokens"].source is not None
    ]  # fmt: skip
    return max(_rms(torch.cat(moves)), torch.finfo(torch.float64).tiny)


def _rms(rows: Tensor) -> float:
    return float(rows.norm()) / max(len(rows), 1) ** 0.5


def _target(entry: Entry, solution: Solution, second: Tensor | None) -> dict[str, Any]:
    assert entry.request is not None
    found: dict[str, Any] = {
        "request": entry.request.kind,
        "concept": entry.request.concept,
        **_reached(entry, solution.map, second),
    }
    if solution.first is not None:
        found["first"] = _reached(entry, solution.first, second)
    return found


def _reached(entry: Entry, change: LinearMap, second: Tensor | None) -> dict[str, float]:
    block = entry.blocks["tokens"]
    assert block.source is not None
    assert block.shift is not None
    assert block.index is not None
    requested = torch.zeros((len(block.source), block.shift.shape[1]), dtype=torch.float64)
    shift = block.shift if block.gains is None else block.shift * block.gains.mean(0)[:, None]
    requested.index_add_(0, block.index, shift)
    moved = change.displacement(block.source)
    size = float(requested.norm())
    found = {"residual": 0.0, "reached": 1.0}
    if size > 0:
        found["residual"] = float((requested - moved).norm()) / size
        found["reached"] = float((moved * requested).sum()) / size**2
    if second is not None:
        found["revival"] = _revival(block.source, change, second)
    return found


def _revival(vectors: Tensor, change: LinearMap, second: Tensor) -> float:
    """Returns the relative residual of the vectors that revive a concept best (RECE).

    These are the e' whose edited keys and values W M e' are nearest to the concept's own W c, by
    ridge regression with `REVIVE`; the residual is ‖W M e' − W c‖ / ‖W c‖ over all layers. 0: the
    concept can be revived exactly; 1: not at all.
    """
    own = vectors.to(torch.float64)
    revived = find_revivals(change, own, absolute_lambda(second, REVIVE), second)
    missed = revived + change.displacement(revived) - own
    return (float(((missed @ second) * missed).sum() / ((own @ second) * own).sum())) ** 0.5


def _drift(entries: Sequence[Entry], change: LinearMap, moved: float) -> dict[str, float] | None:
    squared = total = 0.0
    count = 0
    for entry in entries:
        block = entry.blocks["tokens"]
        count += entry.vectors["tokens"]
        if block.source is not None:
            squared += float(change.displacement(block.source).square().sum())
            total += float(block.source.to(torch.float64).square().sum())
        else:
            matrix = change.left.T @ change.right
            spread = torch.linalg.multi_dot([change.left.T, change.right, block.second_moment])
            squared += float((spread * matrix).sum())
            total += float(block.second_moment.diagonal().sum())
    if not count:
        return None
    squared = max(squared, 0.0)
    return {"drift": (squared / total) ** 0.5, "spill": (squared / count) ** 0.5 / moved}


def _warnings(found: Mapping[str, Any], ledger: Ledger) -> list[str]:
    warnings = []
    for target in found["targets"]:
        if target["residual"] > RESIDUAL:
            warnings.append(
                f"{target['concept']!r} reaches only {1 - target['residual']:.0%} of its target: "
                "lower preserve_scale or lam_rel, or preserve less that is close to it."
            )
        lost = target.get("first", target)["reached"] - target["reached"]
        if lost > UNDONE:
            remedy = "preserve less" if found["preserved"] else "use fewer epochs"
            warnings.append(
                f"The later solves undo the edit: {target['concept']!r} went "
                f"{target['first']['reached']:.0%} of the way to its target after the first one "
                f"and goes {target['reached']:.0%} after the last: {remedy}, or use uce-2024, "
                "which is the first solve alone."
            )
    if found["preserved"] and found["preserved"]["spill"] > DRIFT:
        warnings.append(
            f"Preserved concepts move {found['preserved']['spill']:.0%} as far as the edited ones: "
            "raise preserve_scale."
        )
    if found["null"] is None:
        warnings.append("The empty prompt is not preserved, and guidance multiplies its drift.")
    elif found["null"]["spill"] > DRIFT:
        warnings.append(
            f"The empty prompt moves {found['null']['spill']:.0%} as far as the edited concepts, "
            "and guidance multiplies that: raise null_scale."
        )
    spilled = [n for n in found["neighbours"] if n["spill"] > SPILL]
    if spilled:
        names = ", ".join(f"{n['concept']} ({n['spill']:.0%})" for n in spilled[:5])
        warnings.append(f"The edit will spill onto {names}: preserve what must not change.")
    for space, solve in found["solves"].items():
        if solve["condition"] > CONDITION:
            warnings.append(
                f"The solve for {space} is ill conditioned ({solve['condition']:.0e}): raise "
                "lam_rel."
            )
    if any(r.needs_weights for r in ledger.requests):
        warnings.append(
            "Debiasing weights were not measured, and the wanted ratios are used instead: the "
            "ratios of images will differ from the wanted ones."
        )
    return warnings
