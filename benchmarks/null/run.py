"""Null pairs: how often is a difference confirmed between two sets of one distribution?

Both sets of a pair are sampled from one distribution of scenes, so every confirmed difference is
false. The original procedure is run on the same pairs for comparison: it proposes and tests
hypotheses on the same images, each with Welch's t-test at 0.05, without correction.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import parse_arguments, render_set, run_missing, write_results

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.proposers.ngrams import NgramProposer

PAIRS, SIZE, SEED = 60, 60, 114


def sample_scenes(kind: int, rng: np.random.Generator) -> list[world.Scene]:
    """Samples one set of a pair. Each kind fixes other attributes, as real prompt lists do."""
    places, styles = list(world.PLACES), world.STYLES
    fixed = [
        {},
        {"place": places[kind % len(places)]},
        {"style": styles[kind % len(styles)]},
        {"subject": world.PROFESSIONS[kind % len(world.PROFESSIONS)], "second": ""},
        {"subject": world.SUBJECTS[kind % len(world.SUBJECTS)], "second": ""},
    ][kind % 5]
    return [world.sample_scene(rng, **fixed) for _ in range(SIZE)]


def count_original_claims(a: Path, b: Path, backends: Backends) -> int:
    """Counts the hypotheses that the original procedure calls significant on this pair."""
    set_a, set_b = ImageSet.open(a), ImageSet.open(b)
    captions = backends.captions(set_a, set_b).values
    captions_a, captions_b = ([c for c in part if c] for part in (captions[:SIZE], captions[SIZE:]))
    # The original proposer always returns three rounds of ten hypotheses.
    proposer = NgramProposer(max_hypotheses=15, min_z=0.0)
    hypotheses = proposer.from_captions(captions_a, captions_b)
    if not hypotheses:
        return 0
    scores = backends.score(hypotheses, set_a, set_b, None)
    is_a = np.arange(2 * SIZE) < SIZE
    sign = np.array([1 if h.direction == "A" else -1 for h in hypotheses])
    welch: Any = ttest_ind(scores[:, is_a], scores[:, ~is_a], axis=1, equal_var=False)
    toward = sign * (scores[:, is_a].mean(1) - scores[:, ~is_a].mean(1)) > 0
    return int(((welch.pvalue < 0.05) & toward).sum())


def run_pair(pair: int, work: Path, art: Art, backends: Backends) -> dict:
    """Renders one pair and counts the claims of each procedure."""
    rng = np.random.default_rng([SEED, pair])
    a, b = (render_set(work / f"{pair:02d}{s}", sample_scenes(pair, rng), art, rng) for s in "ab")
    report = compare(a, b, preset="miniature", backends=backends, seed=pair)
    return {
        "confirmed": [d.text for d in report.confirmed],
        "tested": len(report.rejected) + sum(1 + len(d.synonyms) for d in report.differences),
        "original_claims": count_original_claims(a, b, backends),
    }


def main() -> None:
    """Runs the missing pairs and writes ``results.json``."""
    args = parse_arguments("null", __doc__)
    pairs = PAIRS // 10 if args.quick else PAIRS
    art = Art.load(args.art)
    with Cache() as cache:
        backends = Backends.of(Config.of("miniature"), cache)
        cases = run_missing(
            args.work / "cases.jsonl",
            pairs,
            lambda pair: run_pair(pair, args.work, art, backends),
        )
    positives = sum(bool(c["confirmed"]) for c in cases)
    results = {
        "pairs": pairs,
        "images_a_side": SIZE,
        "seed": SEED,
        "pairs_with_any_confirmed": positives,
        "wilson_95": [round(x, 3) for x in stats.wilson(positives, pairs)],
        "pairs_with_any_claim_by_the_originals_procedure": sum(
            c["original_claims"] > 0 for c in cases
        ),
        "claims_by_the_originals_procedure": sum(c["original_claims"] for c in cases),
        "hypotheses_tested": sum(c["tested"] for c in cases),
    }
    write_results(results, Path(__file__).parent, args.quick)


if __name__ == "__main__":
    main()
