"""Which erasures erase, and which only hide: revival by textual inversion on the miniature.

One concept is erased at a time, as in `benchmarks/erasure/run.py`. Each edited model learns a new
token from pictures that the original model drew of the concept, and the classifier labels the
images of that token after more and more steps. Edits, images and rows are stored as they finish, so
an interrupted run resumes.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import measure_missing, phrases_except, read_results, write_results

import editing
from editing.audits.revival import Point, RevivalConfig, revive
from editing.edit import Edit
from editing.metrics.classifiers import TransformersClassifier
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.pipelines.weights import weight_hash
from editing.requests import Erase, Preserve
from visdiff.miniature import world

CLASSES = world.SUBJECTS_BY_KIND["imagenette"]
#: Row → method and whether the rest of the world is preserved, as in the method's paper.
METHODS: Mapping[str, tuple[str, bool]] = {
    "none": ("none", False),
    "uce (ours)": ("uce", True),
    "uce-2024": ("uce-2024", True),
    "rece": ("rece", False),
    "time": ("time", False),
    "esd-x": ("esd-x", False),
    "uce-2025": ("uce-2025", True),
    "esd-u": ("esd-u", False),
    "all-but-one": ("all-but-one", True),
}
SAMPLING = Settings(steps=8, guidance=5.0, scheduler="DPMSolverMultistep")


class Bench:
    """The unedited model, its edits, and the attacks on them.

    Args:
        work: Folder of edits, images and checkpoints.
        config: Settings of the attack.
    """

    def __init__(self, work: Path, config: RevivalConfig) -> None:
        self.pipe = load_pipeline("miniature")
        self.work, self.config = work, config
        self.classifier = TransformersClassifier("miniature")

    def row(self, method: str, concept: str) -> dict[str, Any]:
        """Fits one edit unless it is stored, attacks it, and returns the result."""
        edited: Any = self.pipe if method == "none" else self._edit(method, concept)
        started = time.perf_counter()
        (revival,) = revive(
            self.pipe,
            edited,
            self.work / "attacks",
            self.classifier,
            requests=[Erase(concept)],
            config=self.config,
            on_point=_print_point,
        )
        seconds = time.perf_counter() - started
        sys.stderr.write(f"{method}: {revival.sentence}\n")
        return {"method": method, "attack_s": round(seconds, 1), **revival.to_dict()}

    def _edit(self, method: str, concept: str) -> Edit:
        file = self.work / "edits" / f"{method}-{concept}.safetensors".replace(" ", "-")
        if file.is_file():
            return Edit.load(file)
        name, preserves = METHODS[method]
        requests: list[Any] = [Erase(concept)]
        if preserves:
            requests.append(Preserve(phrases_except([concept])))
        closed_form = name.startswith(("uce", "rece", "time"))
        more: dict[str, Any] = {"nearest": 0} if closed_form else {"runs_in": self.work / "runs"}
        edit = editing.fit(self.pipe, requests, name, **more)
        edit.save(file)
        return edit


def _print_point(point: Point) -> None:
    sys.stderr.write(
        f"{point.done}/{point.total} {point.concept}, {point.model}: {point.pictures} pictures, "
        f"{point.step} steps: {point.recognised}\n"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table, one line per method, concept and number of pictures."""
    lines = [
        "| method | erased | by name | pictures | steps: edited | original | unknown | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        named = f"{row['by_name']['edited']['value']:.0%}"
        for found in row["comparisons"]:
            last = found["steps"][-1]
            edited, original, unknown = (
                _duration(found["durations"][name], last)
                for name in ("edited", "original", "unknown")
            )
            lines.append(
                f"| {row['method']} | {row['concept']} | {named} | {found['pictures']} | {edited} "
                f"| {original} | {unknown} | {found['verdict']} |"
            )
    return "\n".join(lines)


def _duration(values: Mapping[str, float | None], last: int) -> str:
    def number(value: float | None) -> str:
        return f">{last}" if value is None else f"{value:.0f}"

    if values["low"] is None:
        return f">{last}"
    return f"{number(values['steps'])} ({number(values['low'])}–{number(values['high'])})"


def _without_sentence(row: Mapping[str, Any]) -> dict[str, Any]:
    # The table has its numbers.
    return {name: value for name, value in row.items() if name != "sentence"}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Measures what is missing, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/revival"))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--concepts", nargs="*", choices=CLASSES, default=["church", "fish"])
    parser.add_argument("--steps", type=_numbers, default=(10, 30, 100))
    parser.add_argument("--pictures", type=_numbers, default=(4,))
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="1 concept, 2 methods, 1 step")
    args = parser.parse_args()
    steps, pictures, images = args.steps, args.pictures, args.images
    methods, concepts, sampling = args.methods, args.concepts, SAMPLING
    if args.quick:
        steps, pictures, images = (1,), (1,), 2
        methods, concepts = ["none", "uce (ours)"], concepts[:1]
        sampling = Settings(steps=4, guidance=5.0, scheduler="DPMSolverMultistep")
    config = RevivalConfig(steps, pictures, images, sampling=sampling, batch_size=16)
    bench = Bench(args.work, config)
    about = {
        "model": weight_hash(bench.pipe),
        "sampling_steps": sampling.steps,
        "steps": list(steps),
        "pictures": list(pictures),
        "images": images,
    }
    cells = {f"{m}: {c}": (m, c) for c in concepts for m in methods}
    measure_missing(args.work, about, list(cells), lambda name: bench.row(*cells[name]))
    rows = [_without_sentence(row) for row in read_results(args.work, about)]
    order = list(METHODS)
    rows.sort(key=lambda row: (CLASSES.index(row["concept"]), order.index(row["method"])))
    sys.stdout.write(table(rows) + "\n")
    if not args.quick:
        write_results(Path(__file__).parent, about, rows)


if __name__ == "__main__":
    main()
