"""Augmentations that change what an image shows, and its caption with it.

Custom Diffusion (Kumari et al., CVPR 2023, arXiv:2212.04488) shows the subject smaller or larger.
SVDiff (Han et al., ICCV 2023, arXiv:2303.11305) pastes two subjects into one image (Cut-Mix-Unmix).
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from editing.personalize.framing import View, to_range

_SMALLER = 0.66
"""Probability that the subject is shown smaller (Custom Diffusion's code)."""

_FAR = ("a far away ", "very small ")
_NEAR = ("zoomed in ", "close up ")


def far_or_near(
    image: Image.Image, size: tuple[int, int], rng: np.random.Generator
) -> tuple[View, str]:
    """Shows an image smaller on an empty canvas, or enlarged and cropped.

    Args:
        image: RGB image.
        size: Height and width of the result.
        rng: Draws the scale and the place.

    Returns:
        The view, whose mask is 1 where the image is, and what goes before the caption: "zoomed in "
        or "a far away ", for example, or "" for a scale near 1.
    """
    height, width = size
    side = min(image.size)
    square = _centre(image, (image.width - side) // 2, (image.height - side) // 2, side)
    canvas = np.zeros((height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.float32)
    if rng.random() < _SMALLER:
        share = rng.uniform(1 / 3, 1)
        small = (max(8, round(height * share)), max(8, round(width * share)))
        top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(size, small, strict=True))
        part = np.asarray(square.resize((small[1], small[0]), Image.Resampling.LANCZOS))
        canvas[top : top + small[0], left : left + small[1]] = part
        mask[top : top + small[0], left : left + small[1]] = 1
        prefix = str(rng.choice(_FAR)) if share < 0.6 else ""
    else:
        share = 1 / rng.uniform(1.2, 1.4)
        box = round(side * share)
        left, top = (int(rng.integers(0, side - box + 1)) for _ in range(2))
        near = _centre(square, left, top, box)
        canvas[:] = np.asarray(near.resize((width, height), Image.Resampling.LANCZOS))
        mask[:] = 1
        prefix = str(rng.choice(_NEAR))
    pixels = to_range(Image.fromarray(canvas))
    return View(pixels, mask, (height, width, 0, 0, height, width)), prefix


def side_by_side(left: View, right: View) -> View:
    """Pastes two views of equal height into one image."""
    height = left.pixels.shape[1]
    width = left.pixels.shape[2] + right.pixels.shape[2]
    return replace(
        left,
        pixels=np.concatenate([left.pixels, right.pixels], axis=2),
        mask=None,
        sizes=(height, width, 0, 0, height, width),
        key=None,
    )


def both(left: str, right: str, rng: np.random.Generator) -> str:
    """Returns a caption of two things in one image, with or without their places."""
    if rng.random() < 0.5:
        return f"a photo of {left} on the left and {right} on the right"
    return f"a photo of {left} and {right}"


def _centre(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))
