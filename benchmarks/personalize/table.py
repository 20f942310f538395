"""Likeness, language drift and text alignment of every method under every prior.

Each cell teaches one subject from four references (`benchmarks/personalize/subjects.py`) and draws
20 images of each question; the table has the numbers of the first 5 and of all 20.

- likeness: mean CLIP cosine of "a olis dog" with the references (CLIP-I).
- drift: the same of "a dog", without the identifier. Untaught, it is what the noun is like anyway.
- place, style: share of images of "a olis dog at sunset", for example, in which CLIP sees the place
  or style that was asked for, of all that the world has. Neither the references nor the class
  prompts show them.

Finished cells are kept in a file of JSON lines: an interrupted run continues.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from subjects import HELD_OUT_PLACES, SUBJECTS, Known, references

from editing.edit import Edit
from editing.generate.phrases import with_article
from editing.personalize import find, names
from editing.personalize.samples import grid
from editing.personalize.subject import Subject
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings, draw
from visdiff.miniature.evaluate import Recognizer, attribute_prompt, choose_option
from visdiff.miniature.render import Art
from visdiff.miniature.world import PLACES, STYLES

PRIORS = ("none", "prompt", "structured", "teacher")
HELD_OUT_STYLES = ("fluent", "pixel art", "sepia photo", "pop art")
"""Styles of evaluation prompts; the bundled class prompts name the others."""

SAMPLING = Settings(steps=10, scheduler="DPMSolverMultistep")


@dataclass(frozen=True)
class Cell:
    """The measurements of one trained edit, or of the untaught model.

    Attributes:
        subject: Name of the subject.
        method: Name of the method; "untaught" for the base.
        prior: Name of the prior.
        steps: Training steps.
        samples: Images of each question.
        likeness: Mean cosine with the references.
        drift: The same of the class noun alone.
        place: Share of images with the place that was asked for.
        style: Share of images with the style that was asked for.
        seconds: Duration of the training.
    """

    subject: str
    method: str
    prior: str
    steps: int
    samples: int
    likeness: float
    drift: float
    place: float
    style: float
    seconds: float = 0.0


class Measure:
    """Draws and measures; the questions are the same for all cells of a subject."""

    def __init__(self, pipe: Any, known: Known, folder: Path) -> None:
        self._pipe, self._known = pipe, known
        self._recognizer = Recognizer()
        pictures = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.png"))]
        self._references = self._recognizer.embed(np.stack(pictures))

    @property
    def real(self) -> float:
        """Mean cosine of distinct references with each other."""
        cosines = self._references @ self._references.T
        return float(cosines[~np.eye(len(cosines), dtype=bool)].mean())

    def cells(self, phrase: str, samples: int, sheet: Path, **about: Any) -> tuple[Cell, ...]:
        """Measures the pipeline in its current state, on 5 and on all samples."""
        seeds = list(range(samples))
        noun = with_article(self._known.noun)
        own = self._drawn([phrase] * samples, seeds)
        plain = self._drawn([noun] * samples, seeds)
        places, place_hits = self._asked("place", HELD_OUT_PLACES, tuple(PLACES), phrase, seeds)
        styles, style_hits = self._asked("style", HELD_OUT_STYLES, STYLES, phrase, seeds)
        sheet.parent.mkdir(parents=True, exist_ok=True)
        rows = np.concatenate([part[:6] for part in (own, plain, places, styles)])
        grid(rows, [phrase, noun, f"{phrase}: places", f"{phrase}: styles"]).save(sheet)
        return tuple(
            Cell(
                samples=n,
                likeness=self._likeness(own[:n]),
                drift=self._likeness(plain[:n]),
                place=float(place_hits[:n].mean()),
                style=float(style_hits[:n].mean()),
                **about,
            )
            for n in (5, samples)
        )

    def _likeness(self, images: np.ndarray) -> float:
        return float((self._recognizer.embed(images) @ self._references.T).mean())

    def _asked(
        self,
        attribute: str,
        asked: Sequence[str],
        values: Sequence[str],
        phrase: str,
        seeds: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images of prompts with an attribute, and whether CLIP sees it in each."""
        chosen = [asked[i % len(asked)] for i in seeds]
        noun = self._known.noun
        named = phrase.split(" ", 1)[1]
        prompts = [attribute_prompt(noun, attribute, v).replace(noun, named) for v in chosen]
        prompts = [p.replace("an olis", "a olis") for p in prompts]
        images = self._drawn(prompts, seeds)
        options = [[attribute_prompt(noun, attribute, v) for v in values]] * len(images)
        truth = np.array([values.index(v) for v in chosen])
        return images, choose_option(self._recognizer, images, options) == truth

    def _drawn(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return draw(self._pipe, prompts, seeds, settings=SAMPLING, batch_size=20)


def measure(args: argparse.Namespace, done: dict[tuple[str, ...], list[Cell]]) -> None:
    """Trains and measures the cells that are missing, and appends them to the file."""
    pipe = load_pipeline("miniature")
    art = Art.load(args.art, [s.icon for s in SUBJECTS])
    args.out.mkdir(parents=True, exist_ok=True)
    for known in SUBJECTS:
        if known.name not in args.subjects:
            continue
        folder = references(known, args.out / "references", art, args.references)
        subject = Subject.open(folder, "olis", known.noun)
        measuring = Measure(pipe, known, folder)
        sys.stdout.write(f"{known.name}: real likeness {measuring.real:.2f}\n")
        wanted = [("untaught", "none"), *((m, p) for p in args.priors for m in args.methods)]
        for method, prior in wanted:
            if (known.name, method, prior, str(args.steps)) in done:
                continue
            sheet = args.out / "grids" / f"{known.name}-{method}-{prior}.png"
            about = {"subject": known.name, "method": method, "prior": prior, "steps": args.steps}
            if method == "untaught":
                cells = measuring.cells(subject.phrase, args.samples, sheet, **about)
            else:
                edit, seconds = _taught(pipe, subject, method, prior, args)
                named = f"a {edit.requests[0].concept}"
                with edit.applied(pipe, force=True):
                    cells = measuring.cells(named, args.samples, sheet, seconds=seconds, **about)
            with args.file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(cell)) + "\n" for cell in cells)
            sys.stdout.write("".join(f"{_line(cell)}\n" for cell in cells[-1:]))
            sys.stdout.flush()


