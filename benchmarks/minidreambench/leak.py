"""How much of the identifier's attention lies outside the subject, with plain and SID's captions.

Every trained cell of the experiment `sid` is read again from its checkpoint (`run.py` first). The
references are noised, and the attention of "a olis dog" to the identifier is compared with the
references' exact masks. SID (arXiv:2403.15330) shows such maps without a number.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import EXPERIMENTS, Cell
from rowfiles import append_row, read_rows
from run import Runner, read
from subjects import BY_NAME, IDENTIFIER, load_art, references
from tables import interval, markdown

from editing.pipelines.attention import attention_of_images, leak, positions_of

FILE = Path(__file__).parent / "leak.jsonl"


def leaks(runner: Runner, cell: Cell) -> dict[str, float]:
    """Returns the leak of the identifier, and the share of the references outside the subject."""
    shown = references(BY_NAME[cell.subject], runner.art, cell.references, cell.bias)
    edit = runner.taught(cell, shown.subject(cell.case))
    prompt = f"a {edit.requests[0].concept}"
    with edit.applied(runner.pipe, force=True):
        found = attention_of_images(runner.pipe, shown.images, prompt)
        positions = positions_of(runner.pipe, prompt, IDENTIFIER)
    masks = shown.masks.astype(np.float64)
    return {
        "leak": float(leak(found.of_positions(positions), masks).mean()),
        "outside": float(1 - masks.mean()),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the change of the leak from plain captions to SID's, method by method."""
    values = {_cell(row): row["leak"] for row in rows}
    lines = []
    for method in dict.fromkeys(cell.method for cell in values):
        plain = [c for c in values if c.method == method and c.case == 1]
        both = [(values[c], values[sid]) for c in plain if (sid := replace(c, case=3)) in values]
        change = [b - a for a, b in both]
        lower = sum(c < 0 for c in change)
        lines.append([
            method, str(len(both)), f"{np.mean([a for a, _ in both]):.3f}",
            f"{np.mean([b for _, b in both]):.3f}", interval(change), f"{lower} of {len(both)}",
        ])  # fmt: skip
    head = ["method", "pairs", "leak, plain", "leak, SID", "SID − plain", "lower"]
    return markdown(head, lines)


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(**{**row["cell"], "steps": tuple(row["cell"]["steps"])})


def main() -> None:
    """Measures the cells that are trained and not yet measured, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-cache/minidreambench"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results.jsonl")
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--table", action="store_true", help="print the measured table alone")
    args = parser.parse_args()
    rows = read_rows(args.file)
    if not args.table:
        runner = Runner(load_art(args.art), args.out, args.results)
        trained = {row.cell for row in read(args.results)}
        known = {_cell(row) for row in rows}
        for cell in EXPERIMENTS["sid"]:
            if cell not in trained or cell in known:
                continue
            row = {"cell": asdict(cell)}
            row |= {name: round(value, 4) for name, value in leaks(runner, cell).items()}
            rows.append(row)
            append_row(args.file, row)
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
