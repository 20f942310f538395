"""The object table of the erasure papers, on the miniature's ten Imagenette stand-ins.

One class is erased at a time; the classifier then looks at images of all ten. Accuracy of the
erased class should fall to nothing, that of the other nine should stay what it was. The last row
replaces each class by another concept instead, and says how often that is what is seen. Edits and
what is measured on them are kept as they are finished: a killed run goes on.
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
    Sight,
    add_precision,
    drawn_by,
    every,
    finished,
    images_of,
    others_than,
    resumed,
    settings,
    written,
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
#: What each class is replaced by in the last row.
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
        row: What it is called.
        name: As `editing.fit` knows it; "none" for the unedited model.
        preserves: Whether it is given the rest of the world to preserve, as its paper has it.
        options: Settings that are not the method's own.
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
    Method("rece", "rece", preserves=True),
    Method("esd-x", "esd-x"),
    Method("esd-u", "esd-u"),
    Method("all-but-one", "all-but-one", preserves=True),
    Method("replace (uce, ours)", "uce", preserves=True),
)
REPLACE = METHODS[-1]

#: SD 1.4 on Imagenette, 500 images a class: erased and others, percent (UCE, arXiv:2308.14761).
PUBLISHED = {"none": (78.2, 78.2), "esd-u": (12.6, 63.2), "uce-2024": (2.6, 79.8)}


class Bench:
    """The unedited model, the edits of it, and what is seen on its images.

    Args:
        work: Where edits are kept, in a folder named by the model.
        seeds: Images a class.
        how: How to sample.
        empty: Images of the empty prompt, of which the drift is measured.
    """

    def __init__(self, work: Path, seeds: int, how: Settings, empty: int) -> None:
        self.pipe = load_pipeline("miniature")
        self.sight = Sight()
        self.seeds, self.how, self.empty = seeds, how, empty
        self.folder = work / weight_hash(self.pipe)[:8]
        self._still: np.ndarray | None = None

    def fit(self, method: Method, erased: str) -> dict[str, Any]:
        """Fits one cell's edit, keeps it, and says how long that took."""
        if method.name == "none":
            return {"fit_s": 0.0}
        requests: list[Any] = [Erase(erased)]
        if method is REPLACE:
            requests = [Replace(erased, ALTERNATIVES[erased])]
        if method.preserves:
            requests.append(Preserve(others_than([erased])))
        begun = time.perf_counter()
        if method.name.startswith(("uce", "rece", "time")):
            edit = editing.fit(self.pipe, requests, method.name, nearest=0, **method.options)
        else:
            # Weights and their updates stay in single precision; passes take half the time.
            fast = self.how.precision == "bfloat16"
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                edit = editing.fit(self.pipe, requests, method.name, runs_in=self.folder / "runs")
        took = time.perf_counter() - begun
        edit.save(self._file(method, erased))
        return {"fit_s": round(took, 2)}

    def seen(self, method: Method, erased: str) -> dict[str, Any]:
        """What the classifier sees on images of all ten classes."""
        asked = [c for c in CLASSES for _ in range(self.seeds)]
        with self._edited(method, erased):
            seen = self.sight.subjects(
                self._drawn(*every([world.an(c) for c in CLASSES], range(self.seeds)))
            )
        mine = [s for s, c in zip(seen, asked, strict=True) if c == erased]
        rest = [s == c for s, c in zip(seen, asked, strict=True) if c != erased]
        return {
            "erased": [mine.count(erased), len(mine)],
            "others": [sum(rest), len(rest)],
            "alternative": mine.count(ALTERNATIVES[erased]) if method is REPLACE else None,
        }

    def moved(self, method: Method, erased: str) -> dict[str, Any]:
        """How far the empty prompt's images drift, in CLIP's features."""
        if self._still is None:
            self._still = self._empty()
        with self._edited(method, erased):
            now = self._empty()
        prompts, rng = [""] * self.empty, np.random.default_rng(0)
        return {"empty_drift": drift(self._still, now, prompts, rng).value}

    def _empty(self) -> np.ndarray:
        pixels = self._drawn([""] * self.empty, range(self.empty))
        return image_features(self.sight.encoder, (Image.fromarray(x) for x in pixels))

    def _drawn(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return images_of(self.pipe, prompts, seeds, self.how)

    def _edited(self, method: Method, erased: str) -> AbstractContextManager[Any]:
        if method.name == "none":
            return nullcontext()
        return Edit.load(self._file(method, erased)).applied(self.pipe, force=True)

    def _file(self, method: Method, erased: str) -> Path:
        name = f"{method.row}-{erased}".replace(" ", "-")
        return self.folder / "edits" / f"{name}.safetensors"


def table(cells: Sequence[dict[str, Any]]) -> str:
    """The means over classes, one row a method, as Markdown."""
    lines = [
        "| method | erased, % | others, % | drift of '' | fit, s | SD 1.4: erased, others |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        mine = [c for c in cells if c["method"] == method.row]
        if not mine:
            continue
        erased, others = (
            100 * sum(c[k][0] for c in mine) / sum(c[k][1] for c in mine)
            for k in ("erased", "others")
        )
        moved, took = (float(np.mean([c[k] for c in mine])) for k in ("empty_drift", "fit_s"))
        told = PUBLISHED.get(method.row)
        published = f"{told[0]}, {told[1]}" if told else "–"
        if method is REPLACE:
            reached = 100 * sum(c["alternative"] for c in mine) / sum(c["erased"][1] for c in mine)
            published = f"the alternative is seen in {reached:.1f} %"
        label = method.row
        if len(mine) < len(CLASSES):
            label += f" ({len(mine)} of {len(CLASSES)} classes)"
        lines.append(
            f"| {label} | {erased:.1f} | {others:.1f} | {moved:.3f} | {took:.1f} | {published} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what is missing, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/erasure"))
    parser.add_argument("--methods", nargs="*", choices=[m.row for m in METHODS])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="2 classes, 1 seed, 1 step, UCE")
    given = parser.parse_args()
    seeds, steps, classes, empty = given.seeds, given.steps, CLASSES, EMPTY_SEEDS
    methods = [m for m in METHODS if given.methods is None or m.row in given.methods]
    if given.quick:
        seeds, steps, classes, empty = 1, 1, CLASSES[:2], 8
        methods = [m for m in METHODS if m.row in ("none", "uce (ours)")]
    named = {f"{m.row}: {c}": (m, c) for m in methods for c in classes}
    sys.stderr.write(f"{len(named)} cells of {len(CLASSES) * seeds + empty} images\n")
    bench = Bench(given.work, seeds, settings(steps, given.precision), empty)
    drawn = {**drawn_by(bench.pipe, bench.how), "seeds": seeds}
    fitted = {key: drawn[key] for key in ("model", "precision")}
    looked = {**drawn, "eyes": bench.sight.encoder.identity}
    # Each measurement is kept for what it depends on: another CLIP moves the drift alone.
    stages = (
        ("fits", fitted, bench.fit),
        ("seen", drawn, bench.seen),
        ("moved", looked, bench.moved),
    )
    cells: dict[str, dict[str, Any]] = {}
    for stage, about, measure in stages:
        resumed(given.work / stage, about, list(named), lambda name, m=measure: m(*named[name]))
        for row in finished(given.work / stage, about):
            cells.setdefault(row["name"], {}).update(row)
    whole = [
        {"method": name.split(": ")[0], "class": name.split(": ")[1], **cell}
        for name, cell in cells.items()
        # Another process may be at work on other cells.
        if {"fit_s", "erased", "empty_drift"} <= cell.keys()
    ]
    sys.stdout.write(table(whole) + "\n")
    if not given.quick:
        written(Path(__file__).parent, drawn, whole)


if __name__ == "__main__":
    main()
