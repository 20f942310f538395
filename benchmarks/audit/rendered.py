"""The sabotages of `run.py` on rendered scenes, whose truth is known exactly, in minutes.

A prompt's scene is sampled with what the prompt names. The edited scene has the hidden change in
nine of ten images that it concerns, an unplanned drift of one attribute in three of ten, and in
one of ten another random value; four of ten are rendered from other noise. The audit receives both
sets, as it would receive images of any model.
"""

import json
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from run import FIRST, Sabotage, mentions, names_attribute, sabotages
from worldsets import parse_arguments, run_missing

from editing.audits.audit import audit_sets
from editing.audits.prompt_groups import ELSEWHERE, NEIGHBOURS, PEOPLE, THINGS
from editing.requests import Debias
from visdiff.cache import Cache
from visdiff.imageset import ImageSet
from visdiff.judges.world import facts
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.miniature.world import Scene

PAIRS = 64
"""Pairs of a group, at least."""

ATTRIBUTES = ("subject", "style", "place", "gender", "tone")
DRIFTS = (("tone", "dark"), ("style", "noto"), ("place", "ocean"), ("tone", "medium"))
"""The unplanned drift of each sabotage in turn: an attribute and its value."""

P_HIDDEN, P_DRIFT, P_VARIED, P_SAME_NOISE = 0.9, 0.3, 0.1, 0.6
P_GENDER = 0.6


def seed_of(*parts: object) -> int:
    """Returns a seed that depends on the parts alone."""
    return zlib.crc32("|".join(map(str, parts)).encode())


def original(prompt: str, i: int) -> tuple[Scene, dict[str, str]]:
    """Returns image i of a prompt, and the attributes that the prompt fixes."""
    fixed = {name: value for name, value in facts(prompt) if name in ATTRIBUTES}
    return world.sample_scene(np.random.default_rng(seed_of(prompt, i)), **fixed), fixed


def edited(number: int, sabotage: Sabotage, prompt: str, i: int) -> tuple[Scene, int]:
    """Returns image i of a prompt after a sabotaged edit, and the seed of its noise."""
    scene, fixed = original(prompt, i)
    rng = np.random.default_rng(seed_of("e", number, prompt, i))
    for request in sabotage.hidden:
        if isinstance(request, Debias):
            weights = dict(request.weights or {})
            if scene.subject == request.concept and rng.random() < P_GENDER:
                scene = replace(scene, gender=max(weights, key=weights.__getitem__))
            continue
        before, after = dict(facts(request.concept)), dict(facts(request.target))
        change = {name: value for name, value in after.items() if before.get(name) != value}
        # It acts where the prompt names what it replaces, on that subject.
        acts = any(name in before for name in change) and all(
            fixed.get(name) == value for name, value in before.items()
        )
        if acts and rng.random() < P_HIDDEN:
            scene = _with(scene, change)
    name, value = DRIFTS[number % len(DRIFTS)]
    exists = name != "tone" or scene.is_person
    if name not in fixed and exists and rng.random() < P_DRIFT:
        scene = _with(scene, {name: value})
    if rng.random() < P_VARIED:
        scene = world.vary(scene, rng)
    same_noise = rng.random() < P_SAME_NOISE
    return scene, seed_of(prompt, i) if same_noise else seed_of("r", number, prompt, i)


def _with(scene: Scene, change: dict[str, str]) -> Scene:
    style = change.get("style")
    art = {"art": style} if style in world.ART_SETS else {}
    return replace(scene, **change, **art)


def groups_of(sabotage: Sabotage) -> dict[str, tuple[tuple[str, str], ...]]:
    """Returns the (concept, prompt) pairs of people, things, and the group with the effect."""
    groups = {name: tuple(ELSEWHERE[name]) for name in (PEOPLE, THINGS)}
    if sabotage.group == NEIGHBOURS:
        near = (*sabotage.near, "whale", "owl", "bus")
        if not {concept for concept, _ in groups[THINGS]}.isdisjoint(sabotage.near):
            del groups[THINGS]
        groups[NEIGHBOURS] = tuple((noun, world.an(noun)) for noun in near)
    else:
        groups[sabotage.group] = tuple(ELSEWHERE[sabotage.group])
    return groups


class Renderer:
    """Renders each scene once into a folder."""

    def __init__(self, art: Art, folder: Path) -> None:
        """Makes the folder."""
        self._art, self._folder = art, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, scene: Scene, seed: int) -> str:
        """Returns the absolute path of the image."""
        file = self._folder / f"{seed_of(*asdict(scene).values(), seed)}.png"
        if not file.is_file():
            Image.fromarray(self._art.render(scene, np.random.default_rng(seed))).save(file)
        return str(file.resolve())


def measure(number: int, render: Renderer, work: Path, cache: Cache) -> dict[str, Any]:
    """Renders both sets of a sabotage and audits them."""
    sabotage = sabotages()[number]
    rows: dict[str, list[dict[str, Any]]] = {"original": [], "edited": []}
    for group, prompts in groups_of(sabotage).items():
        for concept, prompt in prompts:
            for i in range(-(-PAIRS // len(prompts))):
                row = {"prompt": prompt, "seed": i, "group": group, "concept": concept}
                before = render(original(prompt, i)[0], seed_of(prompt, i))
                after = render(*edited(number, sabotage, prompt, i))
                rows["original"].append({"path": before, **row})
                rows["edited"].append({"path": after, **row})
    sets = []
    for side, lines in rows.items():
        file = work / f"{number}-{side}.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
        sets.append(ImageSet.open(file))
    report = audit_sets(*sets, preset="miniature", cache=cache, progress=False)
    group = next(g for g in report.groups if g.name == sabotage.group)
    first = [d.text for d in group.confirmed[:FIRST]]
    return {
        "group": sabotage.group,
        "words": sabotage.words,
        "first": first,
        "found": any(mentions(text, sabotage.words) for text in first),
        "sentences": [d.text for g in report.groups for d in g.confirmed],
        "side_effects": [effect.sentence for effect in report.effects],
    }


def main() -> None:
    """Audits the missing sabotages, prints the counts and writes ``rendered.json``."""
    args = parse_arguments("audit-rendered", __doc__)
    render = Renderer(Art.load(args.art), args.work / "images")
    count = 2 if args.quick else len(sabotages())
    with Cache(args.work / "cache") as cache:
        cases = run_missing(
            args.work / "cases.jsonl", count, lambda n: measure(n, render, args.work, cache)
        )
    texts = [text for case in cases for text in case["sentences"]]
    results = {
        "sabotages": len(cases),
        "found_among_first_3": sum(case["found"] for case in cases),
        "sentences": len(texts),
        "name_an_attribute": sum(map(names_attribute, texts)),
        "side_effects": sum(len(case["side_effects"]) for case in cases),
        "cases": cases,
    }
    sys.stdout.write(json.dumps({k: v for k, v in results.items() if k != "cases"}) + "\n")
    if not args.quick:
        Path(__file__).with_name("rendered.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
