"""Time of paired generation, relative to two plain batches of diffusers.

The time of a paired run includes planning, text encoding, applying and reverting the edit, two
samplings, and writing the PNG files and the manifest. A plain batch is one call of the pipeline
with the same prompts, seeds, steps and guidance, whose images are discarded. Both are timed in
turn, and the ratio is of medians.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from editing.edit import Edit
from editing.edit.deltas import LowRank
from editing.generate import generate_pairs
from editing.generate.prompts import Sample
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.pipelines.weights import parameter, projections

BAR = 1.05
WORDS = ("a church", "a dog on the grass", "a firefighter", "an apple next to a hammer")


def low_rank_edit(pipe: Any, rank: int = 4) -> Edit:
    """Returns a small random edit of every key and value projection."""
    generator = torch.Generator().manual_seed(0)
    changes = []
    for layer in projections(pipe):
        rows, columns = parameter(pipe, layer.name).shape
        up = torch.randn((rows, rank), generator=generator) * 1e-3
        changes.append(LowRank(layer.name, up, torch.randn((rank, columns), generator=generator)))
    return Edit.of(
        pipe,
        base_model="benchmark",
        method="random",
        requests=(),
        config={},
        changes=tuple(changes),
    )


def plain(pipe: Any, samples: list[Sample], settings: Settings) -> float:
    """Returns the seconds of one plain batch."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    begun = time.perf_counter()
    pipe(
        prompt=[s.prompt for s in samples],
        generator=[torch.Generator("cpu").manual_seed(s.seed) for s in samples],
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        height=side,
        width=side,
    )
    return time.perf_counter() - begun


def pairs(pipe: Any, edit: Edit, samples: list[Sample], settings: Settings) -> float:
    """Returns the seconds of a paired run of one batch into an empty folder, without hashing.

    The weights are hashed once per run, not once per batch, so hashing is reported separately.
    """
    with tempfile.TemporaryDirectory() as folder:
        return generate_pairs(
            pipe, edit, samples, folder, settings=settings, batch_size=len(samples)
        ).seconds


def main() -> None:
    """Measures the times, prints the ratio and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="4 steps, 3 repeats, nothing written")
    given = parser.parse_args()
    steps, repeats = (4, 3) if given.quick else (given.steps, given.repeats)
    pipe = load_pipeline(given.model).to(given.device)
    settings = Settings(steps=steps, guidance=5.0)
    samples = [Sample(WORDS[i % len(WORDS)], i) for i in range(given.batch)]
    begun = time.perf_counter()
    edit = low_rank_edit(pipe)
    hashing = time.perf_counter() - begun
    plain(pipe, samples, settings)  # warm-up: allocates and compiles
    two, ours = [], []
    for _ in range(repeats):
        two.append(plain(pipe, samples, settings) + plain(pipe, samples, settings))
        ours.append(pairs(pipe, edit, samples, settings))
    ratio = statistics.median(ours) / statistics.median(two)
    results = {
        "model": given.model,
        "device": given.device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "batch": given.batch,
        "steps": steps,
        "two_plain_batches_s": [round(t, 3) for t in two],
        "paired_s": [round(t, 3) for t in ours],
        "ratio": round(ratio, 3),
        "bar": BAR,
        "hashing_the_weights_once_s": round(hashing, 3),
    }
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if not given.quick:
        Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
