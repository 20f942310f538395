"""Known differences: is the planted attribute confirmed first, and in the right direction?

40 rendered pairs with one planted attribute each: every image of A has one value, every image of B
another, and all other attributes follow the same distribution. The judge is deterministic: a
confirmed difference (or one of its synonyms) is correct if it contains the words of the planted
value of the set that its direction names, and no words of another value of that attribute.
"""

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import parse_arguments, render_set, run_missing, write_results

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.results import Difference

PAIRS, SIZE, SEED = 40, 60, 113

#: Place → the nouns that name it.
PLACE_WORDS = {
    "white background": ("white",),
    "grass": ("grass",),
    "sand": ("sand",),
    "night sky": ("night",),
    "ocean": ("ocean", "sea"),
    "brick wall": ("brick", "wall"),
    "sunset": ("sunset",),
    "snow": ("snow",),
}


def mentions(text: str, attribute: str, value: str) -> bool:
    """Returns whether a sentence names a value of an attribute of the world."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    if attribute == "place":
        return any(w in words for w in PLACE_WORDS[value])
    return set(re.findall(r"[a-z]+", value)) <= words


def is_correct(difference: Difference, attribute: str, values: dict[str, str]) -> bool:
    """Applies the rule of the module's docstring to one confirmed difference."""
    options = {
        "place": tuple(world.PLACES),
        "style": world.STYLES,
        "profession": world.PROFESSIONS,
        "subject": world.SUBJECTS,
    }[attribute]
    wanted = values[difference.direction]
    for text in (difference.text, *difference.synonyms):
        others = [
            v for v in options if v != wanted and mentions(text, attribute, v)
            and not mentions(wanted, attribute, v)
        ]  # fmt: skip
        if mentions(text, attribute, wanted) and not others:
            return True
    return False


def choose_difference(pair: int, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """Chooses the planted attribute and its two values."""
    attribute = ("place", "style", "profession", "subject")[pair % 4]
    options = {
        "place": tuple(world.PLACES),
        "style": world.STYLES,
        "profession": world.PROFESSIONS,
        "subject": world.SUBJECTS,
    }[attribute]
    first, second = rng.choice(len(options), 2, replace=False)
    return attribute, {"A": options[first], "B": options[second]}


def sample_scenes(attribute: str, value: str, rng: np.random.Generator) -> list[world.Scene]:
    """Samples a set of scenes that all have the planted value."""
    field = "subject" if attribute in ("profession", "subject") else attribute
    return [world.sample_scene(rng, **{field: value}) for _ in range(SIZE)]


def run_pair(pair: int, work: Path, art: Art, backends: Backends) -> dict:
    """Renders one pair, compares its sets and judges the confirmed differences."""
    rng = np.random.default_rng([SEED, pair])
    attribute, values = choose_difference(pair, rng)
    a, b = (
        render_set(work / f"{pair:02d}{s}", sample_scenes(attribute, values[s], rng), art, rng)
        for s in "AB"
    )
    report = compare(a, b, preset="miniature", backends=backends, seed=pair)
    correct = [is_correct(d, attribute, values) for d in report.confirmed]
    return {
        "attribute": attribute,
        **values,
        "first": bool(correct[:1] and correct[0]),
        "among_five": any(correct[:5]),
        "confirmed": [f"{d.direction}: {d.text} ({d.auroc:.2f})" for d in report.confirmed[:5]],
    }


def main() -> None:
    """Runs the missing pairs and writes ``results.json``."""
    args = parse_arguments("known", __doc__)
    pairs = PAIRS // 10 if args.quick else PAIRS
    art = Art.load(args.art)
    with Cache() as cache:
        backends = Backends.of(Config.of("miniature"), cache)
        cases = run_missing(
            args.work / "cases.jsonl",
            pairs,
            lambda pair: run_pair(pair, args.work, art, backends),
        )
    results: dict = {"pairs": pairs, "images_a_side": SIZE, "seed": SEED}
    for name in ("first", "among_five"):
        k = sum(c[name] for c in cases)
        results[name] = k
        results[f"{name}_wilson_95"] = [round(x, 3) for x in stats.wilson(k, pairs)]
    for attribute in ("place", "style", "profession", "subject"):
        own = [c for c in cases if c["attribute"] == attribute]
        results[attribute] = {n: sum(c[n] for c in own) for n in ("first", "among_five")}
        results[attribute]["pairs"] = len(own)
    write_results(results, Path(__file__).parent, args.quick)


if __name__ == "__main__":
    main()
