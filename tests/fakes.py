"""Fast backends for tests, named "fakes:Class", and image sets for them.

They use colours: a caption names the strongest channel of an image, a score is the mean of a
channel. Images that were computed, and not taken from the cache, are counted.
"""

import io
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from visdiff.captioners import Captioner
from visdiff.engine import Applied, ImageModel, Runtime, apply
from visdiff.imageset import ImageSet
from visdiff.llm import Failure, Picture, Request
from visdiff.llm.scripted import ScriptedChat
from visdiff.proposers import Evidence, Proposals
from visdiff.proposers.ngrams import NgramProposer
from visdiff.rankers import Ranker
from visdiff.rankers.captions_lexical import CaptionsLexicalRanker
from visdiff.results import Hypothesis

CHANNELS = ("red", "green", "blue")


class Killed(BaseException):
    """A simulated kill of the process; no code may catch it."""


class _ColourModel:
    """A model that computes mean colours.

    Attributes:
        computed: Number of images computed so far, per class; tests reset it to 0.
        dies_at: Raise `Killed` instead of computing more than this many images in all.
    """

    kind: str
    computed: ClassVar[int] = 0
    dies_at: ClassVar[int | None] = None

    def __init__(
        self, batch_size: int = 8, model: str | None = None, runtime: Runtime | None = None
    ) -> None:
        self.batch_size = batch_size
        self.runtime = runtime or Runtime()
        self.model = model

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"fake": type(self).__name__, "model": self.model}

    @property
    def image_model(self) -> ImageModel:
        return self

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image, np.float32).mean(axis=(0, 1))

    def values(self, batch: list[np.ndarray]) -> Sequence[Any]:
        raise NotImplementedError

    def __call__(self, batch: list[np.ndarray]) -> Sequence[Any]:
        cls = type(self)
        if cls.dies_at is not None and cls.computed + len(batch) > cls.dies_at:
            raise Killed
        cls.computed += len(batch)
        _log(cls.__name__, len(batch))
        return self.values(batch)


class ColourCaptioner(_ColourModel, Captioner):
    """A captioner that returns "a red square", "a green square" or "a blue square"."""

    name = "colour"
    kind = "fake-caption"

    def values(self, batch: list[np.ndarray]) -> list[str]:
        return [f"a {CHANNELS[int(colour.argmax())]} square" for colour in batch]

    def captions(self, images: ImageSet) -> Applied:
        return apply(self, images, self.runtime, batch_size=self.batch_size, desc="captions")


