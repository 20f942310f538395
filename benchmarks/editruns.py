"""What the benchmarks of edits share: images of the miniature's generator, and its eyes."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from editing.methods.debias import Look
from editing.metrics.classifiers import TransformersClassifier
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Precision, Settings, draw
from editing.pipelines.weights import weight_hash
from editing.requests import Preserve
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.miniature import world

#: That of the evaluation in the model card.
GUIDANCE = 5.0
BATCH = 16
#: Added to the seeds of what is measured after a loop, which draws each concept's from its own up.
FRESH = 100_000
#: What nearly all prompts have in common beside the start token: many edits in one solve each pull
#: at it, so that it is held as firmly.
ARTICLES = Preserve(["a", "an"], scale=100.0)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds ``--precision``: "model" is float32, the same on every machine."""
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="model", help="model is float32"
    )


def settings(steps: int, precision: Precision = "model") -> Settings:
    """How the benchmarks sample."""
    return Settings(steps, GUIDANCE, precision=precision)


def drawn_by(pipe: Any, how: Settings) -> dict[str, Any]:
    """What images depend on beside prompts and seeds: part of what results say of themselves.

    Those that name no precision are of bfloat16.
    """
    return {"model": weight_hash(pipe), "steps": how.steps, "precision": how.precision}


def generator(compiled: bool) -> Any:
    """The miniature's pipeline; compiled, it draws in half the time after a minute or two.

    A compiled model rounds at other places, so that images differ in their last bits: whether it
    was is part of what results depend on.
    """
    pipe = load_pipeline("miniature")
    if compiled:
        pipe.unet.compile()
        pipe.vae.decoder.compile()
    return pipe


def images_of(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], how: Settings) -> np.ndarray:
    """One image a prompt and seed, uint8 (n, 64, 64, 3)."""
    return draw(pipe, prompts, seeds, settings=how, batch_size=BATCH)


def every(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], list[int]]:
    """All pairs of prompts and seeds, prompt after prompt."""
    return [p for p in prompts for _ in seeds], [*seeds] * len(prompts)


class Sight:
    """The miniature's classifier and CLIP, loaded once."""

    def __init__(self) -> None:
        self.classifier = TransformersClassifier("miniature")
        self.encoder = OpenClipEncoder("miniature", None, "cpu")

    def subjects(self, pixels: np.ndarray) -> list[str]:
        """What the classifier sees on each image."""
        return self.classifier(Image.fromarray(x) for x in pixels)

    def recognised(self, pixels: np.ndarray, asked: Sequence[str]) -> list[bool]:
        """Whether the classifier sees what was asked for, image by image."""
        return [a == b for a, b in zip(self.subjects(pixels), asked, strict=True)]


def resumed(
    work: Path,
    about: Mapping[str, Any],
    names: Sequence[str],
    measure: Callable[[str], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Measures what a killed run did not, each result written as soon as it is there.

    Args:
        work: Folder of the benchmark's runs.
        about: What results depend on; other values, another file.
        names: What to measure, in order.
        measure: Name → its result.

    Returns:
        All results of these names, in their order, with their ``name``.
    """
    file = _file(work, about)
    done = {row["name"]: row for row in finished(work, about)}
    for name in tqdm([n for n in names if n not in done], desc=work.name):
        done[name] = {"name": name, **measure(name)}
        with file.open("a") as out:
            out.write(json.dumps(done[name]) + "\n")
    return [done[name] for name in names]


def finished(work: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All results that there are, asked for now or before."""
    file = _file(work, about)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def kept_in(work: Path, about: Mapping[str, Any]) -> Path:
    """Folder of what a run keeps to go on from, made if there is none; other values, another."""
    folder = work / digest_bytes(canonical_json(dict(about)).encode())[:8]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(work: Path, about: Mapping[str, Any]) -> Path:
    return kept_in(work, about) / "results.jsonl"


def told(look: Look) -> None:
    """Says on stderr what a debiasing loop has seen."""
    said = " done" if look.done else ""
    sys.stderr.write(
        f"round {look.round} {look.concept}: Δ {look.delta.value:.2f} of {look.delta.n}{said}\n"
    )


def written(
    folder: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str = "results"
) -> None:
    """Writes a whole run's ``results.json``, or another file where parts are run alone."""
    text = json.dumps({**about, "rows": list(rows)}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")


def others_than(names: Collection[str]) -> list[str]:
    """Phrases of all subjects and professions but these: what is to be preserved."""
    return [world.an(s) for s in (*world.SUBJECTS, *world.PROFESSIONS) if s not in names]
