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
    image: Image.Image,
    mask: Image.Image | None,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[View, str]:
    """Shows an image smaller on an empty canvas, or enlarged and cropped.

    Args:
        image: RGB image.
        mask: "L" image of the same size, white = subject.
        size: Height and width of the result.
        rng: Draws the scale and the place.

    Returns:
        The view, with where the image is in it, and what goes before the caption: "zoomed in " or
        "a far away ", for example, or "" for a scale near 1.
    """
    height, width = size
    # The largest box of the wanted aspect ratio.
    scale = min(image.width / width, image.height / height)
    full = (max(1, round(width * scale)), max(1, round(height * scale)))
    corner = ((image.width - full[0]) // 2, (image.height - full[1]) // 2)
    shown = np.zeros((height, width), np.float32)
    if rng.random() < _SMALLER:
        share = rng.uniform(1 / 3, 1)
        small = (max(8, round(height * share)), max(8, round(width * share)))
        top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(size, small, strict=True))
        shown[top : top + small[0], left : left + small[1]] = 1
        box = (*corner, *full)
        prefix = str(rng.choice(_FAR)) if share < 0.6 else ""
    else:
        share = 1 / rng.uniform(1.2, 1.4)
        near = (max(1, round(full[0] * share)), max(1, round(full[1] * share)))
        right, below = (int(rng.integers(0, a - b + 1)) for a, b in zip(full, near, strict=True))
        small, top, left = (height, width), 0, 0
        shown[:] = 1
        box = (corner[0] + right, corner[1] + below, *near)
        prefix = str(rng.choice(_NEAR))

    def placed(picture: Image.Image, filtering: Image.Resampling) -> Image.Image:
        canvas = Image.new(picture.mode, (width, height))
        part = _cut(picture, *box).resize((small[1], small[0]), filtering)
        canvas.paste(part, (left, top))
        return canvas

    weights = None
    if mask is not None:
        weights = np.asarray(placed(mask, Image.Resampling.BOX)).astype(np.float32) / 255
    pixels = to_range(placed(image, Image.Resampling.LANCZOS))
    return View(pixels, weights, (height, width, 0, 0, height, width), shown=shown), prefix


def side_by_side(left: View, right: View) -> View:
    """Pastes two views of equal height into one image."""
    height = left.pixels.shape[1]
    width = left.pixels.shape[2] + right.pixels.shape[2]
    mask = None
    if left.mask is not None or right.mask is not None:
        whole = [np.ones(v.pixels.shape[1:], np.float32) if v.mask is None else v.mask
                 for v in (left, right)]  # fmt: skip
        mask = np.concatenate(whole, axis=1)
    return replace(
        left,
        pixels=np.concatenate([left.pixels, right.pixels], axis=2),
        mask=mask,
        sizes=(height, width, 0, 0, height, width),
        key=None,
    )


def both(left: str, right: str, rng: np.random.Generator) -> str:
    """Returns a caption of two things in one image, with or without their places."""
    if rng.random() < 0.5:
        return f"a photo of {left} on the left and {right} on the right"
    return f"a photo of {left} and {right}"


def _cut(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height))
