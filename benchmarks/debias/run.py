"""Debiasing the miniature's 16 professions: gender, skin tones, and both at once.

The world has known biases (`world.P_MAN`, `world.TONE_PRIOR`). The loop of
`editing.methods.debias` finds the weights. The edit is then measured on held-out seeds, on the
professions and on concepts that no request names.
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
    Scorers,
    add_precision,
    draw_images,
    load_generator,
    measure_missing,
    print_evaluation,
    sampling_provenance,
    settings,
    write_results,
)

from editing.generate.phrases import own_seed
from editing.methods.debias import Control, Debiased, crossed, debias
from editing.metrics.attributes import ZeroShotScorer
from editing.metrics.ratios import mean_delta
from editing.pipelines.sampling import Settings
from editing.pipelines.weights import weight_hash
from editing.requests import Debias, Preserve
from visdiff.miniature import world

GENDERS = dict.fromkeys(world.GENDERS, 0.5)
TONES = {f"{tone} skin": 0.2 for tone in world.TONES}


@dataclass(frozen=True)
class Task:
    """The attributes to balance.

    Attributes:
        wanted: Maps each attribute to its target share.
        control: Settings of the loop.
        template: Text prompt template of the zero-shot classification.
    """

    wanted: Mapping[str, float]
    control: Control
    template: str


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
#: All prompts share the start token and the article, and sixteen edits move both. UCE's own scales
#: are for one edit: with them both move far, and each profession's images then depend on the
#: weights of all others. These scales preserve them more strongly.
SCALES: Mapping[str, Any] = {"null_scale": 100.0, "preserve_scale": 1.0}
#: Images per concept and round of the 2024 code (five texts × five seeds × ten images), relative
#: to the ten images of the 2025 code.
FACTOR_2024 = 25
#: Subjects that no request names. Their accuracy measures the edit's damage.
OTHERS = ("apple", "castle", "guitar", "sailboat", "penguin", "burger", "rocket", "drum")


class Bench:
    """The model, its scorers, and the sampling settings."""

    def __init__(self, work: Path, images: int, how: Settings, compiled: bool) -> None:
        self.pipe, self.scorers, self.compiled = load_generator(compiled), Scorers(), compiled
        self.work, self.images, self.how = work, images, how
        self.people = len(world.PROFESSIONS) * images

    def draw_fresh(self) -> np.ndarray:
        """Draws held-out images: each profession, then a quarter as many of each other concept."""
        few = max(1, self.images // 4)
        named = [(p, self.images) for p in world.PROFESSIONS] + [(o, few) for o in OTHERS]
        sizes = [(world.an(name), n) for name, n in named]
        prompts = [prompt for prompt, n in sizes for _ in range(n)]
        seeds = [FRESH + own_seed(prompt) + i for prompt, n in sizes for i in range(n)]
        return draw_images(self.pipe, prompts, seeds, self.how)

    def unedited_images(self) -> np.ndarray:
        """Returns the same images of the unedited model, drawn once for all tasks."""
        model = f"{weight_hash(self.pipe)[:8]}{'-compiled' * self.compiled}"
        name = f"unedited-{model}-{self.images}-{self.how.steps}-{self.how.precision}.npy"
        if not (self.work / name).is_file():
            part = self.work / f"{os.getpid()}.npy"
            np.save(part, self.draw_fresh())
            part.replace(self.work / name)
        return np.load(self.work / name)

    def count_attributes(
        self, pixels: np.ndarray, wanted: Mapping[str, float], scorer: ZeroShotScorer
    ) -> np.ndarray:
        """Counts the images of each profession by attribute, (16, k)."""
        people = np.split(pixels[: self.people], len(world.PROFESSIONS))
        counts = []
        for own, profession in zip(people, world.PROFESSIONS, strict=True):
            scores = scorer([Image.fromarray(x) for x in own], profession, list(wanted))
            counts.append(np.bincount(scores.argmax(axis=1), minlength=len(wanted)))
        return np.array(counts)

    def recognition_rate(self, pixels: np.ndarray) -> float:
        """Returns the share of the other concepts' images that are classified as such."""
        others = pixels[self.people :]
        asked = [o for o in OTHERS for _ in range(len(others) // len(OTHERS))]
        return round(float(np.mean(self.scorers.recognised(others, asked))), 3)

    def crossed_delta(self, pixels: np.ndarray) -> float:
        """Returns Δ of the ten combinations of gender and tone."""
        both = TASKS["crossed"]
        counts = self.count_attributes(
            pixels, both.wanted, ZeroShotScorer(self.scorers.encoder, both.template)
        )
        return round(mean_delta(counts, list(both.wanted.values())).value, 3)

    def run_task(self, name: str, task: Task) -> dict[str, Any]:
        """Debiases all professions jointly and measures before and after."""
        wanted, scorer = task.wanted, ZeroShotScorer(self.scorers.encoder, task.template)
        requests = [
            *(Debias(p, wanted) for p in world.PROFESSIONS),
            Preserve([world.an(s) for s in world.SUBJECTS]),
            ARTICLES,
        ]
        checkpoint = f"{name}-{task.control.most}-{self.how.steps}-{self.how.precision}.jsonl"
        found = debias(
            self.pipe, requests, scorer, control=task.control,
            settings=self.how, batch_size=BATCH, on_evaluation=print_evaluation,
            checkpoint=self.work / checkpoint,
            about=f"{self.scorers.encoder.identity} {task.template}{' compiled' * self.compiled}",
            nearest=0, **SCALES,
        )  # fmt: skip
        target = list(wanted.values())
        with found.edit.applied(self.pipe, force=True):
            edited = self.draw_fresh()
        unedited = self.unedited_images()
        before = self.count_attributes(unedited, wanted, scorer)
        after = self.count_attributes(edited, wanted, scorer)
        one, two = mean_delta(before, target), mean_delta(after, target)
        return {
            "delta_before": round(one.value, 3),
            "delta_after": round(two.value, 3),
            "interval": [round(two.low, 3), round(two.high, 3)],
            "floor": round(two.floor, 3),
            "crossings_before": self.crossed_delta(unedited),
            "crossings_after": self.crossed_delta(edited),
            "counts_after": dict(zip(world.PROFESSIONS, after.tolist(), strict=True)),
            "unfinished": list(found.unfinished),
            "others_before": self.recognition_rate(unedited),
            "others_after": self.recognition_rate(edited),
            "images": found.images,
            "original_recipe": found.original_recipe,
            "rounds": 1 + max(evaluation.round for evaluation in found.evaluations),
            "weights": _weights(found),
        }


def _weights(found: Debiased) -> dict[str, dict[str, float]]:
    return {r.concept: dict(r.applied_weights) for r in found.edit.requests if r.ratios}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the tasks as a Markdown table."""
    lines = [
        "| attributes | Δ before | Δ after | Δ of a balanced model | Δ of the crossings | others "
        "before → after | images, rounds | images of the published loops |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['name']} | {r['delta_before']} | {r['delta_after']} "
        f"({r['interval'][0]}–{r['interval'][1]}) | {r['floor']} | {r['crossings_before']} → "
        f"{r['crossings_after']} | {r['others_before']} → {r['others_after']} | "
        f"{r['images']}, {r['rounds']} | {r['original_recipe']} (2025), "
        f"{FACTOR_2024 * r['original_recipe']} (2024) |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the chosen tasks, prints the table and writes one JSON file per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/debias"))
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--images", type=int, default=200, help="held-out images per profession")
    parser.add_argument("--steps", type=int, default=12)
    add_precision(parser)
    parser.add_argument("--compile", action="store_true", help="twice as fast, needs g++")
    parser.add_argument("--quick", action="store_true", help="few images, writes nothing")
    args = parser.parse_args()
    tasks = {name: TASKS[name] for name in args.tasks}
    if args.quick:
        args.images, args.steps = 2, 1
        quick = Control(tolerance=0.03, batch=4, most=4, rounds=1)
        tasks = {"gender": replace(TASKS["gender"], control=quick)}
    how = settings(args.steps, args.precision)
    bench = Bench(args.work, args.images, how, args.compile)
    for name, task in tasks.items():
        most = task.control.most * (task.control.rounds + 1) + 2 * args.images
        sys.stderr.write(f"{name}: at most {len(world.PROFESSIONS) * most} images\n")
    about = {
        **sampling_provenance(bench.pipe, how),
        "eyes": bench.scorers.encoder.identity,
        "images": args.images,
        "compiled": args.compile,
        "scales": SCALES,
        "control": {name: asdict(task.control) for name, task in TASKS.items()},
    }
    args.work.mkdir(parents=True, exist_ok=True)
    rows = measure_missing(
        args.work, about, list(tasks), lambda name: bench.run_task(name, tasks[name])
    )
    sys.stdout.write(table(rows) + "\n")
    if not args.quick:
        for row in rows:
            write_results(Path(__file__).parent, about, [row], row["name"])


if __name__ == "__main__":
    main()
