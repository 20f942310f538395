r"""The objective of the score family: one expression, of which published methods are cases.

Classifier-free guidance samples with N + s·g(c), where N = ε(x, ∅) is the unconditional score and
g(c) = ε(x, c) − ε(x, ∅) the guidance term of a prompt. With the frozen model marked by *, a concept
c is edited by

    L = ‖[ε(x, c) − N] − G‖² + λ_u ‖ε(x, ∅) − ε*(x, ∅)‖² + λ_p ‖ε(x, p) − ε*(x, p)‖²

where G is what the concept's guidance term shall be: another concept's, g*(a); nothing, 0; or its
own turned round, −η g*(c).

| method | G | N | λ_u |
|---|---|---|---|
| ESD | −η g*(c) | ε*(x, ∅), the frozen model's | 0 |
| Concept Ablation | ε°(x, a) − ε*(x, ∅), ° the model itself without gradient | ε*(x, ∅) | 0 |
| All-but-One | g*(a), 0 or −η g*(c) | the model's own, without gradient | > 0 |

ESD's published loss ‖ε(x, c) − [ε*(x, ∅) − η g*(c)]‖² is the first row with its terms moved. At
L = 0 with N the model's own, guidance at *every* scale s gives for c what the frozen model gives
for a; where N drifts by u unseen, as with ESD, the sampling error is (1 − s) u, which a usual s
makes many times u.

Pure functions on tensors: shape (n, …), one result a row, means over elements.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Tensor = torch.Tensor

Aim = Literal["alternative", "zero", "negate"]
"""What the concept's guidance term shall be: G."""
Reference = Literal["frozen", "detached", "live"]
"""What stands for N: the frozen model's unconditional score, the trained model's without gradient,
or the trained model's with it."""
Parametrisation = Literal["paper", "code"]
"""Whose η: ESD's paper's, or its present-day code's, which is larger by one."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Predictions at n points.

    Attributes:
        concept: With the concept's prompt; None where not needed.
        null: With the empty prompt; None where not needed.
        target: With the alternative's prompt; None where not needed.
        kept: With a preserved prompt; None where not needed.
    """

    concept: Tensor | None = None
    null: Tensor | None = None
    target: Tensor | None = None
    kept: Tensor | None = None


def paper_eta(eta: float, parametrisation: Parametrisation) -> float:
    """Returns η as ESD's paper counts it.

    The paper aims at ε*(∅) − η (ε*(c) − ε*(∅)). The code of today aims at
    ε*(c) − η' (ε*(c) − ε*(∅)) = ε*(∅) − (η' − 1) (ε*(c) − ε*(∅)), so that its 2 (for SD) is the
    paper's 1, and its 1 (for SDXL) the paper's 0: the concept is dropped, not turned round.
    """
    return eta if parametrisation == "paper" else eta - 1


def aimed(aim: Aim, frozen: Scores, eta: float = 1.0) -> Tensor:
    """Returns G.

    Args:
        aim: Which.
        frozen: The frozen model's scores: null always, target or concept as the aim needs.
        eta: η as the paper counts it.

    Returns:
        Shape (n, …), in the dtype of the scores.
    """
    assert frozen.null is not None
    match aim:
        case "alternative":
            assert frozen.target is not None
            return frozen.target - frozen.null
        case "zero":
            return torch.zeros_like(frozen.null)
        case "negate":
            assert frozen.concept is not None
            return -eta * (frozen.concept - frozen.null)


def surgical(concept: Tensor, null: Tensor, aim: Tensor) -> Tensor:
    """Returns ‖[ε(x, c) − N] − G‖² of each row, the mean over its elements.

    Args:
        concept: ε(x, c), shape (n, …).
        null: N.
        aim: G.

    Returns:
        Shape (n,).
    """
    return ((concept - null) - aim).square().flatten(1).mean(1)


def drift(trained: Tensor, frozen: Tensor) -> Tensor:
    """Returns how far predictions went, ‖ε − ε*‖² of each row, the mean over its elements."""
    return (trained - frozen).square().flatten(1).mean(1)


def reference(kind: Reference, trained: Tensor | None, frozen: Tensor | None) -> Tensor:
    """Returns N.

    Args:
        kind: Which.
        trained: ε(x, ∅) of the trained model, for "detached" and "live".
        frozen: ε*(x, ∅), for "frozen".
    """
    if kind == "frozen":
        assert frozen is not None
        return frozen
    assert trained is not None
    return trained.detach() if kind == "detached" else trained
