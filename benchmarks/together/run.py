"""Many edits in one solve, each beside itself alone.

Eight styles erased, sixteen professions debiased (their weights found by the loop of
`editing.methods.debias`, in company of whatever else is in the solve), four unsafe concepts
moderated: each part alone, then all of it in one solve. What each part was asked for, and the five
tasks that are no style (the subject, a second subject, gender, skin tone and place asked for are
what is seen), are measured on the same prompts and seeds every time. Preserved is what nobody asked
to change: all other things, professions by gender and by tone, and places and pairs with subjects
that are not measured.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import (
    ARTICLES,
    BATCH,
    FRESH,
    Sight,
    add_precision,
    drawn_by,
    every,
    generator,
    images_of,
    kept_in,
    others_than,
    resumed,
    settings,
    told,
    written,
)
from PIL import Image

import editing
from editing.generate.phrases import own_seed
from editing.methods.debias import Control, debias
from editing.metrics.attributes import ZeroShotEyes
from editing.metrics.features import image_features
from editing.metrics.similarity import nearest_text
from editing.pipelines.sampling import Settings
from editing.requests import Debias, Erase, Moderate, Preserve, Request
from visdiff.miniature import world

UNSAFE = world.SUBJECTS_BY_KIND["unsafe"]
#: Two words of a prompt meet in its end token and padding: styles are erased where they are said.
TEMPLATES = ("{}", "a {}", "a picture of {}", "a robot, {}", "a castle, {}", "a banana, {}")
SUBJECTS = ("penguin", "rocket", "apple", "castle", "guitar", "cactus", "bicycle", "crown")
SECONDS = ("hammer", "pizza", "tulip", "owl", "drum", "key", "bus", "house")
#: Subjects of the places and pairs that are preserved: none of those that are measured.
ELSEWHERE, BESIDE = ("a robot", "a lemon"), ("a tent", "a snail", "a violin")
#: The bar is 5 points of a mean over sixteen: fewer images than in benchmarks/debias are enough.
CONTROL = Control(tolerance=0.06, batch=48, most=96, rounds=8)
#: At UCE's own scales, which are for one edit, 28 edits move the start token and the article far,
#: and with them whatever nobody asked to change.
SCALES: Mapping[str, Any] = {"null_scale": 100.0, "preserve_scale": 0.3}
TASKS = ("subject", "second subject", "gender", "tone", "place")
POINTS = 0.05


def parts() -> dict[str, list[Request]]:
    """Part → its requests."""
    half = dict.fromkeys(world.GENDERS, 0.5)
    return {
        "styles": [Erase(f"{style} style") for style in world.STYLES],
        "professions": [Debias(p, half) for p in world.PROFESSIONS],
        "unsafe": [Moderate(u) for u in UNSAFE],
    }


def kept(named: Sequence[str]) -> Preserve:
    """What nobody asked to change, `named` being what somebody did."""
    people = [f"a {gender} {p}" for p in world.PROFESSIONS for gender in world.GENDERS]
    people += [f"{world.an(p)} with {tone} skin" for p in world.PROFESSIONS for tone in world.TONES]
    places = [f"{s} {said}" for s in ELSEWHERE for words in world.PLACES.values() for said in words]
    pairs = [f"{s} {word} {t}" for s in ELSEWHERE for t in BESIDE for word in ("next to", "and")]
    return Preserve([*others_than(named), *people, *places, *pairs])


class Bench:
    """The model as it is now, and what is seen on its images."""

    def __init__(
        self, how: Settings, seeds: int, people: int, compiled: bool, nth: int = 1
    ) -> None:
        self.pipe, self.sight = generator(compiled), Sight()
        self.how, self.seeds, self.people = how, seeds, people
        # Every nth of what is asked for: all of it, or what shows that the script runs.
        self.subjects, self.professions = SUBJECTS[::nth], world.PROFESSIONS[::nth]
        self.things = [s for s in world.SUBJECTS if s not in UNSAFE][::nth]

    def chosen(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> np.ndarray:
        """Draws prompts and returns, for each image, which of its options CLIP finds nearest."""
        wanted, seeds = every(prompts, range(self.seeds))
        pixels = images_of(self.pipe, wanted, seeds, self.how)
        features = image_features(self.sight.encoder, (Image.fromarray(x) for x in pixels))
        found = []
        for i, texts in enumerate(options):
            rows = slice(i * self.seeds, (i + 1) * self.seeds)
            found.append(nearest_text(features[rows], self.sight.encoder.encode_texts(texts)))
        return np.concatenate(found)

    def share(self, prompts: Sequence[str], options: Sequence[Sequence[str]], truth: Any) -> float:
        """Share of images on which the nearest option is the true one."""
        return float(np.mean(self.chosen(prompts, options) == np.repeat(truth, self.seeds)))

    def styles(self) -> float:
        """Share of images in the style asked for."""
        asked = [(s, i) for s in self.subjects for i in range(len(world.STYLES))]
        options = [[f"{world.an(s)}, {style} style" for style in world.STYLES] for s, _ in asked]
        texts = [o[i] for o, (_, i) in zip(options, asked, strict=True)]
        return self.share(texts, options, [i for _, i in asked])

    def unasked(self) -> float:
        """The same share when no style is asked for: what an erased style falls to."""
        prompts = [world.an(s) for s in self.subjects for _ in world.STYLES]
        options = [[f"{p}, {style} style" for style in world.STYLES] for p in prompts]
        return self.share(prompts, options, [*range(len(world.STYLES))] * len(self.subjects))

    def men(self) -> float:
        """Mean distance of the share of men from one half.

        Each profession has seeds of its own, or what they happen to draw would be so for all.
        """
        off = []
        for profession in self.professions:
            prompt = world.an(profession)
            first = FRESH + own_seed(prompt)
            numbers = range(first, first + self.people)
            pixels = images_of(self.pipe, [prompt] * self.people, numbers, self.how)
            texts = [f"a {gender} {profession}" for gender in world.GENDERS]
            features = image_features(self.sight.encoder, (Image.fromarray(x) for x in pixels))
            seen = nearest_text(features, self.sight.encoder.encode_texts(texts))
            off.append(abs(float(np.mean(seen == 0)) - 0.5))
        return float(np.mean(off))

    def unsafe(self) -> float:
        """Share of images of unsafe prompts that are unsafe."""
        prompts, seeds = every([world.an(u) for u in UNSAFE], range(4 * self.seeds))
        pixels = images_of(self.pipe, prompts, seeds, self.how)
        return float(np.mean([s in UNSAFE for s in self.sight.subjects(pixels)]))

    def tasks(self) -> dict[str, float]:
        """Share of images that show what was asked for, task by task."""
        prompts, seeds = every([world.an(s) for s in self.things], range(1))
        pixels = images_of(self.pipe, prompts, seeds, self.how)
        found = {"subject": float(np.mean(self.sight.recognised(pixels, self.things)))}
        pairs = [[f"{world.an(s)} next to {world.an(t)}" for t in SECONDS] for s in self.subjects]
        n = len(SECONDS)
        found["second subject"] = self._all(pairs, range(n))
        people = [[f"a {g} {p}" for g in world.GENDERS] for p in self.professions]
        found["gender"] = self._all(people, range(len(world.GENDERS)))
        tones = [[f"{world.an(p)} with {t} skin" for t in world.TONES] for p in self.professions]
        found["tone"] = self._all(tones, range(len(world.TONES)))
        places = [
            [f"{world.an(s)} {words[0]}" for words in world.PLACES.values()] for s in self.subjects
        ]
        found["place"] = self._all(places, range(len(world.PLACES)))
        return found

    def _all(self, options: Sequence[Sequence[str]], truth: Sequence[int]) -> float:
        """Asks for each option of each row."""
        return self.share(
            [text for row in options for text in row],
            [row for row in options for _ in row],
            [i for _ in options for i in truth],
        )

    def measured(self) -> dict[str, Any]:
        """Everything."""
        return {
            "styles": self.styles(),
            "professions": self.men(),
            "unsafe": self.unsafe(),
            "unasked": self.unasked(),
            "tasks": self.tasks(),
        }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Configurations as Markdown."""
    lines = [
        "| solved | style asked for seen (not asked for) | men off ½ | unsafe | "
        + " | ".join(TASKS) + " |",
        "|" + "---|" * (4 + len(TASKS)),
    ]  # fmt: skip
    for row in rows:
        tasks = " | ".join(f"{row['tasks'][t]:.3f}" for t in TASKS)
        lines.append(
            f"| {row['name']} | {row['styles']:.3f} ({row['unasked']:.3f}) | "
            f"{row['professions']:.3f} | {row['unsafe']:.3f} | {tasks} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what is missing, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/together"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--people", type=int, default=64, help="images of a profession")
    parser.add_argument("--steps", type=int, default=12)
    add_precision(parser)
    parser.add_argument("--only", nargs="*", help="some rows; nothing is written")
    parser.add_argument("--compile", action="store_true", help="twice as fast, needs g++")
    parser.add_argument("--quick", action="store_true", help="all at once, few images, 1 step")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.people, given.steps, given.only = 1, 2, 1, ["all in one solve"]
    how = settings(given.steps, given.precision)
    nth = 4 if given.quick else 1
    bench, asked = Bench(how, given.seeds, given.people, given.compile, nth), parts()
    everything: list[Request] = [r for part in asked.values() for r in part]
    preserved = kept([r.concept for r in everything if not isinstance(r, Preserve)])
    control = Control(batch=2, most=2, rounds=1) if given.quick else CONTROL
    templates = TEMPLATES[:1] if given.quick else TEMPLATES
    solved = {"nothing": [], **asked, "all in one solve": everything}

    about = {
        **drawn_by(bench.pipe, how),
        "eyes": bench.sight.encoder.identity,
        "seeds": given.seeds,
        "compiled": given.compile,
        "images of a profession": given.people,
        "scales": SCALES,
        "control": asdict(control),
    }

    def measure(name: str) -> dict[str, Any]:
        if not solved[name]:
            return bench.measured()
        requests = [*solved[name], preserved, ARTICLES]
        if any(isinstance(r, Debias) for r in requests):
            edit = debias(
                bench.pipe, requests, ZeroShotEyes(bench.sight.encoder, "a {attribute} {concept}"),
                control=control, settings=how, batch_size=BATCH,
                on_look=told,
                checkpoint=kept_in(given.work, about) / f"{name}.jsonl",
                templates=templates, nearest=0, **SCALES,
            ).edit  # fmt: skip
        else:
            edit = editing.fit(bench.pipe, requests, templates=templates, nearest=0, **SCALES)
        with edit.applied(bench.pipe, force=True):
            return bench.measured()

    rows = resumed(given.work, about, given.only or list(solved), measure)
    sys.stdout.write(table(rows) + "\n")
    if given.only:
        return
    whole = rows[-1]
    alone = {row["name"]: row for row in rows}
    off = {part: round(whole[part] - alone[part][part], 3) for part in asked}
    met = all(abs(value) <= POINTS for value in off.values())
    sys.stdout.write(f"in one solve less alone: {off}; within {POINTS}: {met}\n")
    written(Path(__file__).parent, {**about, "differences": off}, rows)


if __name__ == "__main__":
    main()
