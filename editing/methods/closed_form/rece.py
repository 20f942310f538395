r"""RECE: finds the vectors that would revive an erased concept, and erases them too.

After a solve, the vectors that revive each erased concept are found in closed form
(`editing.linear.find_revivals`) and join the sources, with the same targets. Then everything is
solved again from the unedited weights, so that the result is one map and does not depend on the
order of requests. The published code instead edits the edited weights again in each epoch.

Debiased concepts are not erased and are left out of the search.

Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models" (ECCV
2024), arXiv:2407.12383.
"""

import torch

from editing.edit.ledger import Ledger
from editing.linear import Solution, Tensor, find_revivals
from editing.methods.closed_form import ClosedForm
from editing.pipelines.weights import Space
from editing.settings import LinearConfig


def revive_and_solve(ledger: Ledger, space: Space, config: LinearConfig) -> Solution:
    """Returns the solution after ``config.epochs`` rounds of revival and another solve.

    Args:
        ledger: The statistics, with Σ WᵀW of the space.
        space: Space of the vectors.
        config: Settings.
    """
    second = ledger.second[space]
    solution = ledger.solve(space, config)
    revivals: list[tuple[Tensor, Tensor, float]] = []
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
            revived = find_revivals(solution.map, second, own, config.revive_rel)
            target = own + block.shift
            found.append((revived, target - revived, ledger.weight(entry, space, config)))
        if not found:
            break
        revivals += found
        solution = ledger.solve(space, config, revivals)
    return solution


RECE = ClosedForm("rece", LinearConfig(lam_rel=1e-4), solver=revive_and_solve, reads_weights=True)
