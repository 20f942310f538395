"""Shared code of the edit benchmarks: images of the miniature's generator and their scoring."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import rowfiles
from PIL import Image

from editing.methods.debias import Evaluation
from editing.metrics.classifiers import TransformersClassifier
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Precision, Settings, draw
from editing.pipelines.weights import weight_hash
from editing.requests import Preserve
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.miniature import world

#: The guidance scale of the evaluation in the model card.
GUIDANCE = 5.0
BATCH = 16
#: Offset of the evaluation seeds. The debiasing loop starts at each concept's own seed.
FRESH = 100_000
#: Nearly all prompts share the articles, as they share the start token. Every edit of a joint solve
#: moves them, so they are preserved with a large scale.
ARTICLES = Preserve(["a", "an"], scale=100.0)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds ``--precision``: "model" is float32, the same on every machine."""
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="model", help="model is float32"
    )


def settings(steps: int, precision: Precision = "model") -> Settings:
    """Returns the sampling settings of the benchmarks."""
    return Settings(steps, GUIDANCE, precision=precision)


def sampling_provenance(pipe: Any, how: Settings) -> dict[str, Any]:
    """Returns what images depend on besides prompts and seeds, as stored in results files.

    Results files without a precision were measured in bfloat16.
    """
    return {"model": weight_hash(pipe), "steps": how.steps, "precision": how.precision}


def load_generator(compiled: bool) -> Any:
    """Loads the miniature's pipeline, compiled on request.

    Compilation takes a minute or two and halves the sampling time. It changes the rounding, so
    images differ in their last bits; results record whether the model was compiled.
    """
    pipe = load_pipeline("miniature")
    if compiled:
        pipe.unet.compile()
        pipe.vae.decoder.compile()
    return pipe


def draw_images(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], how: Settings
) -> np.ndarray:
    """Draws one image per prompt and seed, uint8 (n, 64, 64, 3)."""
    return draw(pipe, prompts, seeds, settings=how, batch_size=BATCH)


def all_pairs(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], list[int]]:
    """Returns all pairs of prompts and seeds, ordered by prompt."""
    return [p for p in prompts for _ in seeds], [*seeds] * len(prompts)


class Scorers:
    """The miniature's classifier and CLIP, loaded once."""

    def __init__(self) -> None:
        self.classifier = TransformersClassifier("miniature")
        self.encoder = OpenClipEncoder("miniature", None, "cpu")

    def classify(self, pixels: np.ndarray) -> list[str]:
        """Returns the classifier's label of each image."""
        return self.classifier(Image.fromarray(x) for x in pixels)

    def recognised(self, pixels: np.ndarray, requested: Sequence[str]) -> list[bool]:
        """Returns for each image whether the classifier's label is the requested subject."""
        return [a == b for a, b in zip(self.classify(pixels), requested, strict=True)]


def measure_missing(
    work: Path,
    about: Mapping[str, Any],
    names: Sequence[str],
    measure: Callable[[str], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Measures what an interrupted run left out, and writes each result as soon as it is done.

    Args:
        work: Folder of the benchmark's runs.
        about: What results depend on; each value of it has its own file.
        names: What to measure, in order.
        measure: Name → its result.

    Returns:
        The result of each name, in the given order, with its ``name``.
    """
    return rowfiles.measure_missing(_file(work, about), "name", names, measure, work.name)


def read_results(work: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads all stored results, including those of earlier calls."""
    return rowfiles.read_rows(_file(work, about))


def state_folder(work: Path, about: Mapping[str, Any]) -> Path:
    """Creates and returns the folder of a run's checkpoints, one per value of ``about``."""
    folder = work / digest_bytes(canonical_json(dict(about)).encode())[:8]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(work: Path, about: Mapping[str, Any]) -> Path:
    return state_folder(work, about) / "results.jsonl"


def print_evaluation(look: Evaluation) -> None:
    """Prints one evaluation of a debiasing loop to stderr."""
    suffix = " done" if look.done else ""
    sys.stderr.write(
        f"round {look.round} {look.concept}: Δ {look.delta.value:.2f} of {look.delta.n}{suffix}\n"
    )


def write_results(
    folder: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str = "results"
) -> None:
    """Writes ``results.json`` or, for a benchmark of several parts, another JSON file."""
    text = json.dumps({**about, "rows": list(rows)}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")


def phrases_except(names: Collection[str]) -> list[str]:
    """Returns phrases of all subjects and professions except these, to be preserved."""
    return [world.an(s) for s in (*world.SUBJECTS, *world.PROFESSIONS) if s not in names]
