"""From an image to the pixels of one training step: bucket, crop, flip, size, mask.

A crop is drawn anew each time. SDXL is conditioned on the original size and the corner of the crop
(Podell et al., arXiv:2307.01952, section 2.2); both are those of this crop, for images of the
subject and of its class alike.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from visdiff.errors import InputError


@dataclass(frozen=True)
class Framing:
    """How images are cut.

    Attributes:
        size: Height and width of the result in pixels.
        crop: Smallest side of a crop relative to the largest possible one, in (0, 1]. Below 1, its
            size and place are random; at 1 it is the centre.
        flip: Whether half of the images are mirrored.
        buckets: Other sizes (height, width); an image uses the one with the nearest aspect ratio.
    """

    size: tuple[int, int]
    crop: float = 1.0
    flip: bool = False
    buckets: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise InputError(f"Expected a crop in (0, 1], got {self.crop}; use for example 0.75.")

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """All sizes of results."""
        return tuple(dict.fromkeys((self.size, *self.buckets)))

    def mirrored(self, rng: np.random.Generator) -> bool:
        """Returns whether an image is mirrored this time."""
        return self.flip and bool(rng.random() < 0.5)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Returns the size whose aspect ratio is nearest to that of an image, in proportion."""
        aspect = np.log(height / width)
        return min(self.sizes, key=lambda s: abs(np.log(s[0] / s[1]) - aspect))


@dataclass(frozen=True, eq=False)
class View:
    """An image as one training step sees it.

    Attributes:
        pixels: float32, shape (3, height, width), in [-1, 1].
        mask: Where the subject is, in [0, 1], shape (height, width); None without a mask.
        sizes: SDXL's original height and width, top and left of the crop, and target height and
            width, in pixels of the resized image.
        key: What identifies the pixels among the views of an image; None if they are random.
        shown: 1 where the image is, 0 where there is nothing, shape (height, width); None for 1.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    sizes: tuple[int, int, int, int, int, int]
    key: tuple[int | bool, ...] | None = None
    shown: np.ndarray | None = None


def view(
    image: Image.Image,
    mask: Image.Image | None,
    framing: Framing,
    mirrored: bool,
    rng: np.random.Generator,
) -> View:
    """Cuts, mirrors and resizes an image.

    Args:
        image: RGB image of any size.
        mask: "L" image of the same size, white = subject.
        framing: How.
        mirrored: Whether it is mirrored.
        rng: Draws size and place of a random crop.

    Returns:
        The view; its key is None for a random crop.
    """
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = None if mask is None else mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    height, width = framing.size_for(*image.size)
    # Crop and resize are one operation: `share` of the largest box of the wanted aspect ratio.
    share = 1.0 if framing.crop == 1 else float(rng.uniform(framing.crop, 1))
    scale = max(width / image.width, height / image.height) / share
    # Rounding may exceed the image by an ulp, which Pillow refuses.
    box_width = min(width / scale, float(image.width))
    box_height = min(height / scale, float(image.height))
    across, down = (0.5, 0.5) if framing.crop == 1 else rng.random(2)
    left, top = (image.width - box_width) * across, (image.height - box_height) * down
    box = (left, top, left + box_width, top + box_height)
    pixels = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    weights = None
    if mask is not None:
        weights = np.asarray(mask.resize((width, height), Image.Resampling.BOX, box=box))
    resized = (round(image.height * scale), round(image.width * scale))
    return View(
        to_range(pixels),
        None if weights is None else weights.astype(np.float32) / 255,
        (*resized, round(top * scale), round(left * scale), height, width),
        (mirrored, height, width) if framing.crop == 1 else None,
    )


def to_range(image: Image.Image) -> np.ndarray:
    """Returns an image as float32, shape (3, height, width), in [-1, 1]."""
    return np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 127.5 - 1
