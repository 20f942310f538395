"""Speed of the closed form: 100 erased and 1,000 preserved concepts, after text encoding.

Random text vectors and weights of the sizes of Stable Diffusion 1 and XL, one vector per concept.
Three implementations alternate in one run:

- ours: ledger → statistics → one factorisation → delta of every layer, added to its weight;
- bare: the products and the Cholesky factorisation that this requires, in plain torch;
- original (``trainscripts/uce_sd_erase.py``): each layer separately, sums of outer products
  concept by concept, an explicit inverse, single precision. It is timed on two layers and scaled
  to their total number, since all layers of SDXL would take an hour.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from editing.edit.deltas import SharedMap
from editing.edit.ledger import Block, Entry, Ledger
from editing.pipelines.weights import Projection
from editing.requests import Erase, Preserve
from editing.settings import LinearConfig

ERASED, PRESERVED = 100, 1_000
#: Family → (text width, layer width → number of cross-attentions, each with keys and values).
FAMILIES = {
    "SD 1.x": (768, {320: 5, 640: 5, 1280: 6}),
    "SDXL": (2048, {640: 10, 1280: 60}),
}
#: Family → maximum seconds. The maximum ratio to the bare computation follows.
LIMITS = {"SD 1.x": 2.0, "SDXL": 10.0}
RATIO = 1.5
#: Number of layers on which the original implementation is timed.
TIMED_LAYERS = 2
CONFIG = LinearConfig(tokens="last", lam=0.5, preserve_scale=1.0, null_scale=0.0, pooled="leave")


class Problem:
    """Weights and text vectors of one family's size."""

    def __init__(self, width: int, layers: dict[int, int], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        outs = [n for n, count in layers.items() for _ in range(2 * count)]
        self.weights = [torch.randn((n, width), generator=generator) / width**0.5 for n in outs]
        self.erased = torch.randn((ERASED, width), generator=generator)
        self.targets = torch.randn((ERASED, width), generator=generator)
        self.preserved = torch.randn((PRESERVED, width), generator=generator)

    def ours(self) -> list[torch.Tensor]:
        """Returns the new weights of all layers, as the package computes them."""
        entries = []
        for i, (source, target) in enumerate(zip(self.erased, self.targets, strict=True)):
            shift = (target.double() - source.double())[None]
            block = Block(source[None], None, shift, torch.zeros(1, dtype=torch.int64))
            entries.append(
                Entry("change", Erase(f"concept {i}"), 1, {"tokens": 1}, {"tokens": block})
            )
        preserved = Preserve([f"text {i}" for i in range(PRESERVED)])
        block = Block(self.preserved)
        entries.append(
            Entry("preserve", preserved, PRESERVED, {"tokens": PRESERVED}, {"tokens": block})
        )
        found = Ledger(tuple(entries)).solve("tokens", CONFIG).map
        layers = tuple(
            Projection(str(i), "tokens", (0, w.shape[1])) for i, w in enumerate(self.weights)
        )
        change = SharedMap(layers, found)
        return [(w.double() + change.delta(str(i), w)).float() for i, w in enumerate(self.weights)]

    def bare(self) -> list[torch.Tensor]:
        """Returns the same weights by the necessary computation only."""
        c, preserved = self.erased.double(), self.preserved.double()
        b = c.T @ c + preserved.T @ preserved
        b.diagonal().add_(0.5)
        right = torch.cholesky_solve(c.T, torch.linalg.cholesky(b)).T
        left = self.targets.double() - c
        found = []
        for weight in self.weights:
            wide = weight.double()
            found.append((wide + (wide @ left.T) @ right).float())
        return found

    def original(self, layers: list[int]) -> list[torch.Tensor]:
        """Returns the same weights for the listed layers, by the published implementation."""
        found = []
        for i in layers:
            weight = self.weights[i]
            width = weight.shape[1]
            one, two = 0.5 * weight, 0.5 * torch.eye(width)
            for source, target in zip(self.erased, self.targets, strict=True):
                value = weight @ target
                one = one + value[:, None] @ source[None]
                two = two + source[:, None] @ source[None]
            for text in self.preserved:
                value = weight @ text
                one = one + value[:, None] @ text[None]
                two = two + text[:, None] @ text[None]
            found.append(one @ torch.inverse(two))
        return found


def seconds(function: Callable[[], Any]) -> float:
    """Returns the wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_family(name: str, runs: int) -> dict[str, Any]:
    """Times one family."""
    width, layers = FAMILIES[name]
    problem = Problem(width, layers)
    timed = [0, len(problem.weights) - 1][:TIMED_LAYERS]
    new = problem.ours()
    exact = problem.bare()
    difference = max(float((a - b).abs().max()) for a, b in zip(new, exact, strict=True))
    theirs = problem.original(timed)
    change_norms = [(exact[i] - problem.weights[i]).norm() for i in timed]
    error = max(
        float((t - exact[i]).norm() / m)
        for t, i, m in zip(theirs, timed, change_norms, strict=True)
    )
    ours, bare, original = [], [], []
    for _ in range(runs):
        ours.append(seconds(problem.ours))
        bare.append(seconds(problem.bare))
        original.append(seconds(lambda: problem.original(timed)) / len(timed) * len(new))
    elapsed, ratio = (
        statistics.median(ours),
        statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
    )
    return {
        "layers": len(new),
        "ours_s": [round(t, 3) for t in ours],
        "bare_s": [round(t, 3) for t in bare],
        "original_way_s": [round(t, 1) for t in original],
        "original_over_ours": round(statistics.median(original) / elapsed, 1),
        "ratio_to_bare": round(ratio, 3),
        "bars": {"seconds": LIMITS[name], "ratio": RATIO},
        "met": elapsed <= LIMITS[name] and ratio <= RATIO,
        "largest_difference_of_weights": difference,
        "original_way_error_relative_to_change": error,
    }


def main() -> None:
    """Times both families, prints the results and writes ``solve.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="SD 1.x once, nothing written")
    args = parser.parse_args()
    names = ["SD 1.x"] if args.quick else list(FAMILIES)
    results: dict[str, Any] = {
        "erased": ERASED,
        "preserved": PRESERVED,
        "machine": {
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "platform": platform.machine(),
            "torch": torch.__version__,
        },
    }
    for name in names:
        results[name] = time_family(name, 1 if args.quick else args.runs)
    text = json.dumps(results, indent=1) + "\n"
    sys.stdout.write(text)
    if not args.quick:
        Path(__file__).with_name("solve.json").write_text(text)


if __name__ == "__main__":
    main()
