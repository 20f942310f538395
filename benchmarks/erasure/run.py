"""The object table of the erasure papers, on the miniature's ten Imagenette stand-ins.

One class is erased at a time; the classifier then looks at images of all ten. Accuracy of the
erased class should fall to nothing, that of the other nine should stay what it was. The last row
replaces each class by another concept instead, and says how often that is what is seen. Every cell
is kept as it is finished: a killed run goes on.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import Sight, every, finished, images_of, others_than, resumed, written

import editing
from editing.concepts import Erase, Preserve, Replace
from editing.metrics.drift import drift
from editing.metrics.features import image_features
from editing.target import load_pipeline, weight_hash
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
#: Images of the empty prompt, of which the drift is measured.
EMPTY_SEEDS = 40


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        row: What it is called.
        name: As `editing.fit` knows it; "none" for the unedited model.
        preserves: Whether it is given the rest of the world to preserve, as its paper has it.
    """

    row: str
    name: str
    preserves: bool = False


METHODS = (
    Method("none", "none"),
    Method("time", "time"),
    Method("uce-2024", "uce-2024", preserves=True),
    Method("uce-2025", "uce-2025", preserves=True),
    Method("uce (ours)", "uce", preserves=True),
    Method("rece", "rece", preserves=True),
    Method("esd-x", "esd-x"),
    Method("esd-u", "esd-u"),
    Method("all-but-one", "all-but-one", preserves=True),
    Method("replace (uce, ours)", "uce", preserves=True),
)
REPLACE = METHODS[-1]

#: SD 1.4 on Imagenette, 500 images a class: erased and others, percent (UCE, arXiv:2308.14761).
PUBLISHED = {"none": (78.2, 78.2), "esd-u": (12.6, 63.2), "uce-2024": (2.6, 79.8)}


def fitted(pipe: Any, method: Method, erased: str, folder: Path) -> tuple[Any, float]:
    """Fits one cell's edit, and says how long that took."""
    target = ALTERNATIVES[erased]
    requests: list[Any] = [Replace(erased, target) if method is REPLACE else Erase(erased)]
    if method.preserves:
        requests.append(Preserve(others_than([erased])))
    begun = time.perf_counter()
    if method.name.startswith(("uce", "rece", "time")):
        edit = editing.fit(pipe, requests, method.name, nearest=0)
    else:
        # Weights and their updates stay in single precision; passes take half the time.
        with torch.autocast("cpu", torch.bfloat16):
            edit = editing.fit(pipe, requests, method.name, runs_in=folder / "runs")
    return edit, time.perf_counter() - begun


class Bench:
    """The unedited model, its images, and what is seen on them."""

    def __init__(self, seeds: int, steps: int, folder: Path) -> None:
        self.pipe = load_pipeline("miniature")
        self.sight = Sight()
        self.seeds, self.steps, self.folder = seeds, steps, folder
        self._before: np.ndarray | None = None

    def draw(self) -> np.ndarray:
        """Images of all ten classes and of the empty prompt, in this order, by the model as is."""
        prompts, seeds = every([world.an(c) for c in CLASSES], range(self.seeds))
        prompts += [""] * EMPTY_SEEDS
        return images_of(self.pipe, prompts, [*seeds, *range(EMPTY_SEEDS)], self.steps)

    def cell(self, method: Method, erased: str) -> dict[str, Any]:
        """Measures one method on one class."""
        if self._before is None:
            self._before = self.draw()
        took, after = 0.0, self._before
        if method.name != "none":
            edit, took = fitted(self.pipe, method, erased, self.folder)
            with edit.applied(self.pipe, force=True):
                after = self.draw()
        asked = [c for c in CLASSES for _ in range(self.seeds)]
        seen = self.sight.subjects(after[: len(asked)])
        mine = [s for s, c in zip(seen, asked, strict=True) if c == erased]
        rest = [s == c for s, c in zip(seen, asked, strict=True) if c != erased]
        before, now = (
            image_features(self.sight.encoder, (Image.fromarray(x) for x in part[len(asked) :]))
            for part in (self._before, after)
        )
        moved = drift(before, now, [""] * EMPTY_SEEDS, np.random.default_rng(0))
        return {
            "method": method.row,
            "class": erased,
            "erased": [mine.count(erased), len(mine)],
            "others": [sum(rest), len(rest)],
            "alternative": mine.count(ALTERNATIVES[erased]) if method is REPLACE else None,
            "empty_drift": moved.value,
            "fit_s": round(took, 2),
        }


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
    parser.add_argument("--quick", action="store_true", help="2 classes, 2 seeds, 4 steps, UCE")
    given = parser.parse_args()
    seeds, steps, classes = given.seeds, given.steps, CLASSES
    methods = [m for m in METHODS if given.methods is None or m.row in given.methods]
    if given.quick:
        seeds, steps, classes = 2, 4, CLASSES[:2]
        methods = [m for m in METHODS if m.row in ("none", "uce (ours)")]
    bench = Bench(seeds, steps, given.work)
    about = {"model": weight_hash(bench.pipe), "seeds": seeds, "steps": steps}
    named = {f"{m.row}: {c}": (m, c) for m in methods for c in classes}
    sys.stderr.write(f"{len(named)} cells of {len(CLASSES) * seeds + EMPTY_SEEDS} images\n")
    resumed(given.work, about, list(named), lambda name: bench.cell(*named[name]))
    cells = finished(given.work, about)
    sys.stdout.write(table(cells) + "\n")
    if not given.quick:
        written(Path(__file__).parent, about, cells)


if __name__ == "__main__":
    main()
