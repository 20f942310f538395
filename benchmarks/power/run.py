"""Power: how often is a planted concept found, and how often something where nothing is planted?

Captions come from a template grammar with synonyms (`grammar.py`). A share of A's captions has a
planted concept, which is in 2 % of all others. Every trial is a complete run of `visdiff.compare`
with the proposer `ngrams` and the ranker `captions-lexical`, on images that are noise: the captions
are the data. Two procedures that test nothing are run on the same captions: the word with the
largest coefficient of a logistic regression on TF-IDF, and the phrase with the largest log-odds
with a Dirichlet prior, both on all captions.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from grammar import CONCEPTS, Concept, captions
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[1]))
from worldsets import run_missing, write_results

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.proposers.ngrams import NgramProposer
from visdiff.words import base_forms, words

SHARES = (0.0, 0.15, 0.3, 0.6, 1.0)
SIZES = (40, 100, 300)
SEED = 2026


def names(text: str, concept: Concept) -> bool:
    """Returns whether a phrase contains a word for the concept."""
    wanted = frozenset[str]().union(*map(base_forms, concept.names))
    return any(not wanted.isdisjoint(base_forms(word)) for word in words(text))


def top_word(texts_a: Sequence[str], texts_b: Sequence[str]) -> str:
    """Returns the word that speaks most for A in a logistic regression on TF-IDF."""
    vectorizer = TfidfVectorizer(stop_words="english")
    rows = vectorizer.fit_transform([*texts_a, *texts_b])
    is_a = np.arange(rows.shape[0]) < len(texts_a)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(rows, is_a)
    return str(vectorizer.get_feature_names_out()[model.coef_[0].argmax()])


def top_phrase(texts_a: Sequence[str], texts_b: Sequence[str]) -> str:
    """Returns A's phrase with the largest log-odds with a Dirichlet prior."""
    found = NgramProposer(max_hypotheses=1, min_z=0.0).from_captions(texts_a, texts_b)
    return next((h.text for h in found if h.direction == "A"), "")


def write_images(folder: Path, n: int) -> None:
    """Writes n images of noise, which no duplicate check takes for copies."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    for i in range(n):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        if not (path := folder / f"{i:03d}.png").is_file():
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(path)


def run_trial(
    trial: int, n: int, share: float, work: Path, config: Config, backends: Backends
) -> dict:
    """Samples two lists of captions and compares them."""
    rng = np.random.default_rng([SEED, trial, n, round(100 * share)])
    concept = CONCEPTS[trial % len(CONCEPTS)]
    texts = {"a": captions(n, rng, concept, share), "b": captions(n, rng)}
    # The halves are cut by the content of the images, so every trial has other images.
    order = rng.permutation(2 * max(SIZES))[: 2 * n]
    manifests = []
    for side, rows in (("a", order[:n]), ("b", order[n:])):
        manifests.append(work / "images" / f"{side}.csv")
        with manifests[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "caption"))
            writer.writerows(zip((f"{i:03d}.png" for i in rows), texts[side], strict=True))
    report = compare(*manifests, config=config.changed(seed=trial), backends=backends)
    of_a = [d for d in report.confirmed if d.direction == "A"]
    right = [any(names(t, concept) for t in (d.text, *d.synonyms)) for d in of_a]
    return {
        "concept": concept.names[0],
        "confirmed": [f"{d.direction}: {d.text}" for d in report.confirmed],
        "found": any(right),
        "first": bool(right[:1] and right[0]),
        "tested": len(report.rejected) + sum(1 + len(d.synonyms) for d in report.differences),
        "tfidf": names(top_word(texts["a"], texts["b"]), concept),
        "log_odds": names(top_phrase(texts["a"], texts["b"]), concept),
    }


def main() -> None:
    """Runs the missing trials of every cell and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/power"))
    parser.add_argument("--trials", type=int, default=20, help="a cell; nulls have twice as many")
    parser.add_argument("--min-z", type=float, help="threshold of the proposer; default its own")
    parser.add_argument("--quick", action="store_true", help="4 trials a cell, no results.json")
    args = parser.parse_args()
    trials = 4 if args.quick else args.trials
    settings = {"captioner": "manifest", "proposer": "ngrams", "ranker": "captions-lexical"}
    config = Config.of("laptop").changed(**settings, proposer__min_z=args.min_z)
    write_images(args.work / "images", 2 * max(SIZES))
    results: dict = {"seed": SEED, "min_z": config.proposer.min_z, "cells": []}
    with Cache(args.work / "cache") as cache:
        backends = Backends.of(config, cache)
        for n in SIZES:
            for share in SHARES:
                count = trials if share else 2 * trials
                cases = run_missing(
                    args.work / f"z{config.proposer.min_z:g}-{n}-{round(100 * share)}.jsonl",
                    count,
                    lambda k, n=n, share=share: run_trial(k, n, share, args.work, config, backends),
                )
                cell = {"a_side": n, "share": share, "trials": count}
                cell["anything"] = sum(bool(c["confirmed"]) for c in cases)
                cell["anything_wilson_95"] = [
                    round(x, 3) for x in stats.wilson(cell["anything"], count)
                ]
                cell["tested"] = round(sum(c["tested"] for c in cases) / count, 1)
                if share:
                    for key in ("found", "first", "tfidf", "log_odds"):
                        cell[key] = sum(c[key] for c in cases)
                results["cells"].append(cell)
    write_results(results, Path(__file__).parent, args.quick or args.min_z is not None)


if __name__ == "__main__":
    main()
