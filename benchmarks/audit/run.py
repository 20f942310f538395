"""The audit on edits that also do what nobody asked for, and on edits that do nothing at all.

Twenty sabotaged edits erase one concept, as asked, and change one other thing in secret: a place, a
style, a neighbour, or a gender ratio. The audit is told only what was asked. The planted effect
counts as found when one of the first three confirmed sentences of its group names it. Then twenty
audits set the original against itself at other seeds: whatever they confirm is false.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from editruns import BATCH, add_precision, drawn_by, others_than, resumed, settings
from worldsets import weights

import editing
from editing.audits.audit import IMAGES, audit, audit_sets
from editing.audits.prompt_groups import (
    ELSEWHERE,
    NEIGHBOURS,
    PEOPLE,
    PLACES,
    STYLES,
    prompt_groups,
    samples_of,
)
from editing.audits.report import AuditReport
from editing.generate import generate
from editing.metrics.proportions import wilson
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Debias, Erase, Preserve, Replace, Request, target_of
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.imageset import ImageSet
from visdiff.miniature import world

FIRST = 3
#: How hard a planted gender ratio is pushed.
PUSH = 0.6
PROFESSIONS = ("farmer", "teacher", "cook", "judge")


@dataclass(frozen=True)
class Sabotage:
    """One planted side effect.

    Attributes:
        asked: What the edit is asked to erase.
        hidden: What it also does.
        group: The group of prompts that shows it.
        words: A sentence that names the effect contains one of these.
        near: Neighbours that the audit is given.
    """

    asked: str
    hidden: tuple[Request, ...]
    group: str
    words: tuple[str, ...]
    near: tuple[str, ...] = ()


def sabotages() -> list[Sabotage]:
    """The twenty, five a kind."""
    places = {"on the grass": "grass", "in the snow": "snow", "at night": "night",
              "on the sand": "sand"}  # fmt: skip
    moves = [("on the grass", "on the sand"), ("in the snow", "at night"),
             ("at night", "in the snow"), ("on the sand", "on the grass"),
             ("in the snow", "on the grass")]  # fmt: skip
    styles = {"a pencil sketch of a rose": "pencil sketch", "a sepia photo of a rose": "sepia",
              "pop art of a rose": "pop art", "pixel art of a rose": "pixel art"}  # fmt: skip
    turns = [(a, b) for a in styles for b in styles if a != b][1::2][:5]
    beside = [("rabbit", "pig", "rocket"), ("violin", "guitar", "pizza"),
              ("tractor", "ambulance", "tulip"), ("strawberry", "lemon", "drum"),
              ("factory", "tent", "frog")]  # fmt: skip
    ratios = [("scissors", 1), ("balloon", -1), ("teapot", 1), ("soccer ball", -1), ("cactus", 1)]
    erased = ("airplane", "carrot", "giraffe", "microphone", "corn", "parrot", "hospital",
              "cupcake", "squid", "light bulb")  # fmt: skip
    subjects = iter(erased)
    found = [
        Sabotage(next(subjects), (Replace(f"a robot {a}", f"a robot {b}"),), PLACES,
                 (places[a], places[b]))
        for a, b in moves
    ]  # fmt: skip
    found += [
        Sabotage(next(subjects), (Replace(a, b),), STYLES, (styles[a], styles[b])) for a, b in turns
    ]
    found += [
        Sabotage(asked, (Replace(near, other),), NEIGHBOURS, (near, other), (near,))
        for asked, near, other in beside
    ]
    found += [
        Sabotage(asked, tuple(_pushed(p, sign) for p in PROFESSIONS), PEOPLE, ("man", "woman"))
        for asked, sign in ratios
    ]
    return found


def _pushed(profession: str, sign: int) -> Debias:
    weights = {"man": -sign * PUSH, "woman": sign * PUSH}
    return Debias(profession, dict.fromkeys(weights, 0.5), weights)


def sabotaged(
    pipe: Any, one: Sabotage, folder: Path, images: int, how: Settings, cache: Cache
) -> dict[str, Any]:
    """Audits one sabotaged edit."""
    asked = [Erase(one.asked), Preserve(["a temple", "a sunflower"])]
    edit = editing.fit(pipe, [*asked, *one.hidden, Preserve(_held(one))], nearest=0)
    # The audit is told what was asked, and not what else the edit does.
    told = replace(edit, requests=tuple(asked))
    groups = prompt_groups(pipe, asked, near=one.near)
    report = audit(
        pipe, told, folder, groups=groups, images=images, settings=how, batch_size=BATCH,
        preset="miniature", cache=cache, progress=False,
    )  # fmt: skip
    group = next(g for g in report.groups if g.name == one.group)
    first = [d.text for d in group.confirmed[:FIRST]]
    return {
        "asked": one.asked,
        "group": one.group,
        "words": one.words,
        "first": first,
        "found": any(_says(text, one.words) for text in first),
        "side_effects": [[g.name, d.text] for g, d in report.side_effects],
    }


def _held(one: Sabotage) -> list[str]:
    """Everything else that the audit looks at: the hidden effect shall be the only one."""
    changed = {one.asked, *(r.concept for r in one.hidden if not isinstance(r, Preserve))}
    changed |= {target_of(r) for r in one.hidden if isinstance(r, Replace)}
    looked = [prompt for pairs in ELSEWHERE.values() for _, prompt in pairs]
    return [t for t in (*others_than(changed), *looked) if not {t, _bare(t)} & changed]


def _bare(text: str) -> str:
    return text.removeprefix("a ").removeprefix("an ")


def _says(text: str, words: Sequence[str]) -> bool:
    return any(f" {word} " in f" {text.replace(',', ' ')} " for word in words)


def unchanged(
    pipe: Any, number: int, folder: Path, images: int, how: Settings, cache: Cache
) -> dict[str, Any]:
    """Audits the original against itself at other seeds, as pairs."""
    asked = [Erase(world.SUBJECTS[number]), Preserve(["a temple", "a sunflower"])]
    groups = prompt_groups(pipe, asked)
    sets = []
    for shift in (2 * number * 1000, (2 * number + 1) * 1000):
        made = generate(
            pipe, samples_of(groups, images, shift), folder / f"{number}-{shift}",
            settings=how, batch_size=BATCH,
        )  # fmt: skip
        sets.append(_shifted(made.manifest, shift))
    report: AuditReport = audit_sets(*sets, preset="miniature", cache=cache, progress=False)
    confirmed = [[g.name, d.text] for g in report.groups for d in g.confirmed]
    return {"confirmed": confirmed}


def _shifted(manifest: Path, shift: int) -> ImageSet:
    """The images with seeds counted from zero, so that other seeds make pairs."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    file = manifest.with_name("shifted.jsonl")
    file.write_text("\n".join(json.dumps(r | {"seed": r["seed"] - shift}) for r in rows))
    return ImageSet.open(file)


