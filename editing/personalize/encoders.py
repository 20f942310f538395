"""The encoders of a score by name, and the features of a set of images in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from editing.metrics.features import ImageEncoder
from editing.metrics.image_encoders import ImageFeatures
from visdiff.encoders import Encoder
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.errors import InputError, MissingBackendError, UnreadableImageError
from visdiff.imageset import ImageSet

NAMES = ("clip", "dino", "dinov2", "miniature")
"""Names of encoders."""

_BATCH = 32


@dataclass(frozen=True)
class Encoders:
    """The encoders that measures are computed with; None leaves their measures out.

    Attributes:
        clip: For CLIP-I, CLIP-T, SA, NSD and TA.
        dino: For DINO, PRES and copies.
        dinov2: For DINOv2.
        names: Attribute → name of the model, for reports.
        missing: Attribute → why it is None.
    """

    clip: Encoder | None = None
    dino: ImageEncoder | None = None
    dinov2: ImageEncoder | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, wanted: Sequence[str], device: str = "cpu") -> "Encoders":
        """Loads encoders; those whose weights cannot be loaded are named in ``missing``.

        Args:
            wanted: "clip" (OpenAI's ViT-B/32), "dino" (ViT-S/16), "dinov2" (ViT-S/14), or
                "miniature": the bundled CLIP and classifier, the latter in place of DINO.
            device: A torch device.

        Raises:
            InputError: A name is unknown, or "miniature" is combined with another encoder of the
                same measures.
        """
        unknown = [name for name in wanted if name not in NAMES]
        if unknown:
            raise InputError(
                f"Expected encoders of {', '.join(NAMES)}, got {', '.join(unknown)}; choose from "
                "these."
            )
        if "miniature" in wanted and {"clip", "dino"} & set(wanted):
            raise InputError(
                "Expected miniature without clip and dino, whose place it takes, got both; leave "
                "one out."
            )
        made: dict[str, tuple[str, Any]] = {}
        for name in dict.fromkeys(wanted):
            match name:
                case "clip":
                    model = OpenClipEncoder("ViT-B-32-quickgelu", "openai", device)
                    made["clip"] = "OpenAI CLIP ViT-B/32", model
                case "miniature":
                    made["clip"] = "miniature CLIP", OpenClipEncoder("miniature", None, device)
                    made["dino"] = "miniature classifier", ImageFeatures("miniature", device)
                case "dino":
                    made["dino"] = "DINO ViT-S/16", ImageFeatures("dino", device)
                case "dinov2":
                    made["dinov2"] = "DINOv2 ViT-S/14", ImageFeatures("dinov2", device)
        missing = {}
        for role, (_, encoder) in list(made.items()):
            try:
                encoder.prepare(Image.new("RGB", (64, 64)))
            except MissingBackendError as error:
                missing[role] = str(error)
                del made[role]
        return cls(
            **{role: encoder for role, (_, encoder) in made.items()},
            names={role: name for role, (name, _) in made.items()},
            missing=missing,
        )

    @property
    def present(self) -> dict[str, ImageEncoder]:
        """Attribute → encoder, of those that are there."""
        found = {"clip": self.clip, "dino": self.dino, "dinov2": self.dinov2}
        return {role: encoder for role, encoder in found.items() if encoder is not None}


@dataclass(frozen=True, eq=False)
class Encoded:
    """The features of a set of images.

    Attributes:
        rows: Positions of the images that could be read and encoded, ascending.
        features: Encoder → float32 (rows, d).
        unreadable: Image id → reason, of the others.
    """

    rows: tuple[int, ...]
    features: Mapping[str, np.ndarray]
    unreadable: Mapping[str, str]


def encode_images(images: ImageSet, encoders: Mapping[str, ImageEncoder]) -> Encoded:
    """Returns the features of images by several encoders; each image is decoded once.

    Raises:
        InputError: No image can be read.
    """
    rows: list[int] = []
    unreadable: dict[str, str] = {}
    found: dict[str, list[np.ndarray]] = {name: [] for name in encoders}

    def flush(batch: list[tuple[int, Image.Image]]) -> None:
        vectors = {
            name: list(encoder([encoder.prepare(image) for _, image in batch]))
            for name, encoder in encoders.items()
        }
        for place, (index, _) in enumerate(batch):
            own = {name: column[place] for name, column in vectors.items()}
            refused = [v for v in own.values() if not isinstance(v, np.ndarray)]
            if refused:
                reason = getattr(refused[0], "reason", "an encoder refused it")
                unreadable[images.ids[index]] = str(reason)
                continue
            rows.append(index)
            for name, vector in own.items():
                found[name].append(vector)

    batch: list[tuple[int, Image.Image]] = []
    for index in range(len(images)):
        try:
            batch.append((index, images.image(index)))
        except UnreadableImageError as error:
            unreadable[images.ids[index]] = str(error)
        if len(batch) == _BATCH:
            flush(batch)
            batch = []
    if batch:
        flush(batch)
    if not rows:
        raise InputError(
            f"Expected images in {images.source}, got {len(images)} that cannot be read (first: "
            f"{next(iter(unreadable.values()), '')}); check the files."
        )
    stacked = {name: np.stack(column) for name, column in found.items()}
    return Encoded(tuple(rows), stacked, unreadable)
