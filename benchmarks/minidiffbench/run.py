"""MiniDiffBench: offline proposers × rankers, and the original's procedure with the same models.

Judged by the deterministic rule of `visdiff.judges.world`, in the direction of set A as the paper's
Acc@k is. A killed run goes on: renderings, results and the cache are kept.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

from visdiff.backends import Backends
from visdiff.bench import minidiffbench, table
from visdiff.bench.run import Finding, Found, System, run
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.imageset import ImageSet
from visdiff.judges.world import WorldJudge
from visdiff.proposers.ngrams import NgramProposer
from visdiff.roc import auroc

ROWS = (("ngrams", "clip"), ("ngrams", "captions-lexical"), ("concepts", "clip"))


def original(config: Config, cache: Cache) -> System:
    """VisDiff's own procedure: what proposes also tests, nothing is merged or corrected.

    Three rounds propose ten hypotheses each from the captions of 20 images a side; all are ranked
    by their AUROC on all images; "significant" is Welch's t-test at 0.05. Its language model is
    replaced by n-grams that always answer, as ours is in the rows beside it.
    """
    backends = Backends.of(config, cache)
    eager = NgramProposer(max_hypotheses=10, min_z=0.0)

    def system(a: ImageSet, b: ImageSet) -> Found:
        captions = backends.captions(a, b, cache, False).values
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
            return Found([])
        scores = backends.score(proposed, a, b, None, cache, False)
        is_a = np.arange(len(a) + len(b)) < len(a)
        area = auroc(scores, is_a)
        welch: Any = ttest_ind(scores[:, is_a], scores[:, ~is_a], axis=1, equal_var=False)
        significant = (welch.pvalue < 0.05) & (area > 0.5)
        order = np.argsort(-area, kind="stable")
        return Found([
            Finding(proposed[i].text, "A", float(area[i]), bool(significant[i])) for i in order
        ])  # fmt: skip

    return system


def main() -> None:
    """Runs what is not done yet and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/minidiffbench"))
    parser.add_argument("--quick", action="store_true", help="4 pairs a split, no results.json")
    given = parser.parse_args()
    pairs, null_pairs = (4, 4) if given.quick else (50, 200)
    benchmark = minidiffbench.render(
        given.work / "images", given.art, seed=1, pairs=pairs, null_pairs=null_pairs
    )
    config, judge, found = Config.of("miniature"), WorldJudge(), []
    with Cache() as cache:
        for proposer, ranker in ROWS:
            row = config if proposer == "ngrams" else config.changed(proposer=proposer)
            if ranker != "clip":
                row = row.changed(ranker=ranker)
            out = given.work / f"{proposer}-{ranker}.jsonl"
            found.append(run(benchmark, out, config=row, judge=judge, cache=cache))
        found.append(
            run(benchmark, given.work / "original.jsonl", config=config, judge=judge, cache=cache,
                system=original(config, cache), proposer="original", ranker="clip")
        )  # fmt: skip
    rows = table.rows(found)
    if not given.quick:
        text = json.dumps({"seed": 1, "rows": rows}, indent=1) + "\n"
        (Path(__file__).parent / "results.json").write_text(text)
    sys.stdout.write(table.render(rows) + "\n")


if __name__ == "__main__":
    main()
