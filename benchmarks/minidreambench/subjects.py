"""The subjects of MiniDreamBench, their references, biases and captions.

Eight subjects that the bundled model has never drawn: icons outside its world, taught as the
nearest class that it knows, and known icons with another hue and a mark. Everything about a
rendering is known, so its masks and the four cases of SID's captions (arXiv:2403.15330, table 1)
are exact.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from editing.personalize.subject import Subject
from visdiff.miniature.render import Art
from visdiff.miniature.world import PLACES, Scene, an

IDENTIFIER = "olis"

REFERENCE_PLACES = ("sand", "brick wall", "grass", "ocean")
"""Places of the references; the bundled class prompts name these too."""

HELD_OUT_PLACES = tuple(p for p in PLACES if p not in REFERENCE_PLACES)
"""Places of evaluation prompts and of the held-out renderings."""

HELD_OUT_STYLES = ("fluent", "pixel art", "sepia photo", "pop art")
"""Styles of evaluation prompts; the bundled class prompts name the others."""

SECOND_THINGS = ("hammer", "apple", "cactus", "key")
"""Second things of evaluation prompts."""

Bias = Literal["none", "background", "nearby", "tied", "style", "pose"]
"""What all references have in common: nothing, or one of SID's five kinds of bias."""

Case = Literal[1, 2, 3, 4]
"""SID's cases of captions: 1 names the subject alone, 2 also other things without detail, 3 (SID)
with their details, 4 describes the subject itself as well."""

_BIASED_PLACE, _BIASED_STYLE, _NEARBY, _TIED = "grass", "pencil sketch", "umbrella", "crown"

Sprite = np.ndarray
"""(64, 64, 4) uint8 RGBA."""


@dataclass(frozen=True)
class Known:
    """A subject of the benchmark.

    Attributes:
        name: Its name in tables and folders.
        icon: The icon that it is drawn from.
        noun: The class noun that it is taught as.
        living: Whether it is an animal.
        described: What it is, in words, for captions of case 4.
        hue: Turn of the hue, in [0, 1).
        marked: Whether a mark is drawn on it.
    """

    name: str
    icon: str
    noun: str
    living: bool
    described: str
    hue: float = 0.0
    marked: bool = False

    def changed(self, sprite: Sprite) -> Sprite:
        """Returns the icon with the subject's hue and mark."""
        pixels = np.asarray(Image.fromarray(sprite[..., :3]).convert("HSV")).copy()
        pixels[..., 0] = (pixels[..., 0].astype(int) + round(256 * self.hue)) % 256
        colours = np.asarray(Image.fromarray(pixels, "HSV").convert("RGB")).copy()
        if self.marked:
            rows, columns = np.mgrid[:64, :64]
            ring = (rows - 36) ** 2 + (columns - 32) ** 2
            colours[(ring < 90) & (ring > 20)] = (250, 240, 60)
        return np.concatenate([colours, sprite[..., 3:]], axis=2)


SUBJECTS = (
    Known("fox", "fox", "dog", True, "orange"),
    Known("dragon", "dragon", "dinosaur", True, "green spiked"),
    Known("rabbit", "rabbit", "rabbit", True, "grey ringed", hue=0.45, marked=True),
    Known("penguin", "penguin", "penguin", True, "blue ringed", hue=0.6, marked=True),
    Known("teapot", "teapot", "teapot", False, "turquoise ringed", hue=0.45, marked=True),
    Known("backpack", "backpack", "backpack", False, "green ringed", hue=0.3, marked=True),
    Known("racing car", "racing-car", "car", False, "red racing"),
    Known("canoe", "canoe", "sailboat", False, "brown open"),
)

BY_NAME = {known.name: known for known in SUBJECTS}


def load_art(folder: str | Path) -> Art:
    """Loads the icons of the world and of the subjects."""
    return Art.load(folder, sorted({known.icon for known in SUBJECTS}))


@dataclass(frozen=True, eq=False)
class References:
    """Renderings of a subject with what is known of them.

    Attributes:
        known: The subject.
        images: (n, 64, 64, 3) uint8.
        masks: (n, 64, 64) bool, True on the subject, but not on what it wears.
        scenes: Their attributes.
        bias: What they have in common.
    """

    known: Known
    images: np.ndarray
    masks: np.ndarray
    scenes: tuple[Scene, ...]
    bias: Bias

    def captions(self, case: Case) -> list[str]:
        """Returns a training caption per image, with the identifier."""
        return [_caption(self.known, scene, self.bias, case) for scene in self.scenes]

    def subject(self, case: Case) -> Subject:
        """Returns the subject to teach, with captions and masks."""
        opened = Subject.open(
            [Image.fromarray(pixels) for pixels in self.images], IDENTIFIER, self.known.noun
        )
        masks = tuple(Image.fromarray(np.where(m, 255, 0).astype(np.uint8)) for m in self.masks)
        return replace(opened, masks=masks).with_captions(self.captions(case))


def references(
    known: Known, art: Art, count: int = 4, bias: Bias = "none", seed: int = 0
) -> References:
    """Renders the references of a subject.

    Args:
        known: The subject.
        art: The icons.
        count: Number of references.
        bias: What they have in common on purpose.
        seed: Seed of positions, sizes and the details of places.
    """
    scenes = [_scene(known, i, bias) for i in range(count)]
    return _rendered(known, art, scenes, bias, seed)


