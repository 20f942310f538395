"""Subjects that the bundled model has never drawn, rendered into folders of references.

A fox, which is no part of its world, is taught as a dog; a teapot of another hue with a mark is
taught as a teapot. References are captioned with their place, which is one of those that the
regularisation prompts use as well; the others are left to the evaluation.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visdiff.miniature.render import Art
from visdiff.miniature.world import PLACES, Scene

REFERENCE_PLACES = ("sand", "brick wall", "grass", "ocean")
"""Places of the references; the bundled class prompts name these too."""

HELD_OUT_PLACES = tuple(p for p in PLACES if p not in REFERENCE_PLACES)
"""Places of evaluation prompts."""


@dataclass(frozen=True)
class Known:
    """A subject of the benchmark.

    Attributes:
        name: Its name in tables and folders.
        icon: The icon that it is drawn from.
        noun: The class noun that it is taught as.
        art: The art set of the icon.
        hue: Turn of the hue, in [0, 1).
        marked: Whether a mark is drawn on it.
    """

    name: str
    icon: str
    noun: str
    art: str = "noto"
    hue: float = 0.0
    marked: bool = False

    def art_of(self, art: Art) -> Art:
        """Returns the art with this subject's own icon."""
        return art.replaced(self.icon, self._change)

    def _change(self, sprite: np.ndarray) -> np.ndarray:
        alpha = sprite[..., 3:]
        pixels = np.asarray(Image.fromarray(sprite[..., :3]).convert("HSV")).copy()
        pixels[..., 0] = (pixels[..., 0].astype(int) + round(256 * self.hue)) % 256
        colours = np.asarray(Image.fromarray(pixels, "HSV").convert("RGB")).copy()
        if self.marked:
            rows, columns = np.mgrid[:64, :64]
            ring = (rows - 36) ** 2 + (columns - 32) ** 2
            colours[(ring < 90) & (ring > 20)] = (250, 240, 60)
        return np.concatenate([colours, alpha], axis=2)


SUBJECTS = (
    Known("fox", "fox", "dog"),
    Known("teapot", "teapot", "teapot", hue=0.45, marked=True),
)


def references(known: Known, folder: Path, art: Art, count: int, seed: int = 0) -> Path:
    """Renders references with a caption each, and returns their folder.

    Args:
        known: The subject.
        folder: Parent folder.
        art: The icons, those of the subject among them.
        count: Number of references.
        seed: Seed of places, positions and sizes.
    """
    where = folder / f"{known.name}-{count}"
    where.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    own = known.art_of(art)
    for i in range(count):
        place = REFERENCE_PLACES[i % len(REFERENCE_PLACES)]
        scene = Scene(subject=known.icon, style=known.art, place=place, art=known.art)
        Image.fromarray(own.render(scene, rng)).save(where / f"{i:02d}.png")
        caption = f"a [identifier] {known.noun} {PLACES[place][0]}"
        (where / f"{i:02d}.txt").write_text(caption + "\n", "utf-8")
    return where


def main() -> None:
    """Renders the references of every subject."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", default="benchmark-cache/personalize/references")
    parser.add_argument("--count", type=int, default=4)
    args = parser.parse_args()
    art = Art.load(args.art, [s.icon for s in SUBJECTS])
    for known in SUBJECTS:
        sys.stdout.write(f"{references(known, Path(args.out), art, args.count)}\n")


if __name__ == "__main__":
    main()
