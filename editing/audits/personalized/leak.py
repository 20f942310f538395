"""The leak of attention outside a subject, by the taught and by the untaught model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editing.edit import Edit
from editing.generate.phrases import own_seed, phrase
from editing.metrics.masks import Segmenter, kept_pixels
from editing.pipelines.attention import attention_maps, leak, positions_of
from editing.pipelines.sampling import Settings
from editing.requests import Request
from visdiff.errors import InputError

IMAGES = 8
"""Images by each model."""


@dataclass(frozen=True, eq=False)
class Leak:
    """Shares of a word's attention outside the subject, image by image, from the same noise.

    Attributes:
        taught: (m,) of the identifier, in images of the taught model.
        untaught: (m,) of the class noun, in images of the untaught model.
        left_out: Number of images in which no subject was found by the segmenter.
    """

    taught: NDArray[np.float64]
    untaught: NDArray[np.float64]
    left_out: int


def attention_leak(
    pipe: Any,
    edit: Edit,
    request: Request,
    segmenter: Segmenter,
    *,
    scale: float = 1.0,
    settings: Settings | None = None,
    images: int = IMAGES,
) -> Leak:
    """Measures the leak of the identifier, and that of the class noun without the edit.

    Args:
        pipe: The untaught pipeline.
        edit: The edit that teaches the subject.
        request: The request to learn it.
        segmenter: Finds the class noun in generated images.
        scale: Strength of the edit.
        settings: Sampling settings.
        images: Images by each model.

    Raises:
        InputError: The attention cannot be observed, or no image shows the class noun.
    """
    first = own_seed(phrase(request.noun))
    seeds = range(first, first + images)
    before = _leaks(pipe, phrase(request.noun), request.noun, request.noun, seeds, segmenter,
                    settings)  # fmt: skip
    with edit.applied(pipe, scale=scale):
        after = _leaks(pipe, request.wording, request.identifier, request.noun, seeds, segmenter,
                       settings)  # fmt: skip
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        raise InputError(
            f"Expected images in which {segmenter.name} finds {request.noun!r}, got none of "
            f"{images}; use another segmentation model."
        )
    return Leak(after[known], before[known], int((~known).sum()))


def _leaks(
    pipe: Any,
    prompt: str,
    word: str,
    noun: str,
    seeds: Sequence[int],
    segmenter: Segmenter,
    settings: Settings | None,
) -> NDArray[np.float64]:
    """Returns the leak of a word in each image; NaN where the subject is not found."""
    found = attention_maps(pipe, prompt, seeds, settings=settings)
    pictures = [Image.fromarray(pixels) for pixels in found.images]
    masks = np.stack([kept_pixels(mask) for mask in segmenter(pictures, noun)])
    values = np.full(len(masks), np.nan)
    rows = np.flatnonzero(masks.any(axis=(1, 2)))
    if len(rows):
        maps = found.of_positions(positions_of(pipe, prompt, word))
        values[rows] = leak(maps[rows], masks[rows])
    return values
