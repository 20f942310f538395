r"""RECE: find what would bring an erased concept back, and erase that too.

After a solve, the vectors that revive each erased concept are found in closed form
(`editing.linear.revived`) and join the sources, with the same targets; then all is solved again,
from the unedited weights, so that the result is one map and does not depend on the order of
requests. The published code instead edits the edited weights once more an epoch.

A debiased concept is not gone and is not searched for.

Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models" (ECCV
2024), arXiv:2407.12383.
"""

import torch

from editing.edit.ledger import Ledger
from editing.linear import Solution, Tensor, revived
from editing.methods.closed_form import ClosedForm
from editing.pipelines.weights import Space
from editing.settings import LinearConfig


def revive_and_solve(ledger: Ledger, space: Space, config: LinearConfig) -> Solution:
    """Solves, then ``config.epochs`` times revives and solves again.

    Args:
        ledger: The statistics, with Σ WᵀW of the space.
        space: Which vectors.
        config: Settings.
    """
    second = ledger.second[space]
    solution = ledger.solve(space, config)
    also: list[tuple[Tensor, Tensor, float]] = []
    for _ in range(config.epochs):
        found = []
        for entry in ledger.entries:
            block = entry.blocks.get(space)
            if entry.request is None or not entry.request.concept or block is None:
                continue
            if entry.request.keeps_own:
                continue
            assert block.source is not None
            assert block.shift is not None
            own = block.source.to(torch.float64)
            back = revived(solution.map, second, own, config.revive_rel)
            target = own + block.shift
            found.append((back, target - back, ledger.weight(entry, space, config)))
        if not found:
            break
        also += found
        solution = ledger.solve(space, config, also)
    return solution


RECE = ClosedForm("rece", LinearConfig(lam_rel=1e-4), solver=revive_and_solve, reads_weights=True)