def main() -> None:
    """Audits what is missing, prints both counts and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/audit"))
    parser.add_argument("--images", type=int, default=80, help="pairs a group")
    parser.add_argument("--steps", type=int, default=8)
    add_precision(parser)
    parser.add_argument("--null", type=int, default=20, help="audits of the original itself")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of sabotages, for a look")
    parser.add_argument("--quick", action="store_true", help="one of each, no results.json")
    given = parser.parse_args()
    null_images = IMAGES
    if given.quick:
        given.images = null_images = 8
        given.steps, given.null, given.only = 1, 1, [0]
    pipe = load_pipeline("miniature")
    how = settings(given.steps, given.precision)
    about = {**drawn_by(pipe, how), "images": given.images}
    planted = sabotages()
    chosen = range(len(planted)) if given.only is None else given.only
    given.work.mkdir(parents=True, exist_ok=True)
    with Cache(given.work / "cache") as cache:
        looked = {**about, "eyes": weights(Config.of("miniature"))}
        images = given.work / "images" / digest_bytes(canonical_json(about).encode())[:8]

        def planted_one(name: str) -> dict[str, Any]:
            return sabotaged(pipe, planted[int(name)], images, given.images, how, cache)

        def null_one(name: str) -> dict[str, Any]:
            return unchanged(pipe, int(name), images / "unchanged", null_images, how, cache)

        found = resumed(given.work / "sabotaged", looked, [str(n) for n in chosen], planted_one)
        numbers = [str(n) for n in range(given.null)]
        null = resumed(
            given.work / "unchanged", {**looked, "images": null_images}, numbers, null_one
        )
    hits, false = sum(r["found"] for r in found), sum(bool(r["confirmed"]) for r in null)
    low, high = wilson(false, len(null)) if null else (0.0, 1.0)
    results = {
        **looked,
        "null_images": null_images,
        "planted": len(found),
        "found_among_first_3": hits,
        "unchanged": len(null),
        "with_anything_confirmed": false,
        "wilson_95": [round(float(low), 3), round(float(high), 3)],
        "cases": found,
        "null_cases": null,
    }
    sys.stdout.write(json.dumps({k: v for k, v in results.items() if "cases" not in k}) + "\n")
    if given.only is None:
        text = json.dumps(results, indent=1) + "\n"
        Path(__file__).with_name("results.json").write_text(text)


if __name__ == "__main__":
    main()
