"""Encoders: images and texts as vectors in one space."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image


class Encoder(Protocol):
    """An image model (`visdiff.engine.ImageModel`) whose values are unit vectors; texts too."""

    @property
    def kind(self) -> str:
        """Kind of the cache entries of images' vectors."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What changes a vector: backend, architecture, weights. JSON values."""
        ...

    def prepare(self, image: Image.Image) -> Any:
        """Make the network's input of an RGB image; runs in worker threads."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Return a float32 unit vector, shape (d,), or `visdiff.engine.Refused`, for each input."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 unit vectors, shape (n, d).

        Raises:
            InputError: A text is longer than the model can read; none is ever truncated.
        """
        ...
