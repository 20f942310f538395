"""Backends that cost nothing, reached as "fakes:Class", and sets of images that fit them.

They look at colours: a caption names the strongest channel of an image, a score is a channel's
mean. What was really computed (not taken from the cache) is counted.
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
    """Stands in for a process that ends: nobody may catch it and go on."""


class _Looks:
    """A model of mean colours.

    Attributes:
        computed: Images given to the model so far, by class; tests set it to 0.
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


class ColourCaptioner(_Looks, Captioner):
    """Says "a red square" and the like."""

    name = "colour"
    kind = "fake-caption"

    def values(self, batch: list[np.ndarray]) -> list[str]:
        return [f"a {CHANNELS[int(colour.argmax())]} square" for colour in batch]

    def captions(self, images: ImageSet) -> Applied:
        return apply(self, images, self.runtime, batch_size=self.batch_size, desc="captions")


class ColourRanker(_Looks, Ranker):
    """Scores a hypothesis by the mean of the channel that it names, 0 when it names none."""

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
    """A captioner of its own, so that the counters of others stay as they are."""


class DeadlyRanker(ColourRanker):
    """Likewise, a ranker."""


class SlowCaptioner(ColourCaptioner):
    """Takes a moment for a batch, so that a test can kill it half-way."""

    def values(self, batch: list[np.ndarray]) -> list[str]:
        time.sleep(float(os.environ.get("FAKES_SLEEP", "0")))
        return super().values(batch)


class ColourChat(ScriptedChat):
    """Answers the questions of proposers and rankers by the colours that it reads or sees.

    It proposes the channels that Group A has more of, in the sloppy way of a chat model, and says
    yes when a caption or an image has the channel that a phrase names.

    Attributes:
        asked: Questions so far; tests set it to 0.
        fails: What every question gets in place of an answer, when it is set.
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
            told = [x for t in texts for x in t.splitlines() if x.startswith("Caption: ")]
            told += [_seen(part) for part in parts if isinstance(part, Picture)]
            return "yes" if any(c in phrase and c in told[0] for c in CHANNELS) else "no"
        counts = {"A": Counter[str](), "B": Counter[str]()}
        for line in (x for text in texts for x in text.splitlines()):
            for group, count in counts.items():
                if line.startswith(f"Group {group}: "):
                    count.update(c for c in CHANNELS if c in line)
        for label, part in itertools.pairwise(parts):
            if isinstance(part, Picture) and isinstance(label, str):
                counts[label.split(",")[0].removeprefix("Group ")][_seen(part)] += 1
        more = [c for c in CHANNELS if counts["A"][c] > counts["B"][c]]
        return json.dumps({"hypotheses": ["Here you are:", *(f"* **a {c} square**" for c in more)]})


class WatchfulProposer(NgramProposer):
    """Sees to it that the captions that it reads are those of the images beside them."""

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
    """Likewise."""

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        assert captions == images.frame["caption"].tolist()
        return super().score(hypotheses, images, captions)


def _seen(part: Picture) -> str:
    with Image.open(io.BytesIO(part.data)) as image:
        return CHANNELS[int(np.asarray(image, np.float32).mean(axis=(0, 1)).argmax())]


def _log(name: str, count: int) -> None:
    if path := os.environ.get("FAKES_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{name} {count}\n")


def logged(path: Path, name: str) -> int:
    """Count the images that a backend, in any process with this FAKES_LOG, has computed."""
    if not path.exists():
        return 0
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    return sum(int(line[1]) for line in lines if len(line) == 2 and line[0] == name)


def picture(colour: str, rng: np.random.Generator, size: int = 8) -> Image.Image:
    """Draw a noisy square of one of the channels."""
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
    """Write different small images and a manifest with their captions; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    colours = colours or ["green"] * len(captions)
    paths = [f"{i:03d}.png" for i in range(len(captions))]
    for path, colour in zip(paths, colours, strict=True):
        picture(colour, rng).save(folder / path)
    manifest = folder / "manifest.csv"
    pd.DataFrame({"path": paths, "caption": captions, **columns}).to_csv(manifest, index=False)
    return manifest


def said(n: int, seed: int, *, place: str, share: float = 1.0, other: str = "at home") -> list[str]:
    """Write n captions of people, `share` of them at a place, the others at another."""
    rng = np.random.default_rng(seed)
    people = ("a cook", "a nurse", "a sailor", "a judge", "a clown")
    return [
        f"{people[i % len(people)]} {place if rng.random() < share else other}" for i in range(n)
    ]
