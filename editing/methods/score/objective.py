r"""The objective of the score family, of which published methods are special cases.

Classifier-free guidance samples with N + s·g(c), where N = ε(x, ∅) is the unconditional score and
g(c) = ε(x, c) − ε(x, ∅) the guidance term of a prompt. With the frozen model marked by *, a concept
c is edited by

    L = ‖[ε(x, c) − N] − G‖² + λ_u ‖ε(x, ∅) − ε*(x, ∅)‖² + λ_p ‖ε(x, p) − ε*(x, p)‖²

where G is the goal of the guidance term: that of another concept, g*(a); zero; or its own negated,
−η g*(c).

| method | G | N | λ_u |
|---|---|---|---|
| ESD | −η g*(c) | ε*(x, ∅), the frozen model's | 0 |
| Concept Ablation | ε°(x, a) − ε*(x, ∅), ° the model itself without gradient | ε*(x, ∅) | 0 |
| All-but-One | g*(a), 0 or −η g*(c) | the model's own, without gradient | > 0 |

ESD's published loss ‖ε(x, c) − [ε*(x, ∅) − η g*(c)]‖² equals the first row, rearranged. At L = 0
with the model's own N, guidance at *every* scale s gives for c what the frozen model gives for a.
If N drifts by u without constraint, as with ESD, the sampling error is (1 − s) u, which is many
times u at usual s.

All functions are pure. Tensors have shape (n, …); results are means over the elements of each row.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Tensor = torch.Tensor

Aim = Literal["alternative", "zero", "negate"]
"""The goal of the concept's guidance term: G."""
Reference = Literal["frozen", "detached", "live"]
"""The choice of N: the frozen model's unconditional score, or the trained model's without or with
gradient."""
Parametrisation = Literal["paper", "code"]
"""The convention for η: that of ESD's paper, or of its current code, which is larger by one."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Predictions at n points.

    Attributes:
        concept: For the concept's prompt; None if not needed.
        null: For the empty prompt; None if not needed.
        target: For the target's prompt; None if not needed.
        preserved: For a preserved prompt; None if not needed.
    """

    concept: Tensor | None = None
    null: Tensor | None = None
    target: Tensor | None = None
    preserved: Tensor | None = None


def paper_eta(eta: float, parametrisation: Parametrisation) -> float:
    """Returns η in the convention of ESD's paper.

    The goal of the paper is ε*(∅) − η (ε*(c) − ε*(∅)). That of the current code is
    ε*(c) − η' (ε*(c) − ε*(∅)) = ε*(∅) − (η' − 1) (ε*(c) − ε*(∅)), so that 2 in the code (for SD)
    is 1 in the paper, and 1 (for SDXL) is 0: the guidance term is removed, not negated.
    """
    return eta if parametrisation == "paper" else eta - 1


def guidance_goal(aim: Aim, frozen: Scores, eta: float = 1.0) -> Tensor:
    """Returns G.

    Args:
        aim: Kind of goal.
        frozen: Scores of the frozen model: null, and target or concept as the aim needs.
        eta: η in the convention of the paper.

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


def surgical_loss(concept: Tensor, null: Tensor, goal: Tensor) -> Tensor:
    """Returns ‖[ε(x, c) − N] − G‖² of each row, the mean over its elements.

    Args:
        concept: ε(x, c), shape (n, …).
        null: N.
        goal: G.

    Returns:
        Shape (n,).
    """
    return ((concept - null) - goal).square().flatten(1).mean(1)


def drift(trained: Tensor, frozen: Tensor) -> Tensor:
    """Returns the drift of predictions, ‖ε − ε*‖² of each row, the mean over its elements."""
    return (trained - frozen).square().flatten(1).mean(1)


def select_reference(kind: Reference, trained: Tensor | None, frozen: Tensor | None) -> Tensor:
    """Returns N.

    Args:
        kind: Choice of N.
        trained: ε(x, ∅) of the trained model, for "detached" and "live".
        frozen: ε*(x, ∅), for "frozen".
    """
    if kind == "frozen":
        assert frozen is not None
        return frozen
    assert trained is not None
    return trained.detach() if kind == "detached" else trained
