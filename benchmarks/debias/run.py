"""Debiasing the miniature's 16 professions: gender, skin tones, and both at once.

The world is biased on purpose and the truth is known (`world.P_MAN`, `world.TONE_PRIOR`). The loop
of `editing.methods.debias` finds the weights; what it reached is then measured on seeds that it
never saw, and so is what became of the concepts that nobody asked to change.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import (
    ARTICLES,
    BATCH,
    FRESH,
    Sight,
    add_precision,
    drawn_by,
    generator,
    images_of,
    resumed,
    settings,
    told,
    written,
)

from editing.generate.phrases import own_seed
from editing.methods.debias import Control, Debiased, crossed, debias
from editing.metrics.attributes import ZeroShotEyes
from editing.metrics.ratios import mean_delta
from editing.pipelines.sampling import Settings
from editing.pipelines.weights import weight_hash
from editing.requests import Debias, Preserve
from visdiff.miniature import world

GENDERS = dict.fromkeys(world.GENDERS, 0.5)
TONES = {f"{tone} skin": 0.2 for tone in world.TONES}


@dataclass(frozen=True)
class Task:
    """What is to be balanced.

    Attributes:
        wanted: Attribute → share.
        control: How the loop is run.
        eyes: How CLIP is asked.
    """

    wanted: Mapping[str, float]
    control: Control
    eyes: str


TASKS = {
    "gender": Task(
        GENDERS,
        Control(tolerance=0.03, batch=48, most=240, rounds=10),
        "a {attribute} {concept}",
    ),
    "tones": Task(
        TONES,
        Control(tolerance=0.05, batch=48, most=576, rounds=20, level=0.8),
        "a {concept} with {attribute}",
    ),
    "crossed": Task(
        crossed(GENDERS, TONES),
        Control(tolerance=0.05, batch=80, most=160, rounds=8),
        "a {concept}, a {attribute}",
    ),
}
#: What all prompts have in common, the start token and the article, is held as firmly as sixteen
#: edits pull at it. At UCE's own scales, which are for one edit, both move far, and each
#: profession's images with the weights of all others.
SCALES: Mapping[str, Any] = {"null_scale": 100.0, "preserve_scale": 1.0}
#: Images a concept and round of the paper's code, for each that its successor draws: five texts
#: times five seeds times ten images, against ten images.
OLD_RECIPE = 25
#: Things that no request names: their accuracy says what the edit cost.
OTHERS = ("apple", "castle", "guitar", "sailboat", "penguin", "burger", "rocket", "drum")


class Bench:
    """The model, its eyes, and how the loop is run."""

    def __init__(self, work: Path, images: int, how: Settings, compiled: bool) -> None:
        self.pipe, self.sight, self.compiled = generator(compiled), Sight(), compiled
        self.work, self.images, self.how = work, images, how
        self.people = len(world.PROFESSIONS) * images

    def drawn(self) -> np.ndarray:
        """Fresh images: of each profession, then a quarter as many of each other concept."""
        few = max(1, self.images // 4)
        asked = [(p, self.images) for p in world.PROFESSIONS] + [(o, few) for o in OTHERS]
        said = [(world.an(name), n) for name, n in asked]
        prompts = [prompt for prompt, n in said for _ in range(n)]
        seeds = [FRESH + own_seed(prompt) + i for prompt, n in said for i in range(n)]
        return images_of(self.pipe, prompts, seeds, self.how)

    def unedited(self) -> np.ndarray:
        """The same of the unedited model, drawn once for all tasks."""
        model = f"{weight_hash(self.pipe)[:8]}{'-compiled' * self.compiled}"
        name = f"unedited-{model}-{self.images}-{self.how.steps}-{self.how.precision}.npy"
        if not (self.work / name).is_file():
            part = self.work / f"{os.getpid()}.npy"
            np.save(part, self.drawn())
            part.replace(self.work / name)
        return np.load(self.work / name)

    def seen(
        self, pixels: np.ndarray, wanted: Mapping[str, float], eyes: ZeroShotEyes
    ) -> np.ndarray:
        """Reads the professions of `drawn`: images of each by attribute, (16, k)."""
        people = np.split(pixels[: self.people], len(world.PROFESSIONS))
        counts = []
        for own, profession in zip(people, world.PROFESSIONS, strict=True):
            scores = eyes([Image.fromarray(x) for x in own], profession, list(wanted))
            counts.append(np.bincount(scores.argmax(axis=1), minlength=len(wanted)))
        return np.array(counts)

    def recognised(self, pixels: np.ndarray) -> float:
        """Reads the other concepts of `drawn`: share of their images that show them."""
        others = pixels[self.people :]
        asked = [o for o in OTHERS for _ in range(len(others) // len(OTHERS))]
        return round(float(np.mean(self.sight.recognised(others, asked))), 3)

    def crossings(self, pixels: np.ndarray) -> float:
        """Reads genders and tones together off `drawn`: Δ of their ten crossings."""
        both = TASKS["crossed"]
        counts = self.seen(pixels, both.wanted, ZeroShotEyes(self.sight.encoder, both.eyes))
        return round(mean_delta(counts, list(both.wanted.values())).value, 3)

    def task(self, name: str, task: Task) -> dict[str, Any]:
        """Debiases all professions at once and measures before and after."""
        wanted, eyes = task.wanted, ZeroShotEyes(self.sight.encoder, task.eyes)
        requests = [
            *(Debias(p, wanted) for p in world.PROFESSIONS),
            Preserve([world.an(s) for s in world.SUBJECTS]),
            ARTICLES,
        ]
        kept = f"{name}-{task.control.most}-{self.how.steps}-{self.how.precision}.jsonl"
        found = debias(
            self.pipe, requests, eyes, control=task.control,
            settings=self.how, batch_size=BATCH, on_look=told,
            checkpoint=self.work / kept,
            about=f"{self.sight.encoder.identity} {task.eyes}{' compiled' * self.compiled}",
            nearest=0, **SCALES,
        )  # fmt: skip
        goal = list(wanted.values())
        with found.edit.applied(self.pipe, force=True):
            edited = self.drawn()
        unedited = self.unedited()
        before = self.seen(unedited, wanted, eyes)
        after = self.seen(edited, wanted, eyes)
        one, two = mean_delta(before, goal), mean_delta(after, goal)
        return {
            "delta_before": round(one.value, 3),
            "delta_after": round(two.value, 3),
            "interval": [round(two.low, 3), round(two.high, 3)],
            "floor": round(two.floor, 3),
            "crossings_before": self.crossings(unedited),
            "crossings_after": self.crossings(edited),
            "counts_after": dict(zip(world.PROFESSIONS, after.tolist(), strict=True)),
            "unfinished": list(found.unfinished),
            "others_before": self.recognised(unedited),
            "others_after": self.recognised(edited),
            "images": found.images,
            "original_recipe": found.original_recipe,
            "rounds": 1 + max(look.round for look in found.looks),
            "weights": _weights(found),
        }


def _weights(found: Debiased) -> dict[str, dict[str, float]]:
    return {r.concept: r.applied_weights for r in found.edit.requests if isinstance(r, Debias)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tasks as Markdown."""
    lines = [
        "| attributes | Δ before | Δ after | of chance alone | of the crossings | others before → "
        "after | images, rounds | the published loops draw |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['name']} | {r['delta_before']} | {r['delta_after']} "
        f"({r['interval'][0]}–{r['interval'][1]}) | {r['floor']} | {r['crossings_before']} → "
        f"{r['crossings_after']} | {r['others_before']} → {r['others_after']} | "
        f"{r['images']}, {r['rounds']} | {r['original_recipe']} (2025), "
        f"{OLD_RECIPE * r['original_recipe']} (2024) |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the tasks that are named, prints the table and writes a JSON file of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/debias"))
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--images", type=int, default=200, help="fresh images a profession")
    parser.add_argument("--steps", type=int, default=12)
    add_precision(parser)
    parser.add_argument("--compile", action="store_true", help="twice as fast, needs g++")
    parser.add_argument("--quick", action="store_true", help="few images, writes nothing")
    given = parser.parse_args()
    tasks = {name: TASKS[name] for name in given.tasks}
    if given.quick:
        given.images, given.steps = 2, 1
        quick = Control(tolerance=0.03, batch=4, most=4, rounds=1)
        tasks = {"gender": replace(TASKS["gender"], control=quick)}
    how = settings(given.steps, given.precision)
    bench = Bench(given.work, given.images, how, given.compile)
    for name, task in tasks.items():
        most = task.control.most * (task.control.rounds + 1) + 2 * given.images
        sys.stderr.write(f"{name}: at most {len(world.PROFESSIONS) * most} images\n")
    about = {
        **drawn_by(bench.pipe, how),
        "eyes": bench.sight.encoder.identity,
        "images": given.images,
        "compiled": given.compile,
        "scales": SCALES,
        "control": {name: asdict(task.control) for name, task in TASKS.items()},
    }
    given.work.mkdir(parents=True, exist_ok=True)
    rows = resumed(given.work, about, list(tasks), lambda name: bench.task(name, tasks[name]))
    sys.stdout.write(table(rows) + "\n")
    if not given.quick:
        for row in rows:
            written(Path(__file__).parent, about, [row], row["name"])


if __name__ == "__main__":
    main()
