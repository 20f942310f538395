"""Known differences: is the planted attribute found, first, and in the right direction?

40 rendered pairs, one planted attribute each: every image of A has one value, every image of B
another, everything else follows the same distribution. The judge is deterministic: a confirmed
difference (or one of its synonyms) is right when it contains the words that name the planted value
of the set it is said to be truer of, and no words that name another value of that attribute.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import append, done, render_set

from visdiff import stats
from visdiff.cache import Cache
from visdiff.compare import compare
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.results import Difference

PAIRS, SIZE, SEED = 40, 60, 12
HERE = Path(__file__).parent

#: Words that name a value; a place also by its noun alone.
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


def names(text: str, attribute: str, value: str) -> bool:
    """Whether a sentence names a value of an attribute of the world."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    if attribute == "place":
        return any(w in words for w in PLACE_WORDS[value])
    return set(re.findall(r"[a-z]+", value)) <= words


def right(difference: Difference, attribute: str, values: dict[str, str]) -> bool:
    """The rule of the module's docstring, for one confirmed difference."""
    options = {
        "place": tuple(world.PLACES),
        "style": world.STYLES,
        "profession": world.PROFESSIONS,
        "subject": world.SUBJECTS,
    }[attribute]
    wanted = values[difference.direction]
    for text in (difference.text, *difference.synonyms):
        others = [
            v for v in options if v != wanted and names(text, attribute, v)
            and not names(wanted, attribute, v)
        ]  # fmt: skip
        if names(text, attribute, wanted) and not others:
            return True
    return False


def plant(pair: int, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """Chooses the attribute and its two values."""
    attribute = ("place", "style", "profession", "subject")[pair % 4]
    options = {
        "place": tuple(world.PLACES),
        "style": world.STYLES,
        "profession": world.PROFESSIONS,
        "subject": world.SUBJECTS,
    }[attribute]
    a, b = rng.choice(len(options), 2, replace=False)
    return attribute, {"A": options[a], "B": options[b]}


def scenes(attribute: str, value: str, rng: np.random.Generator) -> list[world.Scene]:
    """A set whose every scene has the planted value."""
    field = "subject" if attribute in ("profession", "subject") else attribute
    return [world.sample_scene(rng, **{field: value}) for _ in range(SIZE)]


def main() -> None:
    """Runs what is not done yet and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/known"))
    parser.add_argument("--quick", action="store_true", help="4 pairs, no results.json")
    arguments = parser.parse_args()
    pairs = 4 if arguments.quick else PAIRS
    cases_file = arguments.work / "cases.jsonl"
    finished = {case["pair"]: case for case in done(cases_file)}
    art = Art.load(arguments.art)
    with Cache() as cache:
        for pair in range(pairs):
            if pair in finished:
                continue
            rng = np.random.default_rng([SEED, pair])
            attribute, values = plant(pair, rng)
            a, b = (
                render_set(
                    arguments.work / f"{pair:02d}{side}", scenes(attribute, values[side], rng),
                    art, rng,
                )
                for side in "AB"
            )  # fmt: skip
            report = compare(a, b, preset="miniature", cache=cache, progress=False, seed=pair)
            confirmed = report.confirmed
            judged = [right(d, attribute, values) for d in confirmed]
            case = {
                "pair": pair,
                "attribute": attribute,
                "A": values["A"],
                "B": values["B"],
                "first": bool(judged[:1] and judged[0]),
                "among_five": any(judged[:5]),
                "confirmed": [f"{d.direction}: {d.text} ({d.auroc:.2f})" for d in confirmed[:5]],
            }
            finished[pair] = case
            append(cases_file, case)
            sys.stderr.write(f"pair {pair}: {case}\n")
    cases = [finished[p] for p in range(pairs)]
    results: dict = {"pairs": pairs, "images_a_side": SIZE}
    for name in ("first", "among_five"):
        k = sum(c[name] for c in cases)
        results[name] = k
        results[f"{name}_wilson_95"] = [round(x, 3) for x in stats.wilson(k, pairs)]
    for attribute in ("place", "style", "profession", "subject"):
        own = [c for c in cases if c["attribute"] == attribute]
        results[attribute] = {n: sum(c[n] for c in own) for n in ("first", "among_five")}
        results[attribute]["pairs"] = len(own)
    text = json.dumps(results, indent=2)
    if not arguments.quick:
        (HERE / "results.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
