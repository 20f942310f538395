"""Rows of images on one pair of axes, and the images that show a difference best."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from visdiff.errors import InputError
from visdiff.figures.scores import difference_at
from visdiff.figures.style import (
    COLUMN,
    FONT,
    LINE,
    axes_of,
    figure_of,
    find_style,
    lines_of,
    write,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from visdiff.results import DifferenceReport

_GAP = 0.06
_PIXELATED_UP_TO = 96


@dataclass(frozen=True)
class ImageRow:
    """A row of images.

    Attributes:
        label: Text above the row.
        images: Encoded images (PNG or JPEG); None for one that is missing.
        colour: Colour of the label, "A" or "B"; "" for that of text.
        captions: Text below each image; empty for none.
    """

    label: str
    images: Sequence[bytes | None]
    colour: str = ""
    captions: Sequence[str] = ()


def image_rows(
    rows: Sequence[ImageRow], title: str, ax: "Axes | None" = None, style: str = "light"
) -> "Figure":
    """Returns rows of images of one size. Missing images are empty frames.

    Args:
        rows: The rows, from the top; one image or more.
        title: Text above all rows.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".

    Raises:
        InputError: The style is unknown.
    """
    colours = find_style(style)
    columns = max(len(row.images) for row in rows)
    side = COLUMN / columns
    label, caption = 1.3 * LINE / side, 1.1 * LINE / side
    heights = [label + 1 + (caption if row.captions else 0) for row in rows]
    ax = axes_of(ax, side * sum(heights) + 0.25, colours)
    top = 0.0
    for row, height in zip(rows, heights, strict=True):
        colour = colours.of(row.colour) if row.colour else colours.muted
        write(ax, 0, top + 0.75 * label, (lines_of(ax, row.label) or [""])[0], colour)
        for column, data in enumerate(row.images):
            left, right = column + _GAP / 2, column + 1 - _GAP / 2
            upper, lower = top + label + _GAP / 2, top + label + 1 - _GAP / 2
            if data is not None:
                pixels = _square(data, colours.paper)
                smooth = "antialiased" if len(pixels) > _PIXELATED_UP_TO else "nearest"
                ax.imshow(pixels, extent=(left, right, lower, upper), interpolation=smooth)
            else:
                edges = [left, right, right, left, left], [upper, upper, lower, lower, upper]
                ax.plot(*edges, "-", color=colours.rule, linewidth=0.6)
                write(
                    ax, (left + right) / 2, (upper + lower) / 2, "no image", colours.muted,
                    ha="center", va="center", fontsize=FONT - 1,
                )  # fmt: skip
            if row.captions:
                lines = lines_of(ax, row.captions[column], 1, share=1 / columns)
                below = top + label + 1 + 0.7 * caption
                write(ax, left, below, (lines or [""])[0], colours.ink, fontsize=FONT - 1)
        top += height
    ax.set(xlim=(0, columns), ylim=(top, 0), xticks=[], yticks=[], aspect="equal")
    ax.spines["bottom"].set_visible(False)
    write_title(ax, title, colours)
    return figure_of(ax)


def evidence(
    report: "DifferenceReport",
    i: int = 0,
    ax: "Axes | None" = None,
    style: str = "light",
    n: int = 4,
) -> "Figure":
    """Returns the images of both sets that show a difference most clearly, with their file names.

    Of the set that the sentence is more true of these are the images with the highest scores, of
    the other set those with the lowest.

    Args:
        report: A report with thumbnails.
        i: Number of the difference in the report, from 0.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".
        n: Maximum number of images of each set.

    Raises:
        InputError: There is no such difference, the report has no images of it (one that was read
            from JSON has none), or the style is unknown.
    """
    d = difference_at(report, i)
    rows = []
    for side, card, ids in (("A", report.set_a, d.evidence_a), ("B", report.set_b, d.evidence_b)):
        end = "highest" if side == d.direction else "lowest"
        images = [report.thumbnails.get(f"{side}/{name}") for name in ids[:n]]
        names = [PurePath(name).name for name in ids[:n]]
        rows.append(ImageRow(f"{side}: {card.name} ({end} scores)", images, side, names))
    if not any(data for row in rows for data in row.images):
        raise InputError(
            f"Expected a report with images of {d.text!r}, got one without; draw the report that "
            "the comparison returned, since reports that are read from JSON have no images."
        )
    return image_rows([row for row in rows if row.images], d.text, ax, style)


def _square(data: bytes, paper: str) -> np.ndarray:
    """Returns the pixels of an image in the middle of a square, uint8 of shape (s, s, 3)."""
    image = Image.open(BytesIO(data)).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), paper)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square)
