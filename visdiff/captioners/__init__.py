"""Captioners: say what one image shows."""

from collections.abc import Mapping
from typing import Any, Protocol

from visdiff.cache import Cache
from visdiff.engine import Applied
from visdiff.imageset import ImageSet


class Captioner(Protocol):
    """Gives each image of a set one caption.

    A backend's constructor takes the fields of the captioner's configuration as keywords and
    ignores those that mean nothing to it.
    """

    @property
    def name(self) -> str:
        """The backend's name in the registry."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What changes a caption: backend, weights, prompt, decoding. JSON values."""
        ...

    def captions(self, images: ImageSet, cache: Cache, progress: bool = False) -> Applied:
        """Caption every image.

        Returns:
            Captions (never empty) in the order of the set; an image without one is None and has a
            reason.
        """
        ...
