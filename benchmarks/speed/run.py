"""Time of the package relative to the time of the bare computation, interleaved in one run.

- embedding: images on disk through the engine (read, hashed, decoded, preprocessed, embedded,
  cached) ÷ the network's forward passes on tensors in memory;
- ranking: cosines and AUROC of every hypothesis from features in memory ÷ the matrix product and
  one sort per row;
- warm: seconds of a complete comparison in a new process, with captions and embeddings cached.

The two sides of a ratio alternate, so that other load on the machine affects both alike. All
results are medians.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from rowfiles import append_row, read_rows

from visdiff import stats
from visdiff.cache import Cache
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import Runtime, apply
from visdiff.imageset import ImageSet
from visdiff.rankers.clip import cosines
from visdiff.torchvision_compat import ensure_torchvision

ARCHITECTURE, BATCH, WIDTH = "ViT-B-32", 32, 512
LIMITS = {"embedding": 1.15, "ranking": 1.5, "warm": 3.0}
#: Name → (value of the full benchmark, value with --quick).
SIZES = {
    "runs": (5, 2),
    "images": (2_000, 32),
    "hypotheses": (1_000, 20),
    "scored": (50_000, 5_000),
    "warm_images": (1_000, 80),
}


def photographs(folder: Path, n: int, size: tuple[int, int] = (400, 300)) -> Path:
    """Writes n distinct JPEGs of a photograph's size and smoothness; skips existing files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in tqdm(range(n), "files", unit="image"):
        path = folder / f"{i:05d}.jpg"
        if path.is_file():
            continue
        rng = np.random.default_rng([7, i])
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
        partial = path.with_suffix(".partial")
        Image.fromarray(pixels).save(partial, "JPEG", quality=90)
        partial.replace(path)
    return folder


def untrained_clip(folder: Path) -> OpenClipEncoder:
    """Saves an open_clip ViT-B-32 with random weights and opens it as a user's checkpoint."""
    ensure_torchvision()
    import open_clip

    weights = folder / "random.safetensors"
    if not weights.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        state = open_clip.create_model(ARCHITECTURE).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, weights)
    return OpenClipEncoder(ARCHITECTURE, str(weights))


def seconds(function: Callable[[], Any]) -> float:
    """Returns the wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def embedding(work: Path, n: int) -> Iterator[tuple[float, float]]:
    """Yields the seconds of the engine and of the bare forward passes, in turn."""
    images = ImageSet.open(photographs(work / "photographs", n)).subset(range(n))
    encoder = untrained_clip(work)
    tensors = [
        torch.stack([encoder.prepare(images.image(i)) for i in range(s, min(s + BATCH, n))])
        for s in range(0, n, BATCH)
    ]

    def bare() -> None:
        for batch in tensors:
            encoder(list(batch))

    def engine() -> None:
        # A new ImageSet, without stored digests.
        fresh = ImageSet.open(work / "photographs").subset(range(n))
        with tempfile.TemporaryDirectory() as folder, Cache(folder) as cache:
            applied = apply(encoder, fresh, Runtime(cache), batch_size=BATCH, desc="embedding")
        if applied.failures:
            raise RuntimeError(f"images failed: {applied.failures}")

    encoder(list(tensors[0]))
    while True:
        yield seconds(engine), seconds(bare)


def ranking(hypotheses: int, n: int) -> Iterator[tuple[float, float]]:
    """Yields the seconds of the ranker and the statistics, and of the bare computation."""
    rng = np.random.default_rng(0)
    images, sentences = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (
            rng.normal(size=(n, WIDTH)).astype(np.float32),
            rng.normal(size=(hypotheses, WIDTH)).astype(np.float32),
        )
    )
    is_a = np.arange(n) < n // 2
    in_double = sentences.astype(np.float64), images.astype(np.float64)

    def bare() -> None:
        # In double precision, as in the ranker, where exact ties require it.
        scores = in_double[0] @ in_double[1].T
        scores.sort(axis=1)

    while True:
        yield seconds(lambda: stats.auroc(cosines(sentences, images), is_a)), seconds(bare)


def warm(work: Path, n: int) -> Iterator[tuple[float, float]]:
    """Yields the seconds of a cached comparison, including the start of Python, and 1."""
    sides = []
    for side in range(2):
        folder = work / f"side-{side}-{n}"
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([8, side])
        for i in range(n // 2):
            pixels = rng.integers(0, 200, (8, 8, 3), np.uint8)
            pixels[..., 2 * side] += 55
            image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST)
            image.save(folder / f"{i:04d}.png")
        sides.append(str(folder))
    command = [
        *(sys.executable, "-c", "from visdiff.cli.app import main; main()", "compare", *sides),
        *("--preset", "miniature", "--json"),
    ]
    environment = {**os.environ, "VISDIFF_CACHE_DIR": str(work / "cache")}

    def run() -> None:
        subprocess.run(
            command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    run()
    while True:
        yield seconds(run), 1.0


def measure(name: str, turns: Iterator[tuple[float, float]], runs: int, log: Path) -> dict:
    """Runs the repetitions that an interrupted run left out, and returns medians."""
    taken = [row for row in read_rows(log) if row["name"] == name]
    while len(taken) < runs:
        ours, bare = next(turns)
        taken.append({"name": name, "ours": ours, "bare": bare})
        append_row(log, taken[-1])
    ratio = statistics.median(t["ours"] / t["bare"] for t in taken)
    return {
        "ratio" if name != "warm" else "seconds": round(ratio, 3),
        "bar": LIMITS[name],
        "met": ratio <= LIMITS[name],
        "ours_s": [round(t["ours"], 3) for t in taken],
        "bare_s": [round(t["bare"], 3) for t in taken] if name != "warm" else [],
    }


def main() -> None:
    """Runs the missing measurements and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/speed"))
    parser.add_argument("--quick", action="store_true", help="small sizes, no results.json")
    parser.add_argument(
        "--only",
        choices=tuple(LIMITS),
        action="append",
        help="parts to run; writes no results.json",
    )
    args = parser.parse_args()
    size = {name: both[args.quick] for name, both in SIZES.items()}
    work = args.work / ("quick" if args.quick else "whole")
    work.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], Iterator[tuple[float, float]]]] = {
        "embedding": lambda: embedding(work, size["images"]),
        "ranking": lambda: ranking(size["hypotheses"], size["scored"]),
        "warm": lambda: warm(work, size["warm_images"]),
    }
    results: dict[str, Any] = {
        "sizes": size,
        "machine": {
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    for name in args.only or parts:
        results[name] = measure(name, parts[name](), size["runs"], work / "turns.jsonl")
    text = json.dumps(results, indent=2) + "\n"
    if not args.quick and not args.only:
        (Path(__file__).parent / "results.json").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
