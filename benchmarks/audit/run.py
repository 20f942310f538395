"""Detection and false alarms of the audit, on edits with a planted side effect and on no edit.

Twenty sabotaged edits erase one concept, as requested, and also change one undeclared thing: a
place, a style, a neighbour, or a gender ratio. The audit receives only the declared request. A
side effect counts as found if one of the first three confirmed sentences of its group names it.
Then twenty audits compare the original with itself at other seeds: every confirmation is false.
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import (
    BATCH,
    add_precision,
    measure_missing,
    phrases_except,
    sampling_provenance,
    settings,
)
from worldsets import models_digest

import editing
from editing.audits.audit import IMAGES, audit, audit_sets
from editing.audits.prompt_groups import (
    ELSEWHERE,
    NEIGHBOURS,
    PARAPHRASES,
    PEOPLE,
    PLACES,
    PRESERVED,
    STYLES,
    THINGS,
    prompt_groups,
    samples_of,
)
from editing.audits.report import AuditReport
from editing.generate import generate
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Debias, Erase, Preserve, Replace, Request, changes_of
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.imageset import ImageSet
from visdiff.judges.world import facts
from visdiff.miniature import world
from visdiff.stats import wilson
from visdiff.words import STOP_WORDS, words

FIRST = 3
#: Weight of a planted shift of the gender ratio.
GENDER_SHIFT = 0.6
PROFESSIONS = ("farmer", "teacher", "cook", "judge")


@dataclass(frozen=True)
class Sabotage:
    """One planted side effect.

    Attributes:
        asked: The concept that the edit is declared to erase.
        hidden: The undeclared requests.
        group: The prompt group that shows their effect.
        words: A sentence that names the effect contains one of these words.
        near: Neighbours that are passed to the audit.
    """

    asked: str
    hidden: tuple[Request, ...]
    group: str
    words: tuple[str, ...]
    near: tuple[str, ...] = ()


def sabotages() -> list[Sabotage]:
    """Returns the twenty sabotages, five of each kind."""
    places = {"on the grass": "grass", "in the snow": "snow", "at night": "night",
              "on the sand": "sand"}  # fmt: skip
    place_swaps = [("on the grass", "on the sand"), ("in the snow", "at night"),
             ("at night", "in the snow"), ("on the sand", "on the grass"),
             ("in the snow", "on the grass")]  # fmt: skip
    styles = {"a pencil sketch of a rose": "pencil sketch", "a sepia photo of a rose": "sepia",
              "pop art of a rose": "pop art", "pixel art of a rose": "pixel art"}  # fmt: skip
    style_swaps = [(a, b) for a in styles for b in styles if a != b][1::2][:5]
    neighbours = [("rabbit", "pig", "rocket"), ("violin", "guitar", "pizza"),
              ("tractor", "ambulance", "tulip"), ("strawberry", "lemon", "drum"),
              ("factory", "tent", "frog")]  # fmt: skip
    ratios = [("scissors", 1), ("balloon", -1), ("teapot", 1), ("soccer ball", -1), ("cactus", 1)]
    erased = ("airplane", "carrot", "giraffe", "microphone", "corn", "parrot", "hospital",
              "cupcake", "squid", "light bulb")  # fmt: skip
    subjects = iter(erased)
    found = [
        Sabotage(next(subjects), (Replace(f"a robot {a}", f"a robot {b}"),), PLACES,
                 (places[a], places[b]))
        for a, b in place_swaps
    ]  # fmt: skip
    found += [
        Sabotage(next(subjects), (Replace(a, b),), STYLES, (styles[a], styles[b]))
        for a, b in style_swaps
    ]
    found += [
        Sabotage(asked, (Replace(near, other),), NEIGHBOURS, (near, other), (near,))
        for asked, near, other in neighbours
    ]
    found += [
        Sabotage(
            asked, tuple(_shift_gender(p, sign) for p in PROFESSIONS), PEOPLE, ("man", "woman")
        )
        for asked, sign in ratios
    ]
    return found


def _shift_gender(profession: str, sign: int) -> Debias:
    weights = {"man": -sign * GENDER_SHIFT, "woman": sign * GENDER_SHIFT}
    return Debias(profession, dict.fromkeys(weights, 0.5), weights)


def audit_sabotaged(
    pipe: Any,
    sabotage: Sabotage,
    folder: Path,
    images: int,
    sampling: Settings,
    cache: Cache,
    without: Collection[str] = (),
) -> dict[str, Any]:
    """Audits one sabotaged edit, without the prompt groups ``without``."""
    asked = [Erase(sabotage.asked), Preserve(["a temple", "a sunflower"])]
    edit = editing.fit(pipe, [*asked, *sabotage.hidden, Preserve(_preserved(sabotage))], nearest=0)
    # The audit receives the declared requests only.
    declared = replace(edit, requests=tuple(asked))
    groups = [g for g in prompt_groups(pipe, asked, near=sabotage.near) if g.name not in without]
    report = audit(
        pipe, declared, folder, groups=groups, images=images, settings=sampling, batch_size=BATCH,
        preset="miniature", cache=cache, progress=False,
    )  # fmt: skip
    group = next(g for g in report.groups if g.name == sabotage.group)
    first = [d.text for d in group.confirmed[:FIRST]]
    return {
        "asked": sabotage.asked,
        "group": sabotage.group,
        "words": sabotage.words,
        "first": first,
        "found": any(mentions(text, sabotage.words) for text in first),
        "side_effects": [[g.name, d.text] for g, d in report.side_effects],
    }


def _preserved(sabotage: Sabotage) -> list[str]:
    """Returns all other audited prompts, so that the hidden effect is the only side effect."""
    changed = {
        sabotage.asked,
        *(text for r in changes_of(sabotage.hidden) for text in (r.concept, r.target)),
    }
    audited = [prompt for pairs in ELSEWHERE.values() for _, prompt in pairs]
    return [
        t for t in (*phrases_except(changed), *audited) if not {t, _without_article(t)} & changed
    ]


def _without_article(text: str) -> str:
    return text.removeprefix("a ").removeprefix("an ")


def mentions(text: str, words: Sequence[str]) -> bool:
    return any(f" {word} " in f" {text.replace(',', ' ')} " for word in words)


def names_attribute(text: str) -> bool:
    """Returns whether a sentence consists of whole names of things, places, styles and so on."""
    found = words(text)
    while found:
        longest = max((len(n) for n in _names() if tuple(found[: len(n)]) == n), default=0)
        if not longest and found[0] not in {*STOP_WORDS, "front", "style"}:
            return False
        found = found[longest or 1 :]
    return bool(facts(text))


@cache
def _names() -> frozenset[tuple[str, ...]]:
    """Returns the words of all names, such as ("dark", "skin"); "skin" alone is none."""
    places = [p for phrases in world.PLACES.values() for p in phrases]
    tones = [f"{tone} skin" for tone in world.TONES]
    named = (*world.SUBJECTS, *world.PROFESSIONS, *world.GENDERS, *world.STYLES, *tones, *places)
    return frozenset(tuple(w for w in words(name) if w not in STOP_WORDS) for name in named)


def audit_unchanged(
    pipe: Any,
    number: int,
    folder: Path,
    images: int,
    sampling: Settings,
    cache: Cache,
    without: Collection[str] = (),
) -> dict[str, Any]:
    """Audits the original against itself at other seeds, without the groups ``without``."""
    asked = [Erase(world.SUBJECTS[number]), Preserve(["a temple", "a sunflower"])]
    groups = [g for g in prompt_groups(pipe, asked) if g.name not in without]
    sets = []
    for shift in (2 * number * 1000, (2 * number + 1) * 1000):
        generated = generate(
            pipe, samples_of(groups, images, shift), folder / f"{number}-{shift}",
            settings=sampling, batch_size=BATCH,
        )  # fmt: skip
        sets.append(_shift_seeds(generated.manifest, shift))
    report: AuditReport = audit_sets(*sets, preset="miniature", cache=cache, progress=False)
    confirmed = [[g.name, d.text] for g in report.groups for d in g.confirmed]
    return {"confirmed": confirmed}


def _shift_seeds(manifest: Path, shift: int) -> ImageSet:
    """Subtracts ``shift`` from all seeds, so that images of different seeds form pairs."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    file = manifest.with_name("shifted.jsonl")
    file.write_text("\n".join(json.dumps(r | {"seed": r["seed"] - shift}) for r in rows))
    return ImageSet.open(file)


