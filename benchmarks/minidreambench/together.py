"""Two subjects in one model: merged in closed form, and taught together by Cut-Mix-Unmix.

Each pair is drawn eight times next to each other. An image counts if CLIP's nearest mean rendering,
among all pairs of {the subject, the ordinary thing of its class, nothing} on the left and on the
right, is the pair of both subjects. The recogniser is checked on renderings that it has not seen,
and the untaught model's pairs of ordinary things show what the generator can do at all.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measures import SAMPLING
from PIL import Image
from rowfiles import append_row, read_rows
from subjects import BY_NAME, HELD_OUT_PLACES, Known, load_art, references

from editing.edit import Edit
from editing.personalize import find
from editing.personalize.custom_diffusion import merge
from editing.personalize.samples import grid
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import draw
from visdiff.miniature.evaluate import Recognizer
from visdiff.miniature.render import Art
from visdiff.miniature.world import PLACES, Scene, an, caption, sample_scene

PAIRS = (
    ("fox", "teapot"),
    ("rabbit", "backpack"),
    ("penguin", "racing car"),
    ("teapot", "canoe"),
    ("dragon", "backpack"),
)
IMAGES = 8
"""Images of each pair: 40 in all."""

_CAPTIONS = 200
_RENDERINGS = 24
_SUBJECT, _ORDINARY, _NOTHING = "subject", "ordinary", "nothing"
_SIDES = (_SUBJECT, _ORDINARY, _NOTHING)

METHODS = (
    "untaught",
    "custom-diffusion merged",
    "svdiff cut-mix",
    "svdiff unmix 10",
    "svdiff unmix 100",
)


class Pairs:
    """Recognises which of two subjects an image shows on its left and on its right.

    Args:
        left: The subject on the left.
        right: The subject on the right.
        art: The icons.
        recognizer: CLIP.
    """

    def __init__(self, left: Known, right: Known, art: Art, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._kinds = [(a, b) for a in _SIDES for b in _SIDES if (a, b) != (_NOTHING, _NOTHING)]
        rendered = [_pair(left, right, kind, art) for kind in self._kinds]
        known = [recognizer.embed(images[::2]).mean(axis=0) for images in rendered]
        self._means = np.stack([m / np.linalg.norm(m) for m in known])
        unseen = [self.kinds(images[1::2]) for images in rendered]
        hits = [k == kind for kind, own in zip(self._kinds, unseen, strict=True) for k in own]
        self.accuracy = float(np.mean(hits))

    def kinds(self, images: np.ndarray) -> list[tuple[str, str]]:
        """Returns what each image shows on its left and on its right."""
        cosines = self._recognizer.embed(images) @ self._means.T
        return [self._kinds[i] for i in cosines.argmax(axis=1)]


def _pair(left: Known, right: Known, kind: tuple[str, str], art: Art) -> np.ndarray:
    """Renders pairs of one kind in all places, (n, 64, 64, 3) uint8."""
    own = art
    for known, which in ((left, kind[0]), (right, kind[1])):
        if which == _SUBJECT:
            own = own.replaced(known.icon, known.changed)
    names = [
        known.icon if which == _SUBJECT else known.noun if which == _ORDINARY else ""
        for known, which in ((left, kind[0]), (right, kind[1]))
    ]
    first, second = names if names[0] else (names[1], "")
    rng = np.random.default_rng(5)
    places = [list(PLACES)[i % len(PLACES)] for i in range(_RENDERINGS)]
    return np.stack([
        own.render(Scene(first, "noto", place, "noto", second=second), rng) for place in places
    ])  # fmt: skip


def _merged(pipe: Any, known: Sequence[Known], art: Art, out: Path) -> Edit:
    """Teaches each subject alone by Custom Diffusion and merges the edits."""
    rng = np.random.default_rng(0)
    texts = [caption(sample_scene(rng), rng)[0] for _ in range(_CAPTIONS)]
    edits = []
    for one, token in zip(known, ("olis", "ulit"), strict=True):
        saved = out / "together" / f"{one.name}-{token}.safetensors"
        if not saved.is_file():
            saved.parent.mkdir(parents=True, exist_ok=True)
            subject = references(one, art).subject(3).renamed(token)
            find("custom-diffusion").fit(
                pipe, subject, prior="structured", class_folder=out / "class-images", steps=400,
                prior_images=64,
            ).save(saved)  # fmt: skip
        edits.append(Edit.load(saved))
    return merge(edits, pipe, texts)


def _cut_mix(pipe: Any, known: Sequence[Known], art: Art, out: Path, unmix: float = 0.0) -> Edit:
    """Teaches both subjects together by SVDiff, with pasted pairs; `unmix` weighs attention."""
    name = "-".join([*(one.name for one in known), *([f"unmix-{unmix:g}"] if unmix else [])])
    subjects = [
        references(one, art).subject(3).renamed(token)
        for one, token in zip(known, ("olis", "ulit"), strict=True)
    ]
    return find("svdiff").fit(
        pipe, subjects, prior="structured", class_folder=out / "class-images", steps=800,
        prior_images=64, unmix=unmix, checkpoint=out / "together" / f"{name}-svdiff.safetensors",
    )  # fmt: skip


TAUGHT: Mapping[str, Callable[[Any, Sequence[Known], Art, Path], Edit]] = {
    "custom-diffusion merged": _merged,
    "svdiff cut-mix": _cut_mix,
    "svdiff unmix 10": partial(_cut_mix, unmix=10.0),
    "svdiff unmix 100": partial(_cut_mix, unmix=100.0),
}


def measure(
    pipe: Any, method: str, pair: tuple[str, str], art: Art, recognizer: Recognizer, out: Path
) -> dict[str, Any]:
    """Teaches one pair by one method and counts the images that show both subjects."""
    left, right = (BY_NAME[name] for name in pair)
    pairs = Pairs(left, right, art, recognizer)
    if method == "untaught":
        images = _drawn(pipe, an(left.noun), an(right.noun))
        wanted = (_ORDINARY, _ORDINARY)
    else:
        edit = TAUGHT[method](pipe, (left, right), art, out)
        with edit.applied(pipe, force=True):
            images = _drawn(pipe, *(f"a {r.concept}" for r in edit.requests))
        wanted = (_SUBJECT, _SUBJECT)
    sheet = out / "sheets" / f"together_{left.name}-{right.name}_{method}.png".replace(" ", "-")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(grid(images, [method]))).save(sheet)
    found = pairs.kinds(images)
    return {
        "pair": list(pair),
        "method": method,
        "both": sum(kind == wanted for kind in found),
        "left": sum(kind[0] == wanted[0] for kind in found),
        "right": sum(kind[1] == wanted[1] for kind in found),
        "images": len(images),
        "recogniser": round(pairs.accuracy, 3),
    }


def _drawn(pipe: Any, left: str, right: str) -> np.ndarray:
    places = [PLACES[HELD_OUT_PLACES[i % len(HELD_OUT_PLACES)]][0] for i in range(IMAGES)]
    prompts = [f"{left} next to {right} {place}" for place in places]
    how = replace(SAMPLING, steps=25)
    return draw(pipe, prompts, list(range(IMAGES)), settings=how, batch_size=IMAGES)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the counts of each method over the pairs as a Markdown table."""
    lines = ["| method | pairs | images | both | left | right |", "|---|---|---|---|---|---|"]
    for method in METHODS:
        own = [r for r in rows if r["method"] == method]
        if own:
            n = sum(r["images"] for r in own)
            shares = [f"{sum(r[k] for r in own) / n:.2f}" for k in ("both", "left", "right")]
            lines.append(f"| {method} | {len(own)} | {n} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures the missing pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-cache/minidreambench"))
    parser.add_argument("--file", type=Path, default=Path(__file__).parent / "together.jsonl")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--table", action="store_true", help="print the measured table alone")
    args = parser.parse_args()
    rows = read_rows(args.file)
    if not args.table:
        pipe, recognizer, art = load_pipeline("miniature"), Recognizer(), load_art(args.art)
        done = {(tuple(r["pair"]), r["method"]) for r in rows}
        for method in args.methods:
            for pair in PAIRS:
                if (pair, method) in done:
                    continue
                rows.append(measure(pipe, method, pair, art, recognizer, args.out))
                append_row(args.file, rows[-1])
                sys.stdout.write(f"{rows[-1]}\n")
                sys.stdout.flush()
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
