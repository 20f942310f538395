"""The object table of the erasure papers, on the miniature's ten Imagenette stand-ins.

One class is erased at a time, and the classifier labels images of all ten. The accuracy of the
erased class should fall to zero, and that of the other nine should not change. The last row
replaces each class by another concept and reports how often the classifier predicts it. Edits and
measurements are stored as they finish, so an interrupted run resumes.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import (
    Scorers,
    add_precision,
    all_pairs,
    draw_images,
    measure_missing,
    phrases_except,
    read_results,
    sampling_provenance,
    settings,
    write_results,
)

import editing
from editing.edit import Edit
from editing.metrics.drift import drift
from editing.metrics.features import image_features
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.pipelines.weights import weight_hash
from editing.requests import Erase, Preserve, Replace
from visdiff.miniature import world

CLASSES = world.SUBJECTS_BY_KIND["imagenette"]
#: Class → its replacement in the last row.
ALTERNATIVES = dict(
    zip(
        CLASSES,
        ("castle", "robot", "balloon", "whale", "cat", "trumpet", "bus", "camera", "hammer",
         "umbrella"),
        strict=True,
    )
)  # fmt: skip
#: Images of the empty prompt.
EMPTY_SEEDS = 40


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        row: Label of the row.
        name: Method of `editing.fit`; "none" for the unedited model.
        preserves: Whether the rest of the world is preserved, as in the method's paper.
        options: Settings that differ from the method's defaults.
    """

    row: str
    name: str
    preserves: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS = (
    Method("none", "none"),
    Method("time", "time"),
    Method("uce-2024", "uce-2024", preserves=True),
    Method("uce-2025", "uce-2025", preserves=True),
    Method("uce (ours)", "uce", preserves=True),
    Method("uce (ours), all words", "uce", preserves=True, options={"tokens": "words+eos+pad"}),
    Method("rece", "rece"),
    Method("rece, the rest preserved", "rece", preserves=True),
    Method("esd-x", "esd-x"),
    Method("esd-u", "esd-u"),
    Method("all-but-one", "all-but-one", preserves=True),
    Method("replace (uce, ours)", "uce", preserves=True),
)
REPLACE = METHODS[-1]

#: SD 1.4 on Imagenette, 500 images per class: erased and others, percent (UCE, arXiv:2308.14761).
PUBLISHED = {"none": (78.2, 78.2), "esd-u": (12.6, 63.2), "uce-2024": (2.6, 79.8)}


