r"""RECE: after a UCE edit, finds the vectors that would revive a concept and erases them too.

The published procedure (``train_object.py`` and ``train_artists.py`` of CharlesGong12/RECE):

1. An edit by the UCE code of 2024 (`editing.methods.closed_form.uce`).
2. For every position of the prompt "concept", the vector whose edited keys and values are nearest
   to the unedited ones of the concept, with an absolute ridge toward zero
   (`editing.linear.find_revivals`).
3. Another solve from the *edited* weights that maps these vectors to the same positions of the
   target's prompt, or of the empty prompt, and preserves all positions of the empty prompt and of
   the preserved texts: :math:`W \leftarrow W A B^{-1}` with A and B of the reviving vectors
   (`editing.linear`), λ = 0.1, erase scale 1 and preserve scale 0.1.

Steps 2 and 3 are repeated ``epochs`` times. Each step is a map on text vectors, and so is their
product. The maps are functions of the set of requests, so that adding and withdrawing requests is
exact; it solves all steps again.

Published settings: ``revive_lam`` 0.1 and three epochs for nudity, two for other unsafe concepts,
one for objects that UCE erases easily; 0.001 and one epoch (the default here and in
``train_object.py``) for artists and the other objects. Objects that UCE erases completely are left
to it. The original keeps the epoch in which a detector finds the least; here the last one is kept.
``train.py``, its script for nudity, repeats the empty prompt once per concept instead of preserving
it once; its other regularisations (``close_standardreg``, ``close_surrogatereg``) are not
implemented.

Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models" (ECCV
2024), arXiv:2407.12383.
"""

from dataclasses import replace

import torch

from editing.edit.ledger import Ledger
from editing.linear import LinearMap, Solution, Tensor, find_revivals, gram, solve
from editing.methods.closed_form.uce import UCE_2024
from editing.pipelines.weights import Space
from editing.settings import LinearConfig, ReceConfig


def solve_in_rounds(ledger: Ledger, space: Space, config: LinearConfig) -> Solution:
    """Returns the solution after ``config.epochs`` rounds of search and erasure.

    Args:
        ledger: The statistics, with Σ WᵀW of the space and entries for the search.
        space: Space of the vectors.
        config: Settings, a `ReceConfig`.

    Returns:
        The product of all maps, and λ and the largest condition number of the rounds' solves.
    """
    assert isinstance(config, ReceConfig)
    start = ledger.solve(space, config)
    kept = _preserved(ledger, space, config)
    change, condition = start.map, start.condition
    for _ in range(config.epochs):
        found = _solve_round(ledger, space, config, change, kept)
        change = change.followed_by(found.map)
        condition = max(condition, found.condition)
    return Solution(change, config.round_lam, condition, first=start.map)


def _solve_round(
    ledger: Ledger, space: Space, config: ReceConfig, change: LinearMap, kept: Tensor
) -> Solution:
    b = kept.clone()
    sources, shifts = [], []
    for entry in ledger.entries:
        if entry.role != "revive":
            continue
        block = entry.blocks[space]
        assert block.source is not None
        assert block.shift is not None
        assert entry.request is not None
        scale = config.erase_scale * entry.request.scale
        revived = find_revivals(change, block.source, config.revive_lam, ledger.second[space])
        b += gram(revived, scale)
        sources.append(revived)
        shifts.append(scale * (block.source + block.shift - revived))
    return solve(b, torch.cat(sources), torch.cat(shifts), config.round_lam)


def _preserved(ledger: Ledger, space: Space, config: ReceConfig) -> Tensor:
    """Returns the weighted second moments of all that a round preserves, shape (d, d)."""
    total = torch.zeros_like(ledger.second[space])
    for entry in ledger.entries:
        if entry.role in ("preserve", "null"):
            scale = 1.0 if entry.request is None else entry.request.scale
            total += entry.blocks[space].second_moment * config.round_preserve_scale * scale
        elif entry.role == "corpus":
            total += entry.blocks[space].second_moment * ledger.weight(entry, space, config)
    return total


RECE = replace(
    UCE_2024,
    name="rece",
    config=ReceConfig(**UCE_2024.config.model_dump()),
    kinds=frozenset({"erase", "replace", "moderate", "preserve"}),
    gains=None,
    solver=solve_in_rounds,
    revives=True,
)
