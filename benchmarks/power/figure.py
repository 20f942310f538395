"""The figure of both error rates: claims where nothing differs, and planted concepts found.

Reads `benchmarks/null/results.json` and `benchmarks/power/results.json`:

    .venv/bin/python benchmarks/power/figure.py --out errors.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visdiff.stats.proportions import wilson

HERE = Path(__file__).parent
_COLOURS = ("#d55e00", "#0072b2", "#009e73")


def figure(null: dict[str, Any], power: dict[str, Any]) -> Figure:
    """Returns the figure, 6.8 inches wide.

    Args:
        null: Results of the null benchmark.
        power: Results of the power benchmark.
    """
    result = Figure(figsize=(6.8, 2.6), layout="constrained")
    left, right = result.subplots(1, 2, width_ratios=(1, 1.4))
    _nulls(left, null, power)
    _power(right, power)
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return result


def _nulls(axes: Axes, null: dict[str, Any], power: dict[str, Any]) -> None:
    rows = [
        ("published\nprocedure", null["pairs_with_any_claim_by_the_originals_procedure"],
         null["pairs"]),
        (f"images,\n{null['images_a_side']} a side", null["pairs_with_any_confirmed"],
         null["pairs"]),
        *((f"captions,\n{c['a_side']} a side", c["anything"], c["trials"])
          for c in power["cells"] if not c["share"]),
    ]  # fmt: skip
    for i, (_, count, n) in enumerate(rows):
        low, high = wilson(count, n)
        share = count / n
        axes.errorbar(i, share, [[share - low], [high - share]], fmt="o", ms=4, capsize=2,
                      color=_COLOURS[0] if not i else _COLOURS[1])  # fmt: skip
        axes.annotate(f"{count}/{n}", (i, high), xytext=(0, 3), textcoords="offset points",
                      ha="center", size=7)  # fmt: skip
    axes.axhline(0.05, color="#999999", lw=0.8, ls=":")
    axes.set_xticks(range(len(rows)), [name for name, _, _ in rows], size=6)
    axes.set_title("Nothing differs: runs that claim something", size=8)


def _power(axes: Axes, power: dict[str, Any]) -> None:
    sizes = sorted({c["a_side"] for c in power["cells"]})
    for size, colour in zip(sizes, _COLOURS, strict=True):
        cells = [c for c in power["cells"] if c["a_side"] == size and c["share"]]
        x = [100 * c["share"] for c in cells]
        found = np.array([c["found"] / c["trials"] for c in cells])
        words = [c["tfidf"] / c["trials"] for c in cells]
        axes.plot(x, found, "o-", ms=3, lw=1.2, color=colour, label=f"{size} a side")
        axes.plot(x, words, ":", lw=0.8, color=colour)
    axes.set_xlabel("captions of A with the planted concept, %", size=7)
    axes.set_title("Planted concept confirmed (dotted: TF-IDF, untested)", size=8)
    axes.legend(fontsize=7, frameon=False, loc="lower right")


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "errors.svg")
    args = parser.parse_args()
    null = json.loads((HERE.parent / "null/results.json").read_text("utf-8"))
    power = json.loads((HERE / "results.json").read_text("utf-8"))
    figure(null, power).savefig(args.out)


if __name__ == "__main__":
    main()
