"""Accuracy against purity, from pure sets to fully mixed ones, with its upper limit.

A random share 1 − p of each set is swapped (`visdiff.bench.purity`). The ceiling is the power of
the same test with the true attribute of every image as its score (`visdiff.bench.ceiling`): the
same scored images, number of hypotheses and thresholds. An interrupted run resumes.
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
from worldsets import models_digest

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

#: The seed of benchmarks/minidiffbench, so that existing renderings are reused.
SEED, SPLIT, PAIRS = 1, "medium", 50
PURITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
DRAWS = 100


def ceiling(plan: Plan, pair: Pair, purity: float, tested: int, config: Config) -> float:
    """Returns the power of the test on one pair when the true attributes are the scores."""
    own = [minidiffbench.shows(plan, side, SEED) for side in (0, 1)]
    fraction = config.statistics.discovery_fraction
    scored = [
        _is_scored(ImageSet.open(files), fraction) for files in (pair.images_a, pair.images_b)
    ]
    return power(
        *own,
        *scored,
        purity=purity,
        tested=tested,
        settings=config.statistics,
        rng=np.random.default_rng([SEED, zlib.crc32(pair.id.encode()), round(100 * purity)]),
        draws=DRAWS,
    )


def _is_scored(images: ImageSet, fraction: float) -> np.ndarray:
    scored = set(images.split(fraction)[1].ids)
    return np.array([name in scored for name in images.ids])


def summary(results: Results, benchmark: Benchmark, purity: float, config: Config) -> dict:
    """Returns the accuracies and the ceiling at one purity."""
    plans = {p.id: p for p in minidiffbench.plans(SEED)}
    done = [pair for pair in benchmark.pairs if results.records[pair.id]["status"] == "done"]
    ceilings = [
        ceiling(plans[pair.id], pair, purity, results.records[pair.id]["tested"], config)
        for pair in tqdm(done, f"ceiling at {purity:g}", unit="pair")
    ]
    (row,) = table.rows([results])
    columns = (
        "n",
        "failed",
        "acc1",
        "acc1_ci",
        "acc5",
        "acc5_ci",
        "acc1_confirmed",
        "acc5_confirmed",
    )
    return {
        "purity": purity,
        **{name: row[name] for name in columns},
        "ceiling": float(np.mean(ceilings)),
    }


def plot_curves(points: Sequence[dict[str, Any]], file: Path) -> None:
    """Plots the curves as an SVG file, whose bytes depend on the numbers only."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "visdiff"
    import matplotlib.pyplot as plt

    purities = [p["purity"] for p in points]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(
        purities, [p["ceiling"] for p in points], "k--", label="ceiling: power given the truth"
    )
    for name, label, style in (
        ("acc5_confirmed", "Acc@5, confirmed alone", "o-"),
        ("acc5", "Acc@5, all that is listed", "s-"),
        ("acc1", "Acc@1, all that is listed", "^-"),
    ):
        axes.plot(purities, [p[name] for p in points], style, label=label, markersize=4)
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


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/purity"))
    parser.add_argument("--images", type=Path, help="folder of the renderings; rendered if missing")
    parser.add_argument(
        "--quick", action="store_true", help="2 pairs, two purities, no results.json"
    )
    return parser.parse_args(argv)


def main() -> None:
    """Runs the missing pairs and writes ``results.json`` and ``purity.svg``."""
    args = parse_arguments()
    pairs, purities = (2, (1.0, 0.5)) if args.quick else (PAIRS, PURITIES)
    images = args.images or args.work.parent / "minidiffbench" / "images"
    config, judge, points = Config.of("miniature"), WorldJudge(), []
    with sole_writer(args.work), Cache() as cache:
        # benchmarks/minidiffbench shares the renderings, so its folder is locked too.
        with sole_writer(images.parent):
            full = minidiffbench.render(images, args.art, seed=SEED, pairs=pairs, null_pairs=0)
        benchmark = full.only([SPLIT])
        for purity in purities:
            out = args.work / f"purity-{purity:g}-{models_digest(config)}.jsonl"
            results = run(benchmark, out, config=config, judge=judge, cache=cache, purity=purity)
            points.append(summary(results, benchmark, purity, config))
    folder = args.work if args.quick else Path(__file__).parent
    results = {"split": SPLIT, "pairs": pairs, "seed": SEED, "draws": DRAWS, "points": points}
    text = json.dumps(results, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    plot_curves(points, folder / "purity.svg")
    sys.stdout.write(text)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