class Bench:
    """The unedited model, its edits, and their measurements.

    Args:
        work: Where edits are kept, in a folder named by the model.
        seeds: Images a class.
        how: How to sample.
        empty: Images of the empty prompt, of which the drift is measured.
    """

    def __init__(self, work: Path, seeds: int, how: Settings, empty: int) -> None:
        self.pipe = load_pipeline("miniature")
        self.scorers = Scorers()
        self.seeds, self.how, self.empty = seeds, how, empty
        self.folder = work / weight_hash(self.pipe)[:8]
        self._unedited_features: np.ndarray | None = None

    def fit(self, method: Method, erased: str) -> dict[str, Any]:
        """Fits and saves the edit of one cell, and returns the elapsed time."""
        if method.name == "none":
            return {"fit_s": 0.0}
        requests: list[Any] = [Erase(erased)]
        if method is REPLACE:
            requests = [Replace(erased, ALTERNATIVES[erased])]
        if method.preserves:
            requests.append(Preserve(phrases_except([erased])))
        start = time.perf_counter()
        if method.name.startswith(("uce", "rece", "time")):
            edit = editing.fit(self.pipe, requests, method.name, nearest=0, **method.options)
        else:
            # Weights and updates stay in single precision; autocast halves the time of a pass.
            fast = self.how.precision == "bfloat16"
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                edit = editing.fit(self.pipe, requests, method.name, runs_in=self.folder / "runs")
        elapsed = time.perf_counter() - start
        edit.save(self._file(method, erased))
        return {"fit_s": round(elapsed, 2)}

    def recognition(self, method: Method, erased: str) -> dict[str, Any]:
        """Counts the recognised images of the erased class and of the other nine."""
        subjects = [c for c in CLASSES for _ in range(self.seeds)]
        with self._edited(method, erased):
            labels = self.scorers.classify(
                self._draw(*all_pairs([world.an(c) for c in CLASSES], range(self.seeds)))
            )
        own = [s for s, c in zip(labels, subjects, strict=True) if c == erased]
        rest = [s == c for s, c in zip(labels, subjects, strict=True) if c != erased]
        return {
            "erased": [own.count(erased), len(own)],
            "others": [sum(rest), len(rest)],
            "alternative": own.count(ALTERNATIVES[erased]) if method is REPLACE else None,
        }

    def empty_drift(self, method: Method, erased: str) -> dict[str, Any]:
        """Measures the drift of the empty prompt's images in CLIP's feature space."""
        if self._unedited_features is None:
            self._unedited_features = self._empty_features()
        with self._edited(method, erased):
            edited = self._empty_features()
        prompts, rng = [""] * self.empty, np.random.default_rng(0)
        return {"empty_drift": drift(self._unedited_features, edited, prompts, rng).value}

    def _empty_features(self) -> np.ndarray:
        pixels = self._draw([""] * self.empty, range(self.empty))
        return image_features(self.scorers.encoder, (Image.fromarray(x) for x in pixels))

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return draw_images(self.pipe, prompts, seeds, self.how)

    def _edited(self, method: Method, erased: str) -> AbstractContextManager[Any]:
        if method.name == "none":
            return nullcontext()
        return Edit.load(self._file(method, erased)).applied(self.pipe, force=True)

    def _file(self, method: Method, erased: str) -> Path:
        name = f"{method.row}-{erased}".replace(" ", "-")
        return self.folder / "edits" / f"{name}.safetensors"


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Formats the means over classes as a Markdown table, one row per method."""
    lines = [
        "| method | erased, % | others, % | drift of '' | fit, s | SD 1.4: erased, others |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        own = [c for c in cells if c["method"] == method.row]
        if not own:
            continue
        erased, others = (
            100 * sum(c[k][0] for c in own) / sum(c[k][1] for c in own)
            for k in ("erased", "others")
        )
        moved, elapsed = (float(np.mean([c[k] for c in own])) for k in ("empty_drift", "fit_s"))
        reference = PUBLISHED.get(method.row)
        published = f"{reference[0]}, {reference[1]}" if reference else "–"
        if method is REPLACE:
            reached = 100 * sum(c["alternative"] for c in own) / sum(c["erased"][1] for c in own)
            published = f"the alternative is recognised in {reached:.1f} %"
        label = method.row
        if len(own) < len(CLASSES):
            label += f" ({len(own)} of {len(CLASSES)} classes)"
        lines.append(
            f"| {label} | {erased:.1f} | {others:.1f} | {moved:.3f} | {elapsed:.1f} | {published} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what is missing, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/erasure"))
    parser.add_argument("--methods", nargs="*", choices=[m.row for m in METHODS])
    parser.add_argument(
        "--classes", nargs="*", choices=CLASSES, help="erase only these; writes no results.json"
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="2 classes, 1 seed, 1 step, UCE")
    args = parser.parse_args()
    seeds, steps, empty = args.seeds, args.steps, EMPTY_SEEDS
    classes = args.classes or CLASSES
    methods = [m for m in METHODS if args.methods is None or m.row in args.methods]
    if args.quick:
        seeds, steps, classes, empty = 1, 1, CLASSES[:2], 8
        methods = [m for m in METHODS if m.row in ("none", "uce (ours)")]
    named = {f"{m.row}: {c}": (m, c) for m in methods for c in classes}
    sys.stderr.write(f"{len(named)} cells of {len(CLASSES) * seeds + empty} images\n")
    bench = Bench(args.work, seeds, settings(steps, args.precision), empty)
    sampling = {**sampling_provenance(bench.pipe, bench.how), "seeds": seeds}
    training = {key: sampling[key] for key in ("model", "precision")}
    scoring = {**sampling, "eyes": bench.scorers.encoder.identity}
    # Each stage is keyed by what it depends on: another CLIP invalidates the drift only.
    stages = (
        ("fits", training, bench.fit),
        ("seen", sampling, bench.recognition),
        ("moved", scoring, bench.empty_drift),
    )
    cells: dict[str, dict[str, Any]] = {}
    for stage, about, measure in stages:
        measure_missing(
            args.work / stage, about, list(named), lambda name, m=measure: m(*named[name])
        )
        for row in read_results(args.work / stage, about):
            cells.setdefault(row["name"], {}).update(row)
    complete = [
        {"method": name.split(": ")[0], "class": name.split(": ")[1], **cell}
        for name, cell in cells.items()
        # Another process may be working on other cells.
        if {"fit_s", "erased", "empty_drift"} <= cell.keys()
    ]
    sys.stdout.write(table(complete) + "\n")
    if not args.quick and args.classes is None:
        write_results(Path(__file__).parent, sampling, complete)


if __name__ == "__main__":
    main()