def _taught(
    pipe: Any, subject: Subject, method: str, prior: str, args: argparse.Namespace
) -> tuple[Edit, float]:
    started = time.perf_counter()
    edit = find(method).fit(
        pipe,
        subject,
        prior=prior,
        class_folder=args.out / "class-images",
        steps=args.steps,
        prior_images=args.class_images,
        checkpoint=args.out / "checkpoints" / f"{subject.noun}-{method}-{prior}.safetensors",
    )
    return edit, time.perf_counter() - started


def read(path: Path) -> list[Cell]:
    """Returns the cells of a file; none if it does not exist."""
    if not path.is_file():
        return []
    return [Cell(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def table(cells: Iterable[Cell]) -> str:
    """Returns the cells as a Markdown table; of equal cells, the last."""
    head = "| subject | method | prior | steps | n | likeness | drift | place | style |"
    rule = "|---|---|---|---|---|---|---|---|---|"
    order = {p: i for i, p in enumerate(PRIORS)}
    distinct = {(c.subject, c.method, order[c.prior], c.steps, c.samples): c for c in cells}
    return "\n".join([head, rule, *(_line(distinct[key]) for key in sorted(distinct))])


def _line(c: Cell) -> str:
    return (
        f"| {c.subject} | {c.method} | {c.prior} | {c.steps} | {c.samples} | {c.likeness:.2f} | "
        f"{c.drift:.2f} | {c.place:.2f} | {c.style:.2f} |"
    )


def main() -> None:
    """Measures the missing cells and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-cache/personalize"))
    parser.add_argument("--file", type=Path, default=Path(__file__).parent / "cells.jsonl")
    parser.add_argument("--subjects", nargs="+", default=[s.name for s in SUBJECTS])
    parser.add_argument("--methods", nargs="+", default=names())
    parser.add_argument("--priors", nargs="+", default=PRIORS[:3])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--class-images", type=int, default=64)
    parser.add_argument("--table", action="store_true", help="print the measured table alone")
    args = parser.parse_args()
    if not args.table:
        done: dict[tuple[str, ...], list[Cell]] = {}
        for cell in read(args.file):
            key = (cell.subject, cell.method, cell.prior, str(cell.steps))
            done.setdefault(key, []).append(cell)
        measure(args, done)
    sys.stdout.write(table(read(args.file)) + "\n")


if __name__ == "__main__":
    main()
