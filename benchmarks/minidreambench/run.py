"""MiniDreamBench: trains and measures the cells of the experiments.

Every state that is measured is appended to a file of JSON lines, and training is saved as it goes:
an interrupted run continues. `--plan` prints what is missing and how long it takes.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import EXPERIMENTS, Cell
from measures import Measure, Measured
from rowfiles import append_row, read_rows
from slots import prompts_without
from subjects import BY_NAME, load_art, references, truth

from editing.generate.phrases import with_article
from editing.personalize import find
from editing.personalize.priors import drawn_from
from editing.pipelines.loading import load_pipeline
from visdiff.miniature.evaluate import Recognizer
from visdiff.miniature.render import Art

RESULTS = Path(__file__).parent / "results.jsonl"
_SECONDS_A_STEP = 0.2


@dataclass(frozen=True)
class Row:
    """A measured state: its cell with the one number of steps, and the measurements."""

    cell: Cell
    measured: Measured
    seconds: float

    @property
    def steps(self) -> int:
        """Training steps of the state."""
        return self.cell.steps[0]


def states(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Returns a cell for every state, each with one number of steps."""
    for cell in cells:
        for steps in cell.steps:
            yield replace(cell, steps=(steps,))


def read(path: Path) -> list[Row]:
    """Returns the rows of a file; none if it does not exist."""
    rows = []
    for found in read_rows(path):
        cell = Cell(**{**found["cell"], "steps": tuple(found["cell"]["steps"])})
        rows.append(Row(cell, Measured(**found["measured"]), found["seconds"]))
    return rows


class Runner:
    """Trains and measures cells, each state once.

    Args:
        art: The icons.
        out: Folder of class images, checkpoints and sheets of images.
        file: File of the rows.
    """

    def __init__(self, art: Art, out: Path, file: Path) -> None:
        self.art, self._out, self._file = art, out, file
        self.pipe = load_pipeline("miniature")
        self._recognizer = Recognizer()
        self._done = {row.cell for row in read(file)}

    def run(self, cell: Cell) -> None:
        """Trains a cell up to each of its numbers of steps and measures it there."""
        missing = [state for state in states([cell]) if state not in self._done]
        if not missing:
            return
        known = BY_NAME[cell.subject]
        shown = references(known, self.art, cell.references, cell.bias)
        measure = Measure(self.pipe, shown, truth(known, self.art), self._recognizer)
        for state in missing:
            started = time.perf_counter()
            sheet = self._out / "sheets" / f"{_slug(state)}.png"
            if cell.method == "untaught":
                measured = measure(with_article(known.noun), state.samples, sheet)
                seconds = 0.0
            else:
                edit = self.taught(state, shown.subject(cell.case))
                seconds = time.perf_counter() - started
                with edit.applied(self.pipe, force=True):
                    measured = measure(f"a {edit.requests[0].concept}", state.samples, sheet)
            self._write(Row(state, measured, seconds))

    def taught(self, state: Cell, subject: Any) -> Any:
        """Trains up to the state's steps, from where the state before it stopped."""
        run, prior = replace(state, steps=()), state.prior
        if state.without:
            config = find(state.method).configure(self.pipe, {})
            prompts = prompts_without(state.without, subject, state.class_images)
            prior = drawn_from(prompts, self.pipe, subject, config, self._out / "class-images")
        return find(state.method).fit(
            self.pipe,
            subject,
            prior=prior,
            class_folder=self._out / "class-images",
            steps=state.steps[0],
            prior_images=state.class_images,
            checkpoint=self._out / "checkpoints" / f"{_slug(run)}.safetensors",
            save_every=1000,
        )

    def _write(self, row: Row) -> None:
        line = {
            "cell": asdict(row.cell),
            "measured": {name: round(v, 4) for name, v in asdict(row.measured).items()},
            "seconds": round(row.seconds, 1),
        }
        append_row(self._file, line)
        self._done.add(row.cell)
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {_slug(row.cell)} {line['measured']}\n")
        sys.stdout.flush()


def _slug(cell: Cell) -> str:
    parts = [
        cell.subject.replace(" ", "-"), cell.method, cell.prior, f"case{cell.case}", cell.bias,
        f"{cell.references}refs", f"{cell.class_images}class", *map(str, cell.steps),
    ]  # fmt: skip
    if cell.samples != Cell.samples:
        # Its training stops at other steps, and a checkpoint does not go back.
        parts.append(f"{cell.samples}samples")
    if cell.without:
        parts.append(f"without-{cell.without}")
    return "_".join(parts)


def plan(cells: Sequence[Cell], done: set[Cell]) -> str:
    """Returns what is missing, in a sentence."""
    missing = [s for s in states(cells) if s not in done]
    steps = sum(
        max((s for s in cell.steps if replace(cell, steps=(s,)) in missing), default=0)
        for cell in cells
    )
    minutes = (steps * _SECONDS_A_STEP + 20 * len(missing)) / 60
    return (
        f"{len(missing)} of {len(list(states(cells)))} states are missing: {steps:,} training "
        f"steps, about {minutes:.0f} minutes of one core."
    )


def main() -> None:
    """Runs the missing cells of the chosen experiments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-cache/minidreambench"))
    parser.add_argument("--file", type=Path, default=RESULTS)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("--subjects", nargs="+", default=list(BY_NAME), choices=BY_NAME)
    parser.add_argument("--plan", action="store_true", help="print what is missing, and stop")
    args = parser.parse_args()
    cells = [
        cell
        for name in args.experiments
        for cell in EXPERIMENTS[name]
        if cell.subject in args.subjects
    ]
    sys.stdout.write(plan(cells, {row.cell for row in read(args.file)}) + "\n")
    if args.plan:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "checkpoints").mkdir(exist_ok=True)
    runner = Runner(load_art(args.art), args.out, args.file)
    for cell in cells:
        runner.run(cell)


if __name__ == "__main__":
    main()