class ColourRanker(_ColourModel, Ranker):
    """A ranker whose score is the mean of the channel named in the hypothesis, or 0."""

    name = "colour"
    kind = "fake-colour"
    needs_captions = False
    has_features = True

    def values(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        return list(batch)

    def features(self, images: ImageSet) -> np.ndarray:
        applied = apply(self, images, self.runtime, batch_size=self.batch_size, desc="colours")
        return np.array([np.full(3, np.nan) if v is None else v for v in applied.values])

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        colours = self.features(images)
        weights = [[float(channel in h.text) for channel in CHANNELS] for h in hypotheses]
        return (np.reshape(weights, (-1, 3)) @ colours.T).astype(np.float32)


class DeadlyCaptioner(ColourCaptioner):
    """A separate captioner class, so that it has its own counters."""


class DeadlyRanker(ColourRanker):
    """A separate ranker class, so that it has its own counters."""


class SlowCaptioner(ColourCaptioner):
    """A captioner that sleeps per batch, so that a test can kill it midway."""

    def values(self, batch: list[np.ndarray]) -> list[str]:
        time.sleep(float(os.environ.get("FAKES_SLEEP", "0")))
        return super().values(batch)


class ColourChat(ScriptedChat):
    """A chat model that answers proposers and rankers by the colours of captions or images.

    It proposes the channels that Group A has more of, with additional text and Markdown as chat
    models write them, and answers yes if a caption or an image has the channel of the phrase.

    Attributes:
        asked: Number of requests so far; tests reset it to 0.
        fails: Failure that every request returns, if it is set.
    """

    asked: ClassVar[int] = 0
    fails: ClassVar[Failure | None] = None

    def __init__(self, vision: bool = True, **_: Any) -> None:
        super().__init__(self.reply, vision, "colours")

    def reply(self, request: Request) -> str | Failure:
        type(self).asked += 1
        if (failure := type(self).fails) is not None:
            return failure
        parts = request.messages[-1].parts
        texts = [part for part in parts if isinstance(part, str)]
        if request.choices:
            phrase = next(x for t in texts for x in t.splitlines() if x.startswith("Phrase: "))
            contents = [x for t in texts for x in t.splitlines() if x.startswith("Caption: ")]
            contents += [_strongest_channel(part) for part in parts if isinstance(part, Picture)]
            return "yes" if any(c in phrase and c in contents[0] for c in CHANNELS) else "no"
        counts = {"A": Counter[str](), "B": Counter[str]()}
        for line in (x for text in texts for x in text.splitlines()):
            for group, count in counts.items():
                if line.startswith(f"Group {group}: "):
                    count.update(c for c in CHANNELS if c in line)
        for label, part in itertools.pairwise(parts):
            if isinstance(part, Picture) and isinstance(label, str):
                counts[label.split(",")[0].removeprefix("Group ")][_strongest_channel(part)] += 1
        more = [c for c in CHANNELS if counts["A"][c] > counts["B"][c]]
        return json.dumps({"hypotheses": ["Here you are:", *(f"* **a {c} square**" for c in more)]})


class WatchfulProposer(NgramProposer):
    """A proposer that asserts that captions belong to their images."""

    def propose(
        self, evidence: Evidence, *, rng: np.random.Generator | None = None, round: int = 1
    ) -> Proposals:
        for images, captions in (
            (evidence.images_a, evidence.captions_a),
            (evidence.images_b, evidence.captions_b),
        ):
            assert captions == images.frame["caption"].tolist()
        return super().propose(evidence, rng=rng, round=round)


class WatchfulRanker(CaptionsLexicalRanker):
    """A ranker that asserts that captions belong to their images."""

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        assert captions == images.frame["caption"].tolist()
        return super().score(hypotheses, images, captions)


def _strongest_channel(part: Picture) -> str:
    with Image.open(io.BytesIO(part.data)) as image:
        return CHANNELS[int(np.asarray(image, np.float32).mean(axis=(0, 1)).argmax())]


def _log(name: str, count: int) -> None:
    if path := os.environ.get("FAKES_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{name} {count}\n")


def logged(path: Path, name: str) -> int:
    """Returns the number of images computed by a backend in all processes with this FAKES_LOG."""
    if not path.exists():
        return 0
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    return sum(int(line[1]) for line in lines if len(line) == 2 and line[0] == name)


def picture(colour: str, rng: np.random.Generator, size: int = 8) -> Image.Image:
    """Returns a noisy square of one channel."""
    pixels = rng.integers(0, 100, (size, size, 3))
    pixels[..., CHANNELS.index(colour)] += 120
    return Image.fromarray(pixels.astype(np.uint8))


def write_set(
    folder: Path,
    captions: Sequence[str],
    *,
    seed: int,
    colours: Sequence[str] | None = None,
    **columns: Sequence[Any],
) -> Path:
    """Writes distinct small images and a manifest with captions; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    colours = colours or ["green"] * len(captions)
    paths = [f"{i:03d}.png" for i in range(len(captions))]
    for path, colour in zip(paths, colours, strict=True):
        picture(colour, rng).save(folder / path)
    manifest = folder / "manifest.csv"
    pd.DataFrame({"path": paths, "caption": captions, **columns}).to_csv(manifest, index=False)
    return manifest


def place_captions(
    n: int, seed: int, *, place: str, share: float = 1.0, other: str = "at home"
) -> list[str]:
    """Returns n captions of people, a fraction `share` of them at a place, the rest elsewhere."""
    rng = np.random.default_rng(seed)
    people = ("a cook", "a nurse", "a sailor", "a judge", "a clown")
    return [
        f"{people[i % len(people)]} {place if rng.random() < share else other}" for i in range(n)
    ]
