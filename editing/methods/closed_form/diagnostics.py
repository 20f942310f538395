"""What a closed-form edit will do, said from text vectors alone, before any image is made.

A shared map moves every text vector; what it does to the vectors of other concepts is what the
images will show. Distances here are between text vectors. ``spill`` is how far something else
moves, as a share of how far the edited concepts move: 0 is untouched, 1 is edited as much as they.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from editing.edit.ledger import Entry, Ledger
from editing.linear import LinearMap, Solution, Tensor, effective_rank
from editing.pipelines.text import Encoded, Phrase, describe, encode, lay_out, neighbours
from editing.pipelines.weights import Space
from editing.requests import Request, changes_of, normal
from editing.settings import LinearConfig

SPILL = 0.5
"""Most spill onto a neighbour that goes without a warning."""
DRIFT = 0.1
"""Most spill onto preserved concepts and onto '' that goes without a warning."""
RESIDUAL = 0.5
"""Most residual of a request that goes without a warning."""
CONDITION = 1e12
"""Largest condition number whose solve still has four digits."""


def diagnose(
    ledger: Ledger,
    solutions: Mapping[Space, Solution],
    near: Sequence[tuple[str, Tensor]] = (),
) -> dict[str, Any]:
    """Describes a solved edit, as JSON.

    Args:
        ledger: Its statistics.
        solutions: Its solved maps.
        near: Neighbouring concepts and the token vectors that stand for each, shape (n, d).

    Returns:
        ``solves`` (λ, condition, rank and effective rank, by space), ``targets`` (for each request
        the relative residual ‖M c − c*‖ / ‖c − c*‖: 0 reached, 1 not moved), ``preserved`` and
        ``null`` (relative drift ‖M c − c‖ / ‖c‖ and spill), ``neighbours`` (spill of each, largest
        first) and ``warnings``, sentences.
    """
    change = solutions["tokens"].map
    moved = _typical_move(ledger, change)
    targets = [_target(e, change) for e in ledger.entries if e.role == "change"]
    preserved = _drift([e for e in ledger.entries if e.role == "preserve"], change, moved)
    null = _drift([e for e in ledger.entries if e.role == "null"], change, moved)
    beside = sorted(
        ({"concept": name, "spill": _rms(change.moved(v)) / moved} for name, v in near),
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
        "neighbours": beside,
    }
    return {**found, "warnings": _warnings(found, ledger)}


def tokens_used(pipe: Any, requests: Sequence[Request], config: LinearConfig, meet: Any) -> Any:
    """Returns for each changed concept which tokens of its bare phrase stand for it, as JSON."""
    found = {}
    for request in changes_of(requests):
        layout = lay_out(pipe, Phrase("{}", request.concept))
        positions = [i for i, _ in meet(layout, [layout], config.tokens)]
        found[request.concept] = describe(layout, positions)
    return found


def near_vectors(
    pipe: Any, requests: Sequence[Request], given: Sequence[str], count: int, most: int = 64
) -> list[tuple[str, Tensor]]:
    """Encodes what lies near the changed concepts: given texts, and nearest words of the encoder.

    Args:
        pipe: The pipeline.
        requests: What is asked for; what they name is no neighbour.
        given: Texts of the user's.
        count: Nearest words a concept.
        most: Most nearest words in all.

    Returns:
        Text and the vectors of its last and end tokens, shape (2, d).
    """
    named = {normal(n) for request in requests for n in request.named}
    words = dict.fromkeys(given)
    found: dict[str, None] = {}
    for request in changes_of(requests):
        if count:
            found |= dict.fromkeys(neighbours(pipe, request.concept, count))
    words |= dict.fromkeys(list(found)[:most])
    phrases = [Phrase("{}", w) for w in words if normal(w) not in named]
    return [(e.phrase.concept, _own(e)) for e in encode(pipe, phrases)]


def _own(encoded: Encoded) -> Tensor:
    return encoded.states[[encoded.layout.last, encoded.layout.end]]


def _typical_move(ledger: Ledger, change: LinearMap) -> float:
    moves = [
        change.moved(e.blocks["tokens"].source) for e in ledger.entries
        if e.role == "change" and e.blocks["tokens"].source is not None
    ]  # fmt: skip
    return max(_rms(torch.cat(moves)), torch.finfo(torch.float64).tiny)


def _rms(rows: Tensor) -> float:
    return float(rows.norm()) / max(len(rows), 1) ** 0.5


def _target(entry: Entry, change: LinearMap) -> dict[str, Any]:
    block = entry.blocks["tokens"]
    assert entry.request is not None
    assert block.source is not None
    assert block.shift is not None
    assert block.index is not None
    asked = torch.zeros((len(block.source), block.shift.shape[1]), dtype=torch.float64)
    shift = block.shift if block.gains is None else block.shift * block.gains.mean(0)[:, None]
    asked.index_add_(0, block.index, shift)
    missed = asked - change.moved(block.source)
    size = float(asked.norm())
    return {
        "request": entry.request.kind,
        "concept": entry.request.concept,
        "residual": float(missed.norm()) / size if size > 0 else 0.0,
    }


def _drift(entries: Sequence[Entry], change: LinearMap, moved: float) -> dict[str, float] | None:
    squared = total = 0.0
    count = 0
    for entry in entries:
        block = entry.blocks["tokens"]
        count += entry.vectors["tokens"]
        if block.source is not None:
            squared += float(change.moved(block.source).square().sum())
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
    said = []
    for target in found["targets"]:
        if target["residual"] > RESIDUAL:
            said.append(
                f"{target['concept']!r} reaches only {1 - target['residual']:.0%} of its target: "
                "lower preserve_scale or lam_rel, or preserve less that is close to it."
            )
    if found["preserved"] and found["preserved"]["spill"] > DRIFT:
        said.append(
            f"Preserved concepts move {found['preserved']['spill']:.0%} as far as the edited ones: "
            "raise preserve_scale."
        )
    if found["null"] is None:
        said.append("The empty prompt is not held; guidance multiplies whatever it drifts.")
    elif found["null"]["spill"] > DRIFT:
        said.append(
            f"The empty prompt moves {found['null']['spill']:.0%} as far as the edited concepts, "
            "and guidance multiplies that: raise null_scale."
        )
    spilled = [n for n in found["neighbours"] if n["spill"] > SPILL]
    if spilled:
        names = ", ".join(f"{n['concept']} ({n['spill']:.0%})" for n in spilled[:5])
        said.append(f"The edit will spill onto {names}: preserve what shall stay.")
    for space, solve in found["solves"].items():
        if solve["condition"] > CONDITION:
            said.append(
                f"The solve for {space} is ill conditioned ({solve['condition']:.0e}): raise "
                "lam_rel."
            )
    if any(r.needs_weights for r in ledger.requests):
        said.append(
            "Debiasing weights were not measured, the wanted ratios stand in for them: the ratios "
            "of images will differ from what was asked."
        )
    return said
