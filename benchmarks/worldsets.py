"""Sets of rendered scenes for the offline benchmarks, made once into a folder."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from visdiff.miniature.render import Art
from visdiff.miniature.world import Scene


def render_set(folder: Path, scenes: Sequence[Scene], art: Art, rng: np.random.Generator) -> Path:
    """Renders scenes to ``folder`` with a manifest of their truth; skips a finished folder."""
    manifest = folder / "manifest.csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, scene in enumerate(scenes):
        pixels = art.render(scene, rng)  # drawn even when not written: keeps the random stream
        rows.append({"path": f"{i:03d}.png", **asdict(scene)})
        if not manifest.is_file():
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    if not manifest.is_file():
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return manifest


def done(results: Path) -> list[dict]:
    """The cases that a killed run finished, from its JSON lines."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def append(results: Path, case: dict) -> None:
    """Adds one finished case."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(case) + "\n")
