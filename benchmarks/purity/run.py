"""Accuracy against purity, from pure sets to fully mixed ones, with the ceiling drawn in.

A share 1 − p of each set is swapped at random (`visdiff.bench.purity`). The ceiling is the power of
the same test given the true attribute of every image (`visdiff.bench.ceiling`): the same images
scored, as many hypotheses corrected for, the same thresholds. A killed run goes on.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import weights

from visdiff.bench import minidiffbench, table
from visdiff.bench.ceiling import power
from visdiff.bench.minidiffbench import Plan
from visdiff.bench.pairs import Benchmark, Pair
from visdiff.bench.run import run
from visdiff.bench.store import Results, sole_writer
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.judges.world import WorldJudge

#: The seed of benchmarks/minidiffbench, whose renderings are used when they are there.
SEED, SPLIT, PAIRS = 1, "medium", 50
PURITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
DRAWS = 100


def ceiling(plan: Plan, pair: Pair, purity: float, tested: int, config: Config) -> float:
    """The power of the test on one pair, given what every image shows."""
    own = [minidiffbench.shows(plan, side, SEED) for side in (0, 1)]
    fraction = config.statistics.discovery_fraction
    scored = [_scored(ImageSet.open(files), fraction) for files in (pair.images_a, pair.images_b)]
    return power(
        *own,
        *scored,
        purity=purity,
        tested=tested,
        settings=config.statistics,
        rng=np.random.default_rng([SEED, zlib.crc32(pair.id.encode()), round(100 * purity)]),
        draws=DRAWS,
    )


def _scored(images: ImageSet, fraction: float) -> np.ndarray:
    kept = set(images.split(fraction)[1].ids)
    return np.array([name in kept for name in images.ids])


def summary(results: Results, benchmark: Benchmark, purity: float, config: Config) -> dict:
    """One point of each curve."""
    plans = {p.id: p for p in minidiffbench.plans(SEED)}
    done = [pair for pair in benchmark.pairs if results.records[pair.id]["status"] == "done"]
    reachable = [
        ceiling(plans[pair.id], pair, purity, results.records[pair.id]["tested"], config)
        for pair in tqdm(done, f"ceiling at {purity:g}", unit="pair")
    ]
    (row,) = table.rows([results])
    kept = ("n", "failed", "acc1", "acc1_ci", "acc5", "acc5_ci", "acc1_confirmed", "acc5_confirmed")
    return {
        "purity": purity,
        **{name: row[name] for name in kept},
        "ceiling": float(np.mean(reachable)),
    }


def draw(points: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws the curves as SVG, the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "visdiff"
    import matplotlib.pyplot as plt

    at = [p["purity"] for p in points]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(at, [p["ceiling"] for p in points], "k--", label="ceiling: power given the truth")
    for name, label, style in (
        ("acc5_confirmed", "Acc@5, confirmed alone", "o-"),
        ("acc5", "Acc@5, all that is listed", "s-"),
        ("acc1", "Acc@1, all that is listed", "^-"),
    ):
        axes.plot(at, [p[name] for p in points], style, label=label, markersize=4)
    axes.invert_xaxis()
    axes.set(
        xlabel="purity (1: pure, 0.5: fully mixed)",
        ylabel="accuracy",
        ylim=(-0.02, 1.04),
        title=f"MiniDiffBench {SPLIT}, {points[0]['n']} pairs, n-grams × CLIP",
    )
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/purity"))
    parser.add_argument("--images", type=Path, help="renderings, made when missing")
    parser.add_argument("--quick", action="store_true", help="2 pairs, three purities, no results")
    return parser.parse_args(given)


def main() -> None:
    """Runs what is not done yet and writes ``results.json`` and ``purity.svg``."""
    given = arguments()
    pairs, purities = (2, (1.0, 0.7, 0.5)) if given.quick else (PAIRS, PURITIES)
    images = given.images or given.work.parent / "minidiffbench" / "images"
    config, judge, points = Config.of("miniature"), WorldJudge(), []
    with sole_writer(given.work), Cache() as cache:
        # The renderings are minidiffbench's, so nobody may be drawing them.
        with sole_writer(images.parent):
            whole = minidiffbench.render(images, given.art, seed=SEED, pairs=pairs, null_pairs=0)
        benchmark = whole.only([SPLIT])
        for purity in purities:
            out = given.work / f"purity-{purity:g}-{weights(config)}.jsonl"
            results = run(benchmark, out, config=config, judge=judge, cache=cache, purity=purity)
            points.append(summary(results, benchmark, purity, config))
    folder = given.work if given.quick else Path(__file__).parent
    results = {"split": SPLIT, "pairs": pairs, "seed": SEED, "draws": DRAWS, "points": points}
    text = json.dumps(results, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    draw(points, folder / "purity.svg")
    sys.stdout.write(text)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
