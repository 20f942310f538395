"""Cross-attention maps as a figure: each image, and for each word its map over the image."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visdiff.errors import InputError


def attention_figure(
    images: NDArray[np.uint8],
    words: Mapping[str, NDArray[np.floating[Any]]],
    leaks: Mapping[str, NDArray[np.floating[Any]]] | None = None,
) -> Any:
    """Returns a figure with a row per image and a column per word.

    Colours are scaled to the largest value of each word over all images, so columns cannot be
    compared by colour.

    Args:
        images: (n, height, width, 3) uint8.
        words: Word → its maps (n, h, w).
        leaks: Word → share of its attention outside the subject (n,), written below its maps.

    Raises:
        InputError: There is no word, or a word has another number of maps.
    """
    from matplotlib.figure import Figure

    if not words or any(len(maps) != len(images) for maps in words.values()):
        raise InputError(
            f"Expected a map of each of {len(images)} images for one word or more, got "
            f"{ {word: len(maps) for word, maps in words.items()} }; pass all of them."
        )
    rows, columns = len(images), 1 + len(words)
    figure = Figure(figsize=(1.8 * columns, 1.9 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, image in enumerate(images):
        axes[row, 0].imshow(image)
        for column, (word, maps) in enumerate(words.items(), start=1):
            panel = axes[row, column]
            panel.imshow(np.asarray(image).mean(axis=2), cmap="gray", vmin=0, vmax=255)
            size = (image.shape[1], image.shape[0])
            heat = Image.fromarray(np.asarray(maps[row], np.float32))
            panel.imshow(
                np.asarray(heat.resize(size, Image.Resampling.BILINEAR)),
                cmap="magma", alpha=0.65, vmin=0, vmax=float(np.max(maps)) or 1.0,
            )  # fmt: skip
            if row == 0:
                panel.set_title(word, fontsize="small")
            if leaks is not None and word in leaks:
                panel.set_xlabel(f"outside {leaks[word][row]:.0%}", fontsize="x-small")
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure


def to_png(figure: Any) -> bytes:
    """Returns a figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
