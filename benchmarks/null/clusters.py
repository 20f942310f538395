"""Null pairs of captioned images that are not independent, small, or of unequal numbers.

Both sets of a pair are sampled from one distribution, so every confirmed difference is false. The
captions come from the grammar of the miniature's world, which has several phrases for most places
and styles; the n-grams propose and the words of the captions rank. No model is needed. The images
only carry content: smooth random colour fields, some of them resized, brightened and compressed.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import run_missing

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.miniature import world

PAIRS, SEED, POOL = 200, 22, 2100

Rng = np.random.Generator


class Pool:
    """Image files: photographs, each with two changed versions and one copy of its bytes."""

    def __init__(self, folder: Path) -> None:
        """Writes the files that are missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(SEED)
        for photo in range(POOL):
            coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
            if self.path(photo, "copy").is_file():
                continue
            image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
            image.save(self.path(photo, "original"), quality=92)
            brighter = ImageEnhance.Brightness(image).enhance(1.08)
            brighter.resize((52, 52)).save(self.path(photo, "resized"), quality=80)
            image.crop((1, 1, 63, 63)).save(self.path(photo, "cropped"), quality=70)
            self.path(photo, "copy").write_bytes(self.path(photo, "original").read_bytes())

    def path(self, photo: int, version: str) -> Path:
        """Returns the path of a version: "original", "resized", "cropped" or "copy"."""
        return self.folder / f"{photo:04d}-{version}.jpg"


def describe(rng: Rng, n: int) -> list[str]:
    """Returns n captions of one new scene, in different words."""
    scene = world.sample_scene(rng)
    return [world.caption(scene, rng)[0] for _ in range(n)]


def rows(pool: Pool, photos: np.ndarray, n: int, kind: str, rng: Rng) -> pd.DataFrame:
    """Returns n rows of a set: path, caption, and the photograph that the row shows."""
    found = []
    for photo in photos:
        if len(found) >= n:
            break
        if kind == "independent":
            shown = [(pool.path(photo, "original"), *describe(rng, 1))]
        elif kind in ("changed-3", "changed-2", "copies-2"):
            versions = {
                "changed-3": ("original", "resized", "cropped"),
                "changed-2": ("original", "resized"),
                "copies-2": ("original", "copy"),
            }[kind]
            caption = describe(rng, 1)[0]
            shown = [(pool.path(photo, version), caption) for version in versions]
        else:
            same = kind == "listed-5"
            files = [photo if same else (photo + k * 400) % POOL for k in range(5)]
            paths = [pool.path(int(file), "original") for file in files]
            shown = list(zip(paths, describe(rng, 5), strict=True))
        found += [{"path": str(p), "caption": text, "photo": int(photo)} for p, text in shown]
    return pd.DataFrame(found[:n])


#: Name of a case → kind of rows, images of A, images of B.
CASES: dict[str, tuple[str, int, int]] = {
    "independent-40": ("independent", 40, 40),
    "independent-100": ("independent", 100, 100),
    "independent-300": ("independent", 300, 300),
    "50-against-2000": ("independent", 50, 2000),
    "changed-three-times-100": ("changed-3", 100, 100),
    "changed-three-times-300": ("changed-3", 300, 300),
    "changed-twice-100": ("changed-2", 100, 100),
    "copied-100": ("copies-2", 100, 100),
    "five-captions-100": ("captions-5", 100, 100),
    "five-captions-300": ("captions-5", 300, 300),
    "listed-five-times-100": ("listed-5", 100, 100),
    "listed-five-times-300": ("listed-5", 300, 300),
}


def run_pair(case: str, pool: Pool, config: Config, backends: Backends, pair: int) -> dict:
    """Compares one null pair and returns what was confirmed."""
    kind, n_a, n_b = CASES[case]
    rng = np.random.default_rng([SEED, *case.encode(), pair])
    # Files of five captions are 400 numbers apart, so photographs are taken from the first 400.
    photos = rng.permutation(400 if kind == "captions-5" else POOL)
    half = len(photos) * n_a // (n_a + n_b)
    a = rows(pool, photos[:half], n_a, kind, rng)
    b = rows(pool, photos[half:], n_b, kind, rng)
    # Only the column knows which captions are of one photograph.
    if kind == "captions-5" and "group_by" in Config.model_fields:
        config = config.changed(group_by="photo")
    config = config.changed(seed=pair)
    report = compare(a, b, name_a="A", name_b="B", config=config, backends=backends)
    return {
        "confirmed": [d.text for d in report.confirmed],
        "tested": len(report.rejected) + sum(1 + len(d.synonyms) for d in report.differences),
        "could_confirm": not report.double_dipped,
    }


def summary(cases: list[dict]) -> dict[str, Any]:
    """Returns the counts of one case."""
    positives = sum(bool(c["confirmed"]) for c in cases)
    return {
        "pairs": len(cases),
        "pairs_with_any_confirmed": positives,
        "wilson_95": [round(x, 3) for x in stats.wilson(positives, len(cases))],
        "pairs_that_could_confirm": sum(c["could_confirm"] for c in cases),
        "hypotheses_tested": sum(c["tested"] for c in cases),
    }


def main() -> None:
    """Runs the missing pairs and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs") / "null-clusters")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable")
    parser.add_argument("--set", action="append", default=[], help="a setting, as name=JSON")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    changes = (assignment.partition("=") for assignment in args.set)
    settings = {name: json.loads(value) for name, _, value in changes}
    config = Config.of("laptop").changed(
        captioner="manifest", proposer="ngrams", ranker="captions-lexical", **settings
    )
    pool, results = Pool(args.work / "images"), {}
    with Backends.using(config, Cache(args.work / "cache"), progress=False) as backends:
        for case in args.case or CASES:
            run = partial(run_pair, case, pool, config, backends)
            done = run_missing(args.work / f"{case}.jsonl", args.pairs, run)
            results[case] = summary(done)
            sys.stderr.write(f"{case}: {json.dumps(results[case])}\n")
    text = json.dumps(results, indent=2) + "\n"
    if args.out is not None:
        args.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
