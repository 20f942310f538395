"""Known differences: is the planted attribute found, first, and in the right direction?

40 rendered pairs, one planted attribute each: every image of A has one value, every image of B
another, everything else follows the same distribution. The judge is deterministic: a confirmed
difference (or one of its synonyms) is right when it contains the words that name the planted value
of the set it is said to be truer of, and no words that name another value of that attribute.
"""

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import arguments, deliver, render_set, resumed

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.results import Difference

PAIRS, SIZE, SEED = 40, 60, 113

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


def case(pair: int, work: Path, art: Art, backends: Backends) -> dict:
    """Renders one pair, compares it and judges the first five confirmed differences."""
    rng = np.random.default_rng([SEED, pair])
    attribute, values = plant(pair, rng)
    a, b = (
        render_set(work / f"{pair:02d}{s}", scenes(attribute, values[s], rng), art, rng)
        for s in "AB"
    )
    report = compare(a, b, preset="miniature", backends=backends, seed=pair)
    judged = [right(d, attribute, values) for d in report.confirmed]
    return {
        "attribute": attribute,
        **values,
        "first": bool(judged[:1] and judged[0]),
        "among_five": any(judged[:5]),
        "confirmed": [f"{d.direction}: {d.text} ({d.auroc:.2f})" for d in report.confirmed[:5]],
    }


def main() -> None:
    """Runs what is not done yet and writes ``results.json``."""
    given = arguments("known", __doc__)
    pairs = PAIRS // 10 if given.quick else PAIRS
    art = Art.load(given.art)
    with Cache() as cache:
        backends = Backends.of(Config.of("miniature"), cache)
        cases = resumed(
            given.work / "cases.jsonl",
            pairs,
            lambda pair: case(pair, given.work, art, backends),
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
    deliver(results, Path(__file__).parent, given.quick)


if __name__ == "__main__":
    main()
