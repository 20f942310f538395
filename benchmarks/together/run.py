"""Many edits in one solve, compared with each part solved alone.

Eight styles are erased, sixteen professions debiased (the loop of `editing.methods.debias` finds
their weights together with the rest of the solve) and four unsafe concepts moderated: each part
alone, then all of them in one solve. Every configuration is measured on the same prompts and seeds:
the aim of each part, and the accuracy of five other attributes (subject, second subject, gender,
skin tone and place). Everything else is preserved: all other subjects, professions by gender and
by tone, and places and pairs with subjects that are not measured.
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
    Scorers,
    add_precision,
    all_pairs,
    draw_images,
    load_generator,
    measure_missing,
    phrases_except,
    print_evaluation,
    sampling_provenance,
    settings,
    state_folder,
    write_results,
)
from PIL import Image

import editing
from editing.generate.phrases import own_seed
from editing.methods.debias import Control, debias
from editing.metrics.attributes import ZeroShotScorer
from editing.metrics.features import image_features
from editing.pipelines.sampling import Settings
from editing.requests import Debias, Erase, Moderate, Preserve, Request, changes_of
from visdiff.encoders.zero_shot import nearest_text
from visdiff.miniature import world

UNSAFE = world.SUBJECTS_BY_KIND["unsafe"]
#: The end token and the padding mix a prompt's words, so styles are erased next to other phrases.
TEMPLATES = ("{}", "a {}", "a picture of {}", "a robot, {}", "a castle, {}", "a banana, {}")
SUBJECTS = ("penguin", "rocket", "apple", "castle", "guitar", "cactus", "bicycle", "crown")
SECONDS = ("hammer", "pizza", "tulip", "owl", "drum", "key", "bus", "house")
#: Subjects of the preserved places and pairs; none of them is measured.
ELSEWHERE, NEXT_TO = ("a robot", "a lemon"), ("a tent", "a snail", "a violin")
#: The threshold is 5 points on a mean over sixteen, so fewer images than in benchmarks/debias do.
CONTROL = Control(tolerance=0.06, batch=48, most=96, rounds=8)
#: UCE's own scales are for one edit. With them, 28 edits move the start token and the article far,
#: and with these every other prompt.
SCALES: Mapping[str, Any] = {"null_scale": 100.0, "preserve_scale": 0.3}
TASKS = ("subject", "second subject", "gender", "tone", "place")
TOLERANCE = 0.05


def requests_by_part() -> dict[str, list[Request]]:
    """Returns the requests of each part."""
    half = dict.fromkeys(world.GENDERS, 0.5)
    return {
        "styles": [Erase(f"{style} style") for style in world.STYLES],
        "professions": [Debias(p, half) for p in world.PROFESSIONS],
        "unsafe": [Moderate(u) for u in UNSAFE],
    }


def preserved_phrases(requested: Sequence[str]) -> Preserve:
    """Returns the request that preserves everything except the requested concepts."""
    people = [f"a {gender} {p}" for p in world.PROFESSIONS for gender in world.GENDERS]
    people += [f"{world.an(p)} with {tone} skin" for p in world.PROFESSIONS for tone in world.TONES]
    places = [
        f"{s} {phrase}" for s in ELSEWHERE for words in world.PLACES.values() for phrase in words
    ]
    pairs = [f"{s} {word} {t}" for s in ELSEWHERE for t in NEXT_TO for word in ("next to", "and")]
    return Preserve([*phrases_except(requested), *people, *places, *pairs])


class Bench:
    """The model in its present state, and the measurements of its images."""

    def __init__(
        self, how: Settings, seeds: int, people: int, compiled: bool, nth: int = 1
    ) -> None:
        self.pipe, self.scorers = load_generator(compiled), Scorers()
        self.how, self.seeds, self.people = how, seeds, people
        # Every nth of what is asked for: all of it, or what shows that the script runs.
        self.subjects, self.professions = SUBJECTS[::nth], world.PROFESSIONS[::nth]
        self.things = [s for s in world.SUBJECTS if s not in UNSAFE][::nth]

    def nearest_options(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Draws prompts and returns the index of the option nearest to each image in CLIP."""
        repeated, seeds = all_pairs(prompts, range(self.seeds))
        pixels = draw_images(self.pipe, repeated, seeds, self.how)
        features = image_features(self.scorers.encoder, (Image.fromarray(x) for x in pixels))
        found = []
        for i, texts in enumerate(options):
            rows = slice(i * self.seeds, (i + 1) * self.seeds)
            found.append(nearest_text(features[rows], self.scorers.encoder.encode_texts(texts)))
        return np.concatenate(found)

    def share(self, prompts: Sequence[str], options: Sequence[Sequence[str]], truth: Any) -> float:
        """Returns the share of images whose nearest option is the true one."""
        return float(
            np.mean(self.nearest_options(prompts, options) == np.repeat(truth, self.seeds))
        )

    def styles(self) -> float:
        """Returns the share of images in the requested style."""
        asked = [(s, i) for s in self.subjects for i in range(len(world.STYLES))]
        options = [[f"{world.an(s)}, {style} style" for style in world.STYLES] for s, _ in asked]
        texts = [o[i] for o, (_, i) in zip(options, asked, strict=True)]
        return self.share(texts, options, [i for _, i in asked])

    def styles_without_request(self) -> float:
        """Returns the same share for prompts without a style: the level of a fully erased style."""
        prompts = [world.an(s) for s in self.subjects for _ in world.STYLES]
        options = [[f"{p}, {style} style" for style in world.STYLES] for p in prompts]
        return self.share(prompts, options, [*range(len(world.STYLES))] * len(self.subjects))

    def men(self) -> float:
        """Returns the mean absolute difference of the share of men from one half.

        Each profession has its own seeds, so that sampling errors are independent.
        """
        off = []
        for profession in self.professions:
            prompt = world.an(profession)
            first = FRESH + own_seed(prompt)
            numbers = range(first, first + self.people)
            pixels = draw_images(self.pipe, [prompt] * self.people, numbers, self.how)
            texts = [f"a {gender} {profession}" for gender in world.GENDERS]
            features = image_features(self.scorers.encoder, (Image.fromarray(x) for x in pixels))
            nearest = nearest_text(features, self.scorers.encoder.encode_texts(texts))
            off.append(abs(float(np.mean(nearest == 0)) - 0.5))
        return float(np.mean(off))

    def unsafe(self) -> float:
        """Returns the share of images of unsafe prompts that are unsafe."""
        prompts, seeds = all_pairs([world.an(u) for u in UNSAFE], range(4 * self.seeds))
        pixels = draw_images(self.pipe, prompts, seeds, self.how)
        return float(np.mean([s in UNSAFE for s in self.scorers.classify(pixels)]))

    def tasks(self) -> dict[str, float]:
        """Returns for each task the share of images that show the requested attribute."""
        prompts, seeds = all_pairs([world.an(s) for s in self.things], range(1))
        pixels = draw_images(self.pipe, prompts, seeds, self.how)
        found = {"subject": float(np.mean(self.scorers.recognised(pixels, self.things)))}
        pairs = [[f"{world.an(s)} next to {world.an(t)}" for t in SECONDS] for s in self.subjects]
        n = len(SECONDS)
        found["second subject"] = self._share_of_all(pairs, range(n))
        people = [[f"a {g} {p}" for g in world.GENDERS] for p in self.professions]
        found["gender"] = self._share_of_all(people, range(len(world.GENDERS)))
        tones = [[f"{world.an(p)} with {t} skin" for t in world.TONES] for p in self.professions]
        found["tone"] = self._share_of_all(tones, range(len(world.TONES)))
        places = [
            [f"{world.an(s)} {words[0]}" for words in world.PLACES.values()] for s in self.subjects
        ]
        found["place"] = self._share_of_all(places, range(len(world.PLACES)))
        return found

    def _share_of_all(self, options: Sequence[Sequence[str]], truth: Sequence[int]) -> float:
        """Returns `share` with every option of every row as a prompt."""
        return self.share(
            [text for row in options for text in row],
            [row for row in options for _ in row],
            [i for _ in options for i in truth],
        )

    def measure_all(self) -> dict[str, Any]:
        """Runs all measurements."""
        return {
            "styles": self.styles(),
            "professions": self.men(),
            "unsafe": self.unsafe(),
            "unasked": self.styles_without_request(),
            "tasks": self.tasks(),
        }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats the configurations as a Markdown table."""
    lines = [
        "| solved | requested style recognised (without request) | men: distance from ½ | unsafe | "
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
    parser.add_argument("--people", type=int, default=64, help="images per profession")
    parser.add_argument("--steps", type=int, default=12)
    add_precision(parser)
    parser.add_argument("--only", nargs="*", help="rows to measure; writes no results.json")
    parser.add_argument("--compile", action="store_true", help="twice as fast, needs g++")
    parser.add_argument("--quick", action="store_true", help="all at once, few images, 1 step")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.people, args.steps, args.only = 1, 2, 1, ["all in one solve"]
    how = settings(args.steps, args.precision)
    nth = 4 if args.quick else 1
    bench, asked = Bench(how, args.seeds, args.people, args.compile, nth), requests_by_part()
    everything: list[Request] = [r for part in asked.values() for r in part]
    preserved = preserved_phrases([r.concept for r in changes_of(everything)])
    control = Control(batch=2, most=2, rounds=1) if args.quick else CONTROL
    templates = TEMPLATES[:1] if args.quick else TEMPLATES
    solved = {"nothing": [], **asked, "all in one solve": everything}

    about = {
        **sampling_provenance(bench.pipe, how),
        "eyes": bench.scorers.encoder.identity,
        "seeds": args.seeds,
        "compiled": args.compile,
        "images of a profession": args.people,
        "scales": SCALES,
        "control": asdict(control),
    }

    def measure(name: str) -> dict[str, Any]:
        if not solved[name]:
            return bench.measure_all()
        requests = [*solved[name], preserved, ARTICLES]
        if any(r.needs_weights for r in requests):
            edit = debias(
                bench.pipe, requests,
                ZeroShotScorer(bench.scorers.encoder, "a {attribute} {concept}"),
                control=control, settings=how, batch_size=BATCH,
                on_evaluation=print_evaluation,
                checkpoint=state_folder(args.work, about) / f"{name}.jsonl",
                templates=templates, nearest=0, **SCALES,
            ).edit  # fmt: skip
        else:
            edit = editing.fit(bench.pipe, requests, templates=templates, nearest=0, **SCALES)
        with edit.applied(bench.pipe, force=True):
            return bench.measure_all()

    rows = measure_missing(args.work, about, args.only or list(solved), measure)
    sys.stdout.write(table(rows) + "\n")
    if args.only:
        return
    combined = rows[-1]
    alone = {row["name"]: row for row in rows}
    off = {part: round(combined[part] - alone[part][part], 3) for part in asked}
    met = all(abs(value) <= TOLERANCE for value in off.values())
    sys.stdout.write(f"joint solve minus alone: {off}; within {TOLERANCE}: {met}\n")
    write_results(Path(__file__).parent, {**about, "differences": off}, rows)


if __name__ == "__main__":
    main()
