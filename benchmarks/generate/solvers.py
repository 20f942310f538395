"""Recognition rates of the miniature's images by scheduler and number of steps.

The classifier names the subject, CLIP the place and the style, of images of the same prompts and
seeds under each setting. Rates that lie within two standard errors of each other are the same.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Precision, Settings, draw
from visdiff.miniature import world
from visdiff.miniature.evaluate import SUBJECTS, Recognizer, attribute_prompt, choose_option

SETTINGS: tuple[tuple[str, int], ...] = (
    ("DDIM", 16),
    ("DPMSolverMultistep", 10),
    ("DPMSolverMultistep", 8),
    ("DPMSolverMultistep", 6),
)
OPTIONS = {"place": tuple(world.PLACES), "style": world.STYLES}


def prompts(seeds: int) -> tuple[list[str], list[int], dict[str, list[list[str]]]]:
    """Returns prompts, indices of what each asks for, and CLIP's options by attribute."""
    asked = [world.an(s) for s in SUBJECTS for _ in range(seeds)]
    truth = [i for i in range(len(SUBJECTS)) for _ in range(seeds)]
    options: dict[str, list[list[str]]] = {}
    rng = np.random.default_rng(0)
    for attribute, values in OPTIONS.items():
        chosen = [i % len(values) for i in range(len(SUBJECTS) * seeds // 2)]
        subjects = [str(rng.choice(world.SUBJECTS)) for _ in chosen]
        options[attribute] = [[attribute_prompt(s, attribute, v) for v in values] for s in subjects]
        asked += [row[i] for row, i in zip(options[attribute], chosen, strict=True)]
        truth += chosen
    return asked, truth, options


def rates(
    recognizer: Recognizer, images: np.ndarray, truth: Sequence[int], options: dict
) -> list[float]:
    """Returns the shares of subjects, places and styles that are recognised."""
    n = len(truth) - sum(len(rows) for rows in options.values())
    shares = [float(np.mean(recognizer.classify(images[:n]) == truth[:n]))]
    for rows in options.values():
        part = slice(n, n + len(rows))
        shares.append(float(np.mean(choose_option(recognizer, images[part], rows) == truth[part])))
        n += len(rows)
    return shares


def main() -> None:
    """Prints the table as Markdown, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="images a subject")
    parser.add_argument("--precision", choices=get_args(Precision), default="model")
    parser.add_argument("--images", type=Path, help="folder for the images, one .npy a setting")
    arguments = parser.parse_args()
    pipe, recognizer = load_pipeline("miniature"), Recognizer()
    asked, truth, options = prompts(arguments.seeds)
    n = [len(SUBJECTS) * arguments.seeds, *map(len, options.values())]
    sys.stdout.write(
        f"| scheduler | steps | subject (n = {n[0]}) | place ({n[1]}) | "
        f"style ({n[2]}) | s an image |\n|---|---|---|---|---|---|\n"
    )
    for scheduler, steps in SETTINGS:
        settings = Settings(steps, 5.0, scheduler=scheduler, precision=arguments.precision)
        begun = time.perf_counter()
        images = draw(pipe, asked, list(range(len(asked))), settings=settings, batch_size=32)
        seconds = (time.perf_counter() - begun) / len(asked)
        shares = " | ".join(f"{share:.3f}" for share in rates(recognizer, images, truth, options))
        sys.stdout.write(f"| {scheduler} | {steps} | {shares} | {seconds:.2f} |\n")
        sys.stdout.flush()
        if arguments.images:
            np.save(arguments.images / f"{scheduler}-{steps}.npy", images)


if __name__ == "__main__":
    main()
