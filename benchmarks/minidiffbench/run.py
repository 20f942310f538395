"""MiniDiffBench: offline proposers × rankers, and the original procedure with the same models.

The deterministic rule of `visdiff.judges.world` judges the hypotheses of set A, as in the paper's
Acc@k. An interrupted run resumes at the first missing pair of the first incomplete row: renderings,
results and the cache stay on disk. Names of results files contain a digest of the models' weights,
so other weights start from scratch. Only one process can use a folder at a time.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import models_digest

from visdiff import registry
from visdiff.bench import minidiffbench, table
from visdiff.bench.pairs import Benchmark
from visdiff.bench.run import Finding, System, SystemOutput, run
from visdiff.bench.store import Results, sole_writer
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.judges.world import WorldJudge
from visdiff.proposers.ngrams import NgramProposer
from visdiff.stats.roc import auroc

SEED = 1
PROPOSERS = ("ngrams", "concepts", "blip2-features")
RANKERS = ("clip", "captions-lexical", "vqa")
ORIGINAL = "original/clip"
PAIRS, NULL_PAIRS, SIZE = 50, 200, 100


def row_names() -> list[str]:
    """Returns the name of every row, "proposer/ranker", of the installed backends."""
    known = registry.names("proposer"), registry.names("ranker")
    offline = [f"{p}/{r}" for p in PROPOSERS if p in known[0] for r in RANKERS if r in known[1]]
    return [*offline, ORIGINAL]


def select_rows(names: str | None) -> list[str]:
    """Returns the rows of a comma-separated list, in the order of `row_names`; all rows for None.

    Raises:
        InputError: A row does not exist.
    """
    if names is None:
        return row_names()
    wanted = ["original/clip" if name == "original" else name for name in names.split(",")]
    for name in wanted:
        if name not in row_names():
            raise InputError(
                f"Expected rows of {', '.join(row_names())}, got {name!r}; correct --rows."
            )
    return [name for name in row_names() if name in wanted]


def config_of(row: str) -> Config:
    """Returns the miniature preset with a row's proposer and ranker."""
    # One split for every row, as the published results were measured.
    config = Config.of("miniature").changed(statistics__cross_fit="never")
    if row == ORIGINAL:
        return config
    proposer, ranker = row.split("/")
    if proposer != config.proposer.backend:
        config = config.changed(proposer=proposer)
    if ranker != config.ranker.backend:
        config = config.changed(ranker=ranker)
        if proposer == "concepts":
            # Only the clip ranker has an image-text model that the proposer can share.
            config = config.changed(proposer__model="miniature")
    return config


def original_system(config: Config, cache: Cache) -> System:
    """Returns VisDiff's original procedure: no held-out half, no merging, no correction.

    Three rounds propose ten hypotheses each from the captions of 20 images per set. All hypotheses
    are ranked by their AUROC on all images and tested with Welch's t-test at 0.05. N-grams without
    a threshold replace its language model, as n-grams do in the other rows.
    """
    backends = Backends.of(config, cache)
    eager = NgramProposer(max_hypotheses=10, min_z=0.0)

    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        captions = backends.captions(a, b).values
        texts = [[c for c in part if c] for part in (captions[: len(a)], captions[len(a) :])]
        rng = np.random.default_rng(config.seed)
        proposed = []
        for number in range(1, 4):
            sample_a, sample_b = (
                [side[i] for i in rng.choice(len(side), min(20, len(side)), replace=False)]
                for side in texts
            )
            proposed += [
                h for h in eager.from_captions(sample_a, sample_b, number) if h.direction == "A"
            ]
        if not proposed:
            return SystemOutput([], tested=0)
        scores = backends.score(proposed, a, b, None)
        is_a = np.arange(len(a) + len(b)) < len(a)
        area = auroc(scores, is_a)
        welch: Any = ttest_ind(scores[:, is_a], scores[:, ~is_a], axis=1, equal_var=False)
        significant = (welch.pvalue < 0.05) & (area > 0.5)
        order = np.argsort(-area, kind="stable")
        findings = [
            Finding(proposed[i].text, "A", float(area[i]), bool(significant[i])) for i in order
        ]
        return SystemOutput(findings, tested=len(proposed))

    return system


def results_file(row: str, folder: Path) -> Path:
    """Returns the file of a row's results with the present weights."""
    return folder / f"{row.replace('/', '-')}-{models_digest(config_of(row))}.jsonl"


def measure(row: str, benchmark: Benchmark, folder: Path, cache: Cache) -> Results:
    """Runs the missing pairs of one row."""
    config = config_of(row)
    proposer, ranker = row.split("/")
    return run(
        benchmark,
        results_file(row, folder),
        config=config,
        judge=WorldJudge(),
        cache=cache,
        system=original_system(config, cache) if row == ORIGINAL else None,
        proposer=proposer,
        ranker=ranker,
    )


def complete_rows(folder: Path, benchmark: Benchmark) -> list[Results]:
    """Reads the rows that have a result for every pair, including those of earlier calls."""
    files = [results_file(row, folder) for row in row_names()]
    found = [Results.read(file) for file in files if file.is_file()]
    return [r for r in found if {pair.id for pair in benchmark.pairs} <= set(r.records)]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/minidiffbench"))
    parser.add_argument(
        "--rows", help=f"comma-separated rows of {', '.join(row_names())}; default: all"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="1 pair of 60 images a set per split, no results.json",
    )
    return parser.parse_args(argv)


def main() -> None:
    """Runs the missing pairs and writes ``results.json``."""
    args = parse_arguments()
    pairs, null_pairs, size = (1, 1, 60) if args.quick else (PAIRS, NULL_PAIRS, SIZE)
    with sole_writer(args.work), Cache() as cache:
        selected = select_rows(args.rows)
        benchmark = minidiffbench.render(
            args.work / "images", args.art, seed=SEED, pairs=pairs, null_pairs=null_pairs,
            size=size,
        )  # fmt: skip
        found = [measure(row, benchmark, args.work, cache) for row in selected]
    if not args.quick:
        found = complete_rows(args.work, benchmark)
        text = json.dumps({"seed": SEED, "rows": table.rows(found)}, indent=1) + "\n"
        (Path(__file__).parent / "results.json").write_text(text)
    sys.stdout.write(table.render(table.rows(found)) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
