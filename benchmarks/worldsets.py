"""Sets of rendered scenes for the offline benchmarks, rendered once into a folder."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from rowfiles import measure_missing

from visdiff.comparison.backends import Backends
from visdiff.config import Config
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.miniature.render import Art
from visdiff.miniature.world import Scene


def render_set(folder: Path, scenes: Sequence[Scene], art: Art, rng: np.random.Generator) -> Path:
    """Renders scenes to ``folder`` with a manifest of their attributes; skips a finished folder."""
    manifest = folder / "manifest.csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, scene in enumerate(scenes):
        pixels = art.render(scene, rng)  # rendered even when the file exists, to advance rng
        rows.append({"path": f"{i:03d}.png", **asdict(scene)})
        if not manifest.is_file():
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    if not manifest.is_file():
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return manifest


def models_digest(config: Config) -> str:
    """Returns an eight-digit digest of the model weights of a configuration.

    It is part of the results file's name, so an interrupted run never resumes with other weights.
    """
    identities = Backends.of(config).identities(captioned=True)
    return digest_bytes(canonical_json(identities).encode())[:8]


def run_missing(cases: Path, pairs: int, run: Callable[[int], dict]) -> list[dict]:
    """Runs pairs 0 … pairs - 1, except those that an interrupted run finished.

    Args:
        cases: JSON Lines file, one line per finished pair; appended to after each pair.
        pairs: Number of pairs.
        run: Maps a pair's number to its result.

    Returns:
        The results, ordered by pair.
    """
    cases.parent.mkdir(parents=True, exist_ok=True)
    return measure_missing(cases, "pair", range(pairs), run, cases.stem)


def parse_arguments(name: str, description: str | None) -> argparse.Namespace:
    """Parses the options that the benchmarks of rendered pairs share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs") / name)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the pairs, no results.json"
    )
    return parser.parse_args()


def write_results(results: dict, folder: Path, quick: bool) -> None:
    """Prints the results; a full run also writes them to the folder's ``results.json``."""
    text = json.dumps(results, indent=2) + "\n"
    if not quick:
        (folder / "results.json").write_text(text)
    sys.stdout.write(text)