def truth(known: Known, art: Art, count: int = 8) -> np.ndarray:
    """Renders the subject in places that no reference shows, (count, 64, 64, 3) uint8.

    What a model has learnt of the references' backgrounds does not make it closer to these.
    """
    places = [HELD_OUT_PLACES[i % len(HELD_OUT_PLACES)] for i in range(count)]
    scenes = [Scene(known.icon, "noto", place, "noto") for place in places]
    return _rendered(known, art, scenes, "none", 1_000).images


def _scene(known: Known, index: int, bias: Bias) -> Scene:
    place = REFERENCE_PLACES[index % len(REFERENCE_PLACES)]
    scene = Scene(subject=known.icon, style="noto", place=place, art="noto")
    if bias == "background":
        return replace(scene, place=_BIASED_PLACE)
    if bias == "style":
        return replace(scene, style=_BIASED_STYLE)
    if bias == "nearby":
        return replace(scene, second=_NEARBY)
    return scene


def _rendered(known: Known, art: Art, scenes: Sequence[Scene], bias: Bias, seed: int) -> References:
    def drawn(paint: Callable[[Sprite], Sprite], flat: bool) -> np.ndarray:
        """Renders all scenes with a painted subject; the same random numbers every time."""
        own = art.replaced(known.icon, lambda s: _posed(art, paint(known.changed(s)), bias))
        rng = np.random.default_rng(seed)
        return np.stack([own.render(replace(s, style=s.art) if flat else s, rng) for s in scenes])

    white = drawn(lambda sprite: _filled(sprite, 255), flat=True).astype(int)
    black = drawn(lambda sprite: _filled(sprite, 0), flat=True).astype(int)
    masks = (white - black).mean(axis=3) > 127
    return References(known, drawn(lambda s: s, flat=False), masks, tuple(scenes), bias)


def _filled(sprite: Sprite, value: int) -> Sprite:
    return np.concatenate([np.full_like(sprite[..., :3], value), sprite[..., 3:]], axis=2)


def _posed(art: Art, sprite: Sprite, bias: Bias) -> Sprite:
    """Returns the sprite lying on its side, or with a crown on its head, as the bias asks."""
    if bias == "pose":
        return np.ascontiguousarray(np.rot90(sprite))
    if bias != "tied":
        return sprite
    crown = Image.fromarray(art.sprite("noto", _TIED)).resize((34, 34))
    picture = Image.fromarray(sprite)
    picture.alpha_composite(crown, (15, 0))
    return np.asarray(picture)


def _caption(known: Known, scene: Scene, bias: Bias, case: Case) -> str:
    named = f"{IDENTIFIER} {known.noun}"
    core = f"a {known.described} {named}" if case == 4 else f"a {named}"
    if case == 1:
        return core
    other = {"nearby": _NEARBY, "tied": _TIED}.get(bias, "")
    if bias == "nearby":
        core = f"{core} next to {an(other)}"
    elif bias == "tied":
        core = f"{core} with {an(other)}"
    if case == 2:
        return core if other else f"{core} in a place"
    detailed = f"{core} {PLACES[scene.place][0]}"
    if bias == "pose":
        detailed = f"{detailed}, lying on its side"
    return f"{detailed}, {scene.style} style" if bias == "style" else detailed


@dataclass(frozen=True)
class Prompt:
    """A prompt of the evaluation.

    Attributes:
        text: The prompt, with {} for the subject ("a olis dog").
        place: The place that it asks for, or "".
        style: The style that it asks for, or "".
        second: The second thing that it asks for, or "".
    """

    text: str
    place: str = ""
    style: str = ""
    second: str = ""


PROMPTS: tuple[Prompt, ...] = (
    *(Prompt(f"{{}} {PLACES[p][0]}", place=p) for p in HELD_OUT_PLACES),
    *(Prompt(f"{{}}, {s} style", style=s) for s in HELD_OUT_STYLES),
    *(Prompt(f"{{}} next to {an(t)}", second=t) for t in SECOND_THINGS),
    *(
        Prompt(f"{{}} {PLACES[p][0]}, {s} style", place=p, style=s)
        for p, s in zip(HELD_OUT_PLACES, HELD_OUT_STYLES, strict=True)
    ),
)
"""The 16 prompts. No reference and no class image shows what they ask for."""


def main() -> None:
    """Renders the references of every subject under every bias, with masks and captions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", default=".art", help="folder of the art packages (make art)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-cache/minidreambench"))
    parser.add_argument("--count", type=int, default=4)
    args = parser.parse_args()
    art = load_art(args.art)
    for known in SUBJECTS:
        for bias in get_args(Bias):
            folder = args.out / "references" / f"{known.name}-{bias}"
            folder.mkdir(parents=True, exist_ok=True)
            rendered = references(known, art, args.count, bias)
            for i, caption in enumerate(rendered.captions(3)):
                Image.fromarray(rendered.images[i]).save(folder / f"{i:02d}.png")
                mask = Image.fromarray(np.where(rendered.masks[i], 255, 0).astype(np.uint8))
                mask.save(folder / f"{i:02d}_mask.png")
                (folder / f"{i:02d}.txt").write_text(caption + "\n", "utf-8")
            sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
