"""MiniDiffBench: offline proposers × rankers, and the original's procedure with the same models.

Judged by the deterministic rule of `visdiff.judges.world`, in the direction of set A as the paper's
Acc@k is. A killed run goes on, row by row and pair by pair: renderings, results and the cache are
kept, results in files named by the models' weights, so that other weights begin anew. One process
works in a folder at a time.
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
from worldsets import weights

from visdiff import registry
from visdiff.bench import minidiffbench, table
from visdiff.bench.pairs import Benchmark
from visdiff.bench.run import Finding, Found, System, run
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
PAIRS, NULL_PAIRS = 50, 200


def rows() -> list[str]:
    """Every row by name, "proposer/ranker"; backends that are not installed have none."""
    known = registry.names("proposer"), registry.names("ranker")
    offline = [f"{p}/{r}" for p in PROPOSERS if p in known[0] for r in RANKERS if r in known[1]]
    return [*offline, ORIGINAL]


def chosen(names: str | None) -> list[str]:
    """The rows of a comma-separated list, in the order of `rows`; all without a list.

    Raises:
        InputError: There is no such row.
    """
    if names is None:
        return rows()
    wanted = ["original/clip" if name == "original" else name for name in names.split(",")]
    for name in wanted:
        if name not in rows():
            raise InputError(f"expected rows of {', '.join(rows())}, got {name!r}.")
    return [name for name in rows() if name in wanted]


def configured(row: str) -> Config:
    """The miniature with a row's proposer and ranker."""
    config = Config.of("miniature")
    if row == ORIGINAL:
        return config
    proposer, ranker = row.split("/")
    if proposer != config.proposer.backend:
        config = config.changed(proposer=proposer)
    if ranker != config.ranker.backend:
        config = config.changed(ranker=ranker)
        if proposer == "concepts":
            # Of rankers, CLIP's alone has an image-text model to share.
            config = config.changed(proposer__model="miniature")
    return config


def original(config: Config, cache: Cache) -> System:
    """VisDiff's own procedure: what proposes also tests, nothing is merged or corrected.

    Three rounds propose ten hypotheses each from the captions of 20 images a side; all are ranked
    by their AUROC on all images; "significant" is Welch's t-test at 0.05. Its language model is
    replaced by n-grams that always answer, as ours is in the rows beside it.
    """
    backends = Backends.of(config, cache)
    eager = NgramProposer(max_hypotheses=10, min_z=0.0)

    def system(a: ImageSet, b: ImageSet) -> Found:
        captions = backends.captions(a, b).values
        said = [[c for c in part if c] for part in (captions[: len(a)], captions[len(a) :])]
        rng = np.random.default_rng(config.seed)
        proposed = []
        for number in range(1, 4):
            told_a, told_b = (
                [side[i] for i in rng.choice(len(side), min(20, len(side)), replace=False)]
                for side in said
            )
            proposed += [
                h for h in eager.from_captions(told_a, told_b, number) if h.direction == "A"
            ]
        if not proposed:
            return Found([], tested=0)
        scores = backends.score(proposed, a, b, None)
        is_a = np.arange(len(a) + len(b)) < len(a)
        area = auroc(scores, is_a)
        welch: Any = ttest_ind(scores[:, is_a], scores[:, ~is_a], axis=1, equal_var=False)
        significant = (welch.pvalue < 0.05) & (area > 0.5)
        order = np.argsort(-area, kind="stable")
        findings = [
            Finding(proposed[i].text, "A", float(area[i]), bool(significant[i])) for i in order
        ]
        return Found(findings, tested=len(proposed))

    return system


def results_file(row: str, folder: Path) -> Path:
    """Where a row's results with the present weights are."""
    return folder / f"{row.replace('/', '-')}-{weights(configured(row))}.jsonl"


def measure(row: str, benchmark: Benchmark, folder: Path, cache: Cache) -> Results:
    """Runs what is not done yet of one row."""
    config = configured(row)
    proposer, ranker = row.split("/")
    return run(
        benchmark,
        results_file(row, folder),
        config=config,
        judge=WorldJudge(),
        cache=cache,
        system=original(config, cache) if row == ORIGINAL else None,
        proposer=proposer,
        ranker=ranker,
    )


def whole(folder: Path, benchmark: Benchmark) -> list[Results]:
    """The rows that were run on every pair, by this call or an earlier one."""
    files = [results_file(row, folder) for row in rows()]
    found = [Results.read(file) for file in files if file.is_file()]
    return [r for r in found if {pair.id for pair in benchmark.pairs} <= set(r.records)]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/minidiffbench"))
    parser.add_argument("--rows", help=f"some of {', '.join(rows())}, with commas; all without")
    parser.add_argument("--quick", action="store_true", help="4 pairs a split, no results.json")
    return parser.parse_args(given)


def main() -> None:
    """Runs what is not done yet and writes ``results.json``."""
    given = arguments()
    pairs, null_pairs = (4, 4) if given.quick else (PAIRS, NULL_PAIRS)
    with sole_writer(given.work), Cache() as cache:
        todo = chosen(given.rows)
        benchmark = minidiffbench.render(
            given.work / "images", given.art, seed=SEED, pairs=pairs, null_pairs=null_pairs
        )
        found = [measure(row, benchmark, given.work, cache) for row in todo]
    if not given.quick:
        found = whole(given.work, benchmark)
        text = json.dumps({"seed": SEED, "rows": table.rows(found)}, indent=1) + "\n"
        (Path(__file__).parent / "results.json").write_text(text)
    sys.stdout.write(table.render(table.rows(found)) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
