"""Tables and the figure of MiniDreamBench, from its rows alone.

Intervals are percentile bootstraps over subjects: images of one subject are no repetitions of the
benchmark.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from experiments import CURVE, EXPERIMENTS, PRIORS, Cell
from measures import Measured
from run import RESULTS, Row, read, states

_ALIGNMENT_LOSS = 0.10
"""Relative loss of alignment that ends the useful part of a training."""
_CLOSE = 0.05
"""Relative loss of alignment up to which the best likeness is compared."""

Rows = Mapping[Cell, Row]


def interval(values: Sequence[float], seed: int = 0) -> str:
    """Returns a mean with its 95 % bootstrap interval, "0.71 (0.65 to 0.77)"."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return f"{array.mean():.2f}" if len(array) else "not measured"
    rng = np.random.default_rng(seed)
    means = array[rng.integers(len(array), size=(2000, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{array.mean():.2f} ({low:.2f} to {high:.2f})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def curve(rows: Rows, cell: Cell) -> list[Row] | None:
    """Returns the states of a model by steps, the untaught one first; None unless all are there."""
    wanted = [replace(cell, method="untaught", prior="none", steps=(0,)), *states([cell])]
    found = [rows[state] for state in wanted if state in rows]
    return found if len(found) == len(wanted) else None


def curves(rows: Rows, experiment: str) -> dict[str, dict[str, list[Row]]]:
    """Returns subject → prior → curve, of subjects that are measured completely."""
    found: dict[str, dict[str, list[Row] | None]] = {}
    for cell in EXPERIMENTS[experiment]:
        if cell.method != "untaught":
            found.setdefault(cell.subject, {})[cell.prior] = curve(rows, cell)
    return {
        subject: {prior: c for prior, c in by_prior.items() if c}
        for subject, by_prior in found.items()
        if all(by_prior.values())
    }


def steps_until_loss(states_: Sequence[Row]) -> float:
    """Returns the steps at which alignment has lost a tenth of the untaught model's.

    Between measured steps the loss is interpolated linearly; infinite if it is never reached.
    """
    start = states_[0].measured.alignment
    bar = start * (1 - _ALIGNMENT_LOSS)
    for before, after in pairwise(states_):
        a, b = before.measured.alignment, after.measured.alignment
        if b <= bar:
            share = (a - bar) / (a - b) if a > b else 0.0
            return before.steps + share * (after.steps - before.steps)
    return float("inf")


def drift_at(states_: Sequence[Row], likeness: float) -> float | None:
    """Returns the drift where a curve first reaches a likeness; None if it never does."""
    for before, after in pairwise(states_):
        a, b = before.measured, after.measured
        if b.clip_likeness >= likeness:
            share = (likeness - a.clip_likeness) / max(b.clip_likeness - a.clip_likeness, 1e-9)
            return a.clip_drift + float(np.clip(share, 0, 1)) * (b.clip_drift - a.clip_drift)
    return None


def best_aligned(states_: Sequence[Row]) -> float:
    """Returns the best likeness among states whose alignment is within 5 % of the untaught's."""
    bar = states_[0].measured.alignment * (1 - _CLOSE)
    return max(r.measured.clip_likeness for r in states_ if r.measured.alignment >= bar)


_MEANS = {
    "likeness (CLIP)": "clip_likeness", "likeness (DINO's part)": "likeness",
    "drift (CLIP)": "clip_drift", "drift (DINO's part)": "drift", "alignment": "alignment",
    "TA": "ta",
}  # fmt: skip


def means(rows: Rows, cells: Iterable[Cell], key: Mapping[str, Callable[[Cell], str]]) -> str:
    """Returns means over the subjects of states that are alike, with their intervals."""
    found: dict[tuple[str, ...], list[Measured]] = {}
    for state in states(cells):
        if state in rows:
            found.setdefault(tuple(of(state) for of in key.values()), []).append(
                rows[state].measured
            )
    lines = [
        [*names, str(len(of)), *(interval([getattr(m, name) for m in of])
                                 for name in _MEANS.values())]
        for names, of in found.items()
    ]  # fmt: skip
    return markdown([*key, "subjects", *_MEANS], lines)


def _prior(cell: Cell) -> str:
    return cell.method if cell.method == "untaught" else cell.prior


def _last(cell: Cell) -> str:
    return str(cell.steps[-1])


def prior_table(experiment: str) -> Callable[[Rows], str]:
    """Returns a function that gives likeness, drift and alignment over steps, and the claims."""

    def table(rows: Rows) -> str:
        cells = EXPERIMENTS[experiment]
        over_steps = means(rows, cells, {"prior": _prior, "steps": _last})
        found = curves(rows, experiment)
        parts = [over_steps, _claims(found), _differences(found), _complete(rows, cells)]
        return "\n\n".join(parts)

    return table


def methods(rows: Rows) -> str:
    """Returns likeness, drift and alignment of each method under each prior."""
    cells = EXPERIMENTS["methods"]
    key = {"method": lambda cell: cell.method, "prior": _prior, "steps": _last}
    return f"{means(rows, cells, key)}\n\n{_complete(rows, cells)}"


def _claims(found: Mapping[str, Mapping[str, list[Row]]]) -> str:
    """Returns what the paper claims of structured class images, subject by subject."""
    priors = list(next(iter(found.values()), {}))
    others = [p for p in priors if p != "structured"]
    head = [
        "subject",
        *(f"steps to −10 %: {p}" for p in priors),
        *(f"drift, structured / {p}" for p in others),
        *(f"best likeness: {p}" for p in priors),
    ]
    lines = [
        [
            subject,
            *(_steps(steps_until_loss(c), c[-1].steps) for c in of.values()),
            *(_drifts(of["structured"], of[p]) for p in others),
            *(f"{best_aligned(c):.2f}" for c in of.values()),
        ]
        for subject, of in found.items()
    ]
    return markdown(head, lines)


def _differences(found: Mapping[str, Mapping[str, list[Row]]]) -> str:
    """Returns how structured class images differ from the other priors in the last states."""
    measures = ("clip_likeness", "clip_drift", "alignment")
    lines = []
    for other in next(iter(found.values()), {}):
        if other != "structured":
            last = [(of["structured"][-1].measured, of[other][-1].measured)
                    for of in found.values()]  # fmt: skip
            lines.append([
                other, *(interval([getattr(a, m) - getattr(b, m) for a, b in last])
                         for m in measures),
            ])  # fmt: skip
    return markdown(["structured − other prior", "likeness", "drift", "alignment"], lines)


def _drifts(own: Sequence[Row], other: Sequence[Row]) -> str:
    """Returns the drift of two curves at the largest likeness that both reach, "0.10 / 0.32"."""
    shared = min(max(r.measured.clip_likeness for r in c) for c in (own, other))
    first, second = drift_at(own, shared), drift_at(other, shared)
    return "" if first is None or second is None else f"{first:.2f} / {second:.2f}"


def _steps(value: float, last: int) -> str:
    return f"over {last}" if np.isinf(value) else f"{value:.0f}"


def caption_table(experiment: str) -> Callable[[Rows], str]:
    """Returns a function that gives NSD and SA with plain captions and with SID's, by method."""

    def table(rows: Rows) -> str:
        lines = _plain_against_sid(rows, [c for c in EXPERIMENTS[experiment] if c.case == 1])
        head = ["method", "bias", "pairs", "NSD plain", "SID − plain", "SA plain", "SID − plain",
                "TA plain", "SID − plain"]  # fmt: skip
        return f"{markdown(head, lines)}\n\n{_complete(rows, EXPERIMENTS[experiment])}"

    return table


def _plain_against_sid(rows: Rows, cells: Sequence[Cell]) -> list[list[str]]:
    lines = []
    methods = list(dict.fromkeys(c.method for c in cells))
    for method in methods:
        for bias in (*dict.fromkeys((c.bias, c.references) for c in cells), None):
            pairs = [
                (rows[c].measured, rows[replace(c, case=3)].measured)
                for c in cells
                if c.method == method
                and (bias is None or (c.bias, c.references) == bias)
                and c in rows
                and replace(c, case=3) in rows
            ]
            if not pairs:
                continue
            name = "all" if bias is None else "single reference" if bias[1] == 1 else bias[0]
            line = [method, name, str(len(pairs))]
            for measure in ("nsd", "sa", "ta"):
                plain = float(np.mean([getattr(a, measure) for a, _ in pairs]))
                change = [getattr(b, measure) - getattr(a, measure) for a, b in pairs]
                line += [f"{plain:.2f}", f"{'+' if np.mean(change) >= 0 else ''}{interval(change)}"]
            lines.append(line)
    return lines


def plain_table(name: str) -> Callable[[Rows], str]:
    """Returns a function that lists the measurements of an experiment's cells."""

    def table(rows: Rows) -> str:
        measures = ("clip_likeness", "clip_drift", "alignment", "place", "style", "ta", "sa", "nsd")
        lines = [
            [
                c.subject, c.method, c.prior, str(c.case), c.bias, str(c.references),
                str(c.class_images), str(c.steps[0]),
                *(f"{getattr(rows[c].measured, m):.2f}" for m in measures),
            ]
            for c in states(EXPERIMENTS[name])
            if c in rows
        ]  # fmt: skip
        head = ["subject", "method", "prior", "case", "bias", "references", "class images", "steps",
                "likeness", "drift", "alignment", "place", "style", "TA", "SA", "NSD"]  # fmt: skip
        return f"{markdown(head, lines)}\n\n{_complete(rows, EXPERIMENTS[name])}"

    return table


def slots(rows: Rows) -> str:
    """Returns the measurements with each slot left out, at the steps that all have."""
    lines = []
    cells = [c for c in states(EXPERIMENTS["slots"]) if c.steps[0] in (300, 600)]
    for without, steps in dict.fromkeys((c.without, c.steps[0]) for c in cells):
        own = [
            rows[c].measured
            for c in cells
            if (c.without, c.steps[0]) == (without, steps) and c in rows
        ]
        values = [
            interval([getattr(m, name) for m in own])
            for name in ("clip_likeness", "clip_drift", "alignment", "place", "style")
        ]
        lines.append([without or "nothing", str(steps), str(len(own)), *values])
    head = ["left out", "steps", "subjects", "likeness (CLIP)", "drift (CLIP)", "alignment",
            "place", "style"]  # fmt: skip
    return f"{markdown(head, lines)}\n\n{_complete(rows, EXPERIMENTS['slots'])}"


def _complete(rows: Rows, cells: Iterable[Cell]) -> str:
    wanted = list(states(cells))
    found = sum(c in rows for c in wanted)
    hours = sum(rows[c].seconds for c in wanted if c in rows) / 3600
    return f"{found} of {len(wanted)} states are measured; training took {hours:.1f} hours."


TABLES: Mapping[str, Callable[[Rows], str]] = {
    **{name: prior_table(name) for name in ("priors", "priors-large")},
    **{name: caption_table(name) for name in ("sid", "sid-longer")},
    "methods": methods,
    "slots": slots,
    **{name: plain_table(name) for name in ("both", "cases", "sizes", "untaught")},
}
"""Experiment → its table."""


def figure(rows: Rows) -> Any:
    """Returns likeness against drift over steps, one line a prior, the mean over subjects."""
    from matplotlib.figure import Figure

    found = curves(rows, "priors")
    figure = Figure(figsize=(3.4, 2.8), layout="constrained")
    axes = figure.subplots()
    for prior, colour in zip(PRIORS, ("#d55e00", "#e69f00", "#0072b2", "#009e73"), strict=True):
        points = np.array([
            [(r.measured.clip_drift, r.measured.clip_likeness) for r in of[prior]]
            for of in found.values()
        ]).mean(axis=0)  # fmt: skip
        axes.plot(points[:, 0], points[:, 1], "o-", color=colour, ms=3, lw=1.2, label=prior)
        axes.annotate(str(CURVE[-1]), points[-1], xytext=(4, 2), textcoords="offset points", size=7)
    axes.set_xlabel("drift of the noun (CLIP likeness of “a dog”)", size=8)
    axes.set_ylabel("likeness of “a olis dog”", size=8)
    axes.set_title(f"DreamBooth, mean of {len(found)} subjects", size=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="prior", fontsize=7, title_fontsize=7, frameon=False)
    return figure


def main() -> None:
    """Prints the tables; writes the figure where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=RESULTS)
    parser.add_argument("--experiments", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--figure", type=Path, help="write likeness against drift as SVG or PDF")
    args = parser.parse_args()
    rows = {row.cell: row for row in read(args.file)}
    for name in args.experiments:
        sys.stdout.write(f"### {name}\n\n{TABLES[name](rows)}\n\n")
    if args.figure:
        figure(rows).savefig(args.figure)


if __name__ == "__main__":
    main()