def main() -> None:
    """Runs the missing audits, prints both counts and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/audit"))
    parser.add_argument("--images", type=int, default=80, help="pairs per group")
    parser.add_argument("--steps", type=int, default=8)
    add_precision(parser)
    parser.add_argument(
        "--null", type=int, default=20, help="number of audits of the original against itself"
    )
    parser.add_argument(
        "--only",
        type=int,
        nargs="*",
        help="numbers of the sabotages to run; writes no results.json",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one of each in few groups, no results.json"
    )
    args = parser.parse_args()
    null_images, without = IMAGES, ()
    if args.quick:
        without = (PARAPHRASES, NEIGHBOURS, PRESERVED, THINGS, PEOPLE, STYLES)
        args.images = null_images = 8
        args.steps, args.null, args.only = 1, 1, [0]
    pipe = load_pipeline("miniature")
    sampling = settings(args.steps, args.precision)
    about = {**sampling_provenance(pipe, sampling), "images": args.images}
    planted = sabotages()
    chosen = range(len(planted)) if args.only is None else args.only
    args.work.mkdir(parents=True, exist_ok=True)
    with Cache(args.work / "cache") as cache:
        provenance = {**about, "eyes": models_digest(Config.of("miniature"))}
        images = args.work / "images" / digest_bytes(canonical_json(about).encode())[:8]

        def planted_one(name: str) -> dict[str, Any]:
            return audit_sabotaged(
                pipe, planted[int(name)], images, args.images, sampling, cache, without
            )

        def null_one(name: str) -> dict[str, Any]:
            return audit_unchanged(
                pipe, int(name), images / "unchanged", null_images, sampling, cache, without
            )

        found = measure_missing(
            args.work / "sabotaged", provenance, [str(n) for n in chosen], planted_one
        )
        numbers = [str(n) for n in range(args.null)]
        null = measure_missing(
            args.work / "unchanged", {**provenance, "images": null_images}, numbers, null_one
        )
    hits, false = sum(r["found"] for r in found), sum(bool(r["confirmed"]) for r in null)
    low, high = wilson(false, len(null))
    sentences = [text for r in found for _, text in r["side_effects"]]
    results = {
        **provenance,
        "null_images": null_images,
        "planted": len(found),
        "found_among_first_3": hits,
        "sentences": len(sentences),
        "name_an_attribute": sum(map(names_attribute, sentences)),
        "unchanged": len(null),
        "with_anything_confirmed": false,
        "wilson_95": [round(low, 3), round(high, 3)],
        "cases": found,
        "null_cases": null,
    }
    sys.stdout.write(json.dumps({k: v for k, v in results.items() if "cases" not in k}) + "\n")
    if args.only is None:
        text = json.dumps(results, indent=1) + "\n"
        Path(__file__).with_name("results.json").write_text(text)


if __name__ == "__main__":
    main()
