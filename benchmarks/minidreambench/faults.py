"""Whether the audit of a personalised model names a fault that was planted in it.

Twelve models are taught with one fault each: references with one of SID's biases and captions that
name the subject alone (300 steps), or 2,000 steps. Both are without a prior: with images of one
prompt, 600 steps teach the bundled model neither the subject nor its fault. A fault is found if it
is among the first three findings of the audit. Six models are taught well, from unbiased references
with captions of their surroundings and structured class images; their audit should confirm nothing.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import Cell
from measures import SAMPLING
from rowfiles import append_row, read_rows
from subjects import BY_NAME, load_art, references

from editing.audits.audit import audit
from editing.edit import Edit
from editing.personalize import find
from editing.pipelines.loading import load_pipeline
from visdiff.cache import Cache
from visdiff.miniature.render import Art

IMAGES = 24
"""Pairs of images of each prompt group."""

_FIRST = 3


@dataclass(frozen=True)
class Planted:
    """A model of the benchmark.

    Attributes:
        fault: Kinds of findings that name its fault; () if it was taught well.
        cell: How it was taught.
    """

    fault: tuple[str, ...]
    cell: Cell

    @property
    def name(self) -> str:
        """Its name in results and folders."""
        fault = self.fault[0].replace(" ", "-") if self.fault else "none"
        return f"{self.cell.subject.replace(' ', '-')}_{fault}"


def _biased(fault: str, bias: Any, *subjects: str) -> list[Planted]:
    return [Planted((fault,), Cell(s, case=1, bias=bias, steps=(300,))) for s in subjects]


MODELS = (
    *_biased("background", "background", "fox", "teapot", "racing car"),
    *_biased("nearby object", "nearby", "rabbit", "backpack"),
    *_biased("worn object", "tied", "penguin", "fox"),
    *_biased("style", "style", "teapot", "dragon"),
    *(
        Planted((), Cell(s, prior="structured", steps=(600,)))
        for s in ("fox", "rabbit", "penguin", "teapot", "backpack", "racing car")
    ),
    *(
        Planted(("language drift",), Cell(s, prior="none", steps=(2000,)))
        for s in ("canoe", "fox", "backpack")
    ),
)


def taught(pipe: Any, planted: Planted, art: Art, out: Path) -> Edit:
    """Trains a model of the benchmark, or loads it."""
    saved = out / "faults" / f"{planted.name}.safetensors"
    if not saved.is_file():
        cell = planted.cell
        saved.parent.mkdir(parents=True, exist_ok=True)
        find(cell.method).fit(
            pipe,
            references(BY_NAME[cell.subject], art, cell.references, cell.bias).subject(cell.case),
            prior=cell.prior,
            class_folder=out / "class-images",
            steps=cell.steps[0],
            prior_images=cell.class_images,
            checkpoint=saved.with_suffix(".checkpoint.safetensors"),
            save_every=500,
        ).save(saved)
    return Edit.load(saved)


def measure(pipe: Any, planted: Planted, art: Art, out: Path) -> dict[str, Any]:
    """Audits a model, and returns its findings and whether they are right."""
    started = time.perf_counter()
    edit = taught(pipe, planted, art, out)
    cell = planted.cell
    shown = references(BY_NAME[cell.subject], art, cell.references, cell.bias)
    with Cache(out / "cache") as cache:
        report = audit(
            pipe, edit, out / "faults" / planted.name, images=IMAGES, settings=SAMPLING,
            references=shown.subject(cell.case), batch_size=16, preset="miniature", cache=cache,
            progress=False,
        )  # fmt: skip
    report.save(out / "faults" / planted.name / "report")
    return {
        "name": planted.name,
        "fault": list(planted.fault),
        "findings": [f"{f.kind}: {f.sentence}" for f in report.findings],
        "found": any(f.kind in planted.fault for f in report.findings[:_FIRST]),
        "clean": not report.findings,
        "seconds": round(time.perf_counter() - started),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the kinds of each model's first findings as a Markdown table, and the two counts."""
    lines = ["| model | planted | right | first findings |", "|---|---|---|---|"]
    for row in rows:
        right = row["found"] if row["fault"] else row["clean"]
        first = [finding.split(":")[0] for finding in row["findings"][:_FIRST]]
        lines.append(
            f"| {row['name'].split('_')[0]} | {', '.join(row['fault']) or 'nothing'} | "
            f"{'yes' if right else 'no'} | {', '.join(first) or 'nothing confirmed'} |"
        )
    faults = [r for r in rows if r["fault"]]
    well = [r for r in rows if not r["fault"]]
    lines.append(
        f"\nFaults among the first {_FIRST} findings: {sum(r['found'] for r in faults)} of "
        f"{len(faults)}. Models taught well of which nothing is confirmed: "
        f"{sum(r['clean'] for r in well)} of {len(well)}."
    )
    return "\n".join(lines)


def main() -> None:
    """Measures the missing models and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-cache/minidreambench"))
    parser.add_argument("--file", type=Path, default=Path(__file__).parent / "faults.jsonl")
    kinds = list(dict.fromkeys(kind for m in MODELS for kind in m.fault or ("none",)))
    parser.add_argument("--faults", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--table", action="store_true", help="print the measured table alone")
    args = parser.parse_args()
    rows = read_rows(args.file)
    if not args.table:
        pipe, art = load_pipeline("miniature"), load_art(args.art)
        done = {row["name"] for row in rows}
        for planted in MODELS:
            if planted.name in done or not set(planted.fault or ("none",)) & set(args.faults):
                continue
            rows.append(measure(pipe, planted, art, args.out))
            append_row(args.file, rows[-1])
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
