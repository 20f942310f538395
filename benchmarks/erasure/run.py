"""The object table of the erasure papers, on the miniature's ten Imagenette stand-ins.

One class is erased at a time; the classifier then looks at images of all ten. Accuracy of the
erased class should fall to nothing, that of the other nine should stay what it was. Every cell is
kept as it is finished: a killed run goes on.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import editing
from editing.concepts import Erase, Preserve
from editing.metrics.classifiers import TransformersClassifier
from editing.metrics.drift import drift
from editing.metrics.features import image_features
from editing.metrics.proportions import class_accuracy
from editing.sampling import Settings, draw
from editing.target import load_pipeline, weight_hash
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.miniature import world

CLASSES = world.SUBJECTS_BY_KIND["imagenette"]
GUIDANCE = 5.0
#: Images of the empty prompt, of which the drift is measured.
EMPTY_SEEDS = 40


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: As `editing.fit` knows it; "none" for the unedited model.
        preserves: Whether it is given the rest of the world to preserve, as its paper has it.
    """

    name: str
    preserves: bool = False


METHODS = (
    Method("none"),
    Method("time"),
    Method("uce-2024", preserves=True),
    Method("uce-2025", preserves=True),
    Method("uce", preserves=True),
    Method("rece", preserves=True),
    Method("esd-x"),
    Method("esd-u"),
    Method("all-but-one"),
)

#: SD 1.4 on Imagenette, 500 images a class: erased and others, percent (UCE, arXiv:2308.14761).
PUBLISHED = {"none": (78.2, 78.2), "esd-u": (12.6, 63.2), "uce-2024": (2.6, 79.8)}


def fitted(pipe: Any, method: Method, erased: str, folder: Path) -> tuple[Any, float]:
    """Fits one cell's edit, and says how long that took."""
    requests: list[Any] = [Erase(erased)]
    if method.preserves:
        rest = [world.an(s) for s in (*world.SUBJECTS, *world.PROFESSIONS) if s != erased]
        requests.append(Preserve(rest))
    begun = time.perf_counter()
    closed = method.name.startswith(("uce", "rece", "time"))
    options: dict[str, Any] = {"nearest": 0} if closed else {"runs_in": folder / "runs"}
    return editing.fit(pipe, requests, method.name, **options), time.perf_counter() - begun


def images_of(pipe: Any, seeds: int, steps: int) -> np.ndarray:
    """Images of all ten classes and of the empty prompt, in this order."""
    prompts = [world.an(name) for name in CLASSES for _ in range(seeds)] + [""] * EMPTY_SEEDS
    numbers = [*list(range(seeds)) * len(CLASSES), *range(EMPTY_SEEDS)]
    return draw(pipe, prompts, numbers, settings=Settings(steps, GUIDANCE), batch_size=20)


def cell(
    pipe: Any,
    method: Method,
    erased: str,
    original: np.ndarray,
    seeds: int,
    steps: int,
    folder: Path,
) -> dict[str, Any]:
    """Measures one method on one class."""
    took, after = 0.0, original
    if method.name != "none":
        edit, took = fitted(pipe, method, erased, folder)
        with edit.applied(pipe, force=True):
            after = images_of(pipe, seeds, steps)
    asked = [name for name in CLASSES for _ in range(seeds)]
    seen = TransformersClassifier("miniature")(Image.fromarray(x) for x in after[: len(asked)])
    found = class_accuracy(seen, asked, [erased])
    assert found.erased is not None
    assert found.others is not None
    encoder = OpenClipEncoder("miniature", None, "cpu")
    before, now = (
        image_features(encoder, (Image.fromarray(x) for x in part[len(asked) :]))
        for part in (original, after)
    )
    moved = drift(before, now, [""] * EMPTY_SEEDS, np.random.default_rng(0))
    return {
        "method": method.name,
        "erased_class": erased,
        "erased": [found.erased.count, found.erased.n],
        "others": [found.others.count, found.others.n],
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
        mine = [c for c in cells if c["method"] == method.name]
        if not mine:
            continue
        erased, others = (
            100 * sum(c[k][0] for c in mine) / sum(c[k][1] for c in mine)
            for k in ("erased", "others")
        )
        moved, took = (float(np.mean([c[k] for c in mine])) for k in ("empty_drift", "fit_s"))
        told = PUBLISHED.get(method.name)
        published = f"{told[0]}, {told[1]}" if told else "–"
        lines.append(
            f"| {method.name} | {erased:.1f} | {others:.1f} | {moved:.3f} | {took:.1f} "
            f"| {published} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what is missing, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/erasure"))
    parser.add_argument("--methods", nargs="*", choices=[m.name for m in METHODS])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="2 classes, 2 seeds, 4 steps, UCE")
    given = parser.parse_args()
    seeds, steps, classes = given.seeds, given.steps, CLASSES
    methods = [m for m in METHODS if given.methods is None or m.name in given.methods]
    if given.quick:
        seeds, steps, classes = 2, 4, CLASSES[:2]
        methods = [m for m in METHODS if m.name in ("none", "uce")]
    pipe = load_pipeline("miniature")
    about = {"model": weight_hash(pipe), "seeds": seeds, "steps": steps}
    folder = given.work / digest_bytes(canonical_json(about).encode())[:8]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cells.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(c["method"], c["erased_class"]) for c in cells}
    missing = [(m, c) for m in methods for c in classes if (m.name, c) not in done]
    sys.stderr.write(
        f"{len(missing)} cells of {len(CLASSES) * seeds + EMPTY_SEEDS} images to make\n"
    )
    original = images_of(pipe, seeds, steps) if missing else np.empty(0)
    for method, erased in tqdm(missing, desc="cells", disable=not missing):
        cells.append(cell(pipe, method, erased, original, seeds, steps, folder))
        with file.open("a") as out:
            out.write(json.dumps(cells[-1]) + "\n")
    sys.stdout.write(table(cells) + "\n")
    if not given.quick:
        results = {**about, "cells": cells}
        Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
