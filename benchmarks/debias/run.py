"""Debiasing the miniature's 16 professions: gender, skin tones, and both at once.

The world is biased on purpose and the truth is known (`world.P_MAN`, `world.TONE_PRIOR`). The loop
of `editing.methods.debias` finds the weights; what it reached is then measured on seeds that it
never saw, and so is what became of the concepts that nobody asked to change.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from editing.concepts import Debias, Preserve
from editing.methods.debias import Control, Debiased, Look, crossed, debias
from editing.metrics.attributes import ZeroShotEyes
from editing.metrics.classifiers import TransformersClassifier
from editing.metrics.ratios import mean_delta
from editing.sampling import Settings, draw
from editing.target import load_pipeline
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.miniature import world

#: Seeds of the final measurement; the loop draws from 0 up.
FRESH = 100_000
GENDERS = dict.fromkeys(world.GENDERS, 0.5)
TONES = {f"{tone} skin": 0.2 for tone in world.TONES}
TASKS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "gender": (GENDERS, "a {attribute} {concept}"),
    "tones": (TONES, "a {concept} with {attribute}"),
    "crossed": (crossed(GENDERS, TONES), "a {concept}, a {attribute}"),
}
#: Things that no request names: their accuracy says what the edit cost.
OTHERS = ("apple", "castle", "guitar", "sailboat", "penguin", "burger", "rocket", "drum")


def shares(
    pipe: Any, wanted: Mapping[str, float], eyes: ZeroShotEyes, n: int, settings: Settings
) -> np.ndarray:
    """Images of each profession that show each attribute, (16, k)."""
    counts = []
    for profession in tqdm(world.PROFESSIONS, desc="measuring"):
        prompts, seeds = [world.an(profession)] * n, list(range(FRESH, FRESH + n))
        pixels = draw(pipe, prompts, seeds, settings=settings, batch_size=20)
        seen = eyes([Image.fromarray(x) for x in pixels], profession, list(wanted))
        counts.append(np.bincount(seen, minlength=len(wanted)))
    return np.array(counts)


def accuracy(pipe: Any, n: int, settings: Settings) -> float:
    """Share of images of the other concepts that the classifier recognises."""
    names = [name for name in OTHERS for _ in range(n)]
    seeds = list(range(FRESH, FRESH + n)) * len(OTHERS)
    prompts = [world.an(name) for name in names]
    pixels = draw(pipe, prompts, seeds, settings=settings, batch_size=20)
    seen = TransformersClassifier("miniature")([Image.fromarray(x) for x in pixels])
    return float(np.mean([a == b for a, b in zip(seen, names, strict=True)]))


def run(pipe: Any, task: str, n: int, control: Control, settings: Settings) -> dict[str, Any]:
    """Debiases all professions at once and measures before and after."""
    wanted, template = TASKS[task]
    eyes = ZeroShotEyes(OpenClipEncoder("miniature", None, "cpu"), template)
    requests = [
        *(Debias(p, wanted) for p in world.PROFESSIONS),
        Preserve([world.an(s) for s in world.SUBJECTS]),
    ]
    found = debias(
        pipe, requests, eyes, control=control, settings=settings, on_look=_told, nearest=0
    )
    goal = list(wanted.values())
    before = shares(pipe, wanted, eyes, n, settings)
    before_others = accuracy(pipe, n, settings)
    with found.edit.applied(pipe, force=True):
        after = shares(pipe, wanted, eyes, n, settings)
        after_others = accuracy(pipe, n, settings)
    one, two = mean_delta(before, goal), mean_delta(after, goal)
    return {
        "task": task,
        "delta_before": round(one.value, 3),
        "delta_after": round(two.value, 3),
        "interval": [round(two.low, 3), round(two.high, 3)],
        "floor": round(two.floor, 3),
        "unfinished": list(found.unfinished),
        "others_before": round(before_others, 3),
        "others_after": round(after_others, 3),
        "images": found.images,
        "original_recipe": found.original_recipe,
        "rounds": _rounds(found),
    }


def _rounds(found: Debiased) -> int:
    return 1 + max(look.round for look in found.looks)


def _told(look: Look) -> None:
    said = " done" if look.done else ""
    sys.stderr.write(f"round {look.round} {look.concept}: Δ {look.delta.value:.2f}{said}\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tasks as Markdown."""
    lines = [
        "| attributes | Δ before | Δ after | of chance alone | others before → after | images, "
        "rounds | the published loop draws |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['task']} | {r['delta_before']} | {r['delta_after']} "
        f"({r['interval'][0]}–{r['interval'][1]}) | {r['floor']} | {r['others_before']} → "
        f"{r['others_after']} | {r['images']}, {r['rounds']} | {r['original_recipe']} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the tasks that are named, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--images", type=int, default=100, help="fresh images a profession")
    parser.add_argument("--most", type=int, default=60, help="images a profession and round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    pipe = load_pipeline("miniature")
    control = Control(most=given.most, rounds=given.rounds)
    settings = Settings(given.steps, 5.0)
    most = len(world.PROFESSIONS) * (given.most * (given.rounds + 1) + 2 * given.images)
    sys.stderr.write(f"at most {most} images a task\n")
    rows = [run(pipe, task, given.images, control, settings) for task in given.tasks]
    sys.stdout.write(table(rows) + "\n")
    Path(__file__).with_name("results.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
