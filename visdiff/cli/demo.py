"""The demo: two sets with two planted differences, drawn and compared offline in two minutes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visdiff.cache import Cache
from visdiff.comparison.compare import compare
from visdiff.miniature import world
from visdiff.miniature.generate import Drawing, draw
from visdiff.results import Difference, DifferenceReport

N = 80
#: The plain difference: every image of A in front of the wall, every image of B on the grass.
PLACES = {"A": "brick wall", "B": "grass"}
#: The subtle one: half of each set is asked for in a style, the other half in none.
STYLES = {"A": "sepia photo", "B": "pencil sketch"}
STYLE_SHARE = 0.5
#: Recognition rates are those of 10 steps: see ``benchmarks/generate/README.md``.
STEPS = 6


@dataclass(frozen=True)
class Planted:
    """A difference that the demo puts in.

    Attributes:
        direction: The set it is truer of.
        what: What it is, for people.
        words: A sentence that names it contains one of these.
    """

    direction: str
    what: str
    words: tuple[str, ...]


PLANTED = (
    Planted("A", "in front of a brick wall", ("brick", "wall")),
    Planted("B", "on the grass", ("grass",)),
    Planted("A", "half of them sepia photos", ("sepia",)),
    Planted("B", "half of them pencil sketches", ("pencil", "sketch")),
)


def drawings(side: str, seed: int = 0) -> Iterator[Drawing]:
    """The prompts and seeds of one set: the same professions in both, in another place."""
    rng = np.random.default_rng([seed, ord(side)])
    place = world.PLACES[PLACES[side]][0]
    for i in range(N):
        person = world.an(world.PROFESSIONS[i % len(world.PROFESSIONS)])
        styled = rng.random() < STYLE_SHARE
        prompt = f"{person} {place}" + (f", {STYLES[side]} style" if styled else "")
        yield Drawing(prompt, int(rng.integers(2**31)))


def demo(out: Path, cache: Cache, *, seed: int = 0, progress: bool = True) -> DifferenceReport:
    """Draws both sets with the miniature, compares them and writes the report.

    Args:
        out: Gets ``A/`` and ``B/`` with the images and manifests, and the report's files.
        cache: Keeps images, captions and embeddings.
        seed: Seed of prompts, noise and statistics.
        progress: Show progress on stderr.
    """
    manifests = {
        side: draw(list(drawings(side, seed)), out / side, cache, steps=STEPS, progress=progress)
        for side in ("A", "B")
    }
    report = compare(
        manifests["A"],
        manifests["B"],
        preset="miniature",
        # One split shows the procedure with half of the captions.
        statistics__cross_fit="never",
        cache=cache,
        progress=progress,
        seed=seed,
    )
    report.save(out)
    return report


def names_planted(difference: Difference) -> bool:
    """Whether a difference, or one of its synonyms, names what was planted in its direction."""
    words = [w for p in PLANTED if p.direction == difference.direction for w in p.words]
    return any(w in text for w in words for text in (difference.text, *difference.synonyms))


def found(report: DifferenceReport) -> dict[str, bool]:
    """Which planted difference a confirmed one (or its synonym) names in the right direction."""
    return {
        planted.what: any(
            d.direction == planted.direction
            and any(w in text for w in planted.words for text in (d.text, *d.synonyms))
            for d in report.confirmed
        )
        for planted in PLANTED
    }
