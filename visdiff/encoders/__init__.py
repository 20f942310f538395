"""Encoders, which embed images and texts in one space."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # Imported on use: checks of arguments need neither.
    import numpy as np
    from PIL import Image


class Encoder(Protocol):
    """An image model (`visdiff.engine.ImageModel`) that embeds images and texts as unit vectors."""

    @property
    def kind(self) -> str:
        """Kind of the cache entries of image vectors."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that affects a vector: backend, architecture, weights. JSON values."""
        ...

    def prepare(self, image: "Image.Image") -> Any:
        """Returns the network input of an RGB image; runs in worker threads."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Returns a float32 unit vector of shape (d,), or `visdiff.engine.Refused`, per input."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> "np.ndarray":
        """Returns float32 unit vectors, shape (n, d).

        Raises:
            InputError: A text is longer than the model's context; texts are never truncated.
        """
        ...
