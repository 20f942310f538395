"""A proposer that shows a vision-language model samples of both sets.

Models for a single picture get a labelled grid with both groups. Other models get the images one by
one, each after its label. Images keep their aspect ratio.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from visdiff.engine import Runtime
from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.llm import ChatModel
from visdiff.llm.pictures import encode_jpeg
from visdiff.proposers import Evidence, Proposals
from visdiff.proposers.asking import AskingProposer, Part, sample_indices

_GAP = 10
_BACKGROUND, _FOREGROUND = "white", "black"


class ImagesVlmProposer(AskingProposer):
    """A proposer that asks a chat model about a sample of images of each set.

    Args:
        llm: Returns the chat model, which needs vision.
        layout: "grid" for models that accept a single picture, "images" for those that accept
            several.
        tile: Longest side of a shown image, in pixels; smaller images are not enlarged.
        sample_size: As for `AskingProposer`, like the remaining arguments.

    Raises:
        InputError: The model has no vision, or a setting is out of range.
    """

    name = "images-vlm"
    needs_captions = False

    def __init__(
        self,
        llm: Callable[[], ChatModel] | None = None,
        layout: Literal["grid", "images"] = "grid",
        tile: int = 256,
        sample_size: int = 20,
        ask: int = 10,
        goal: str | None = None,
        leave_out: Sequence[str] = (),
        structured: bool = True,
        max_tokens: int | None = 1000,
        temperature: float | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(
            llm, sample_size, ask, goal, leave_out, structured, max_tokens, temperature, runtime
        )
        if layout not in ("grid", "images") or tile < 16:
            raise InputError(
                "Expected proposer.layout 'grid' or 'images' and proposer.tile of at least 16 "
                f"pixels, got {layout!r} and {tile}."
            )
        if not self.llm.has_vision:
            raise InputError(
                f"Expected a chat model with vision for the proposer {self.name!r}, got "
                f"{self.llm.identity.get('model', 'one')}, which reads text only; choose another "
                "llm.model, or the proposer 'captions-llm'."
            )
        self.layout = layout
        self.tile = tile
        pictures = 1 if layout == "grid" else 2 * sample_size
        # About 1,000 tokens per picture.
        self.tokens_a_call = (600 + 1000 * pictures, 20 * ask)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of `AskingProposer`, the layout and the tile size."""
        return {**super().identity, "layout": self.layout, "tile": self.tile}

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Returns hypotheses of both directions; a set without a readable image is a failure."""
        try:
            return super().propose(evidence, rng=rng, round=round)
        except UnreadableImageError as error:
            return Proposals(failures=(str(error),), asked=1)

    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]]:
        a, b = (self._tiles(images, rng) for images in (evidence.images_a, evidence.images_b))
        question = self._grid if self.layout == "grid" else self._one_by_one
        return question(a, b), question(b, a)

    def _tiles(self, images: ImageSet, rng: np.random.Generator) -> list[Image.Image]:
        tiles: list[Image.Image] = []
        problem: UnreadableImageError | None = None
        for index in sample_indices(len(images), self.sample_size, rng):
            try:
                image = images.image(index)
            except UnreadableImageError as error:
                problem = error
                continue
            image.thumbnail((self.tile, self.tile))
            tiles.append(image)
        if not tiles and problem is not None:
            raise problem
        return tiles

    def _grid(self, first: Sequence[Image.Image], second: Sequence[Image.Image]) -> list[Part]:
        columns = grid_columns(max(len(first), len(second)))
        parts = []
        for label, where, tiles in (("A", "upper", first), ("B", "lower", second)):
            rows = math.ceil(len(tiles) / columns)
            parts.append(
                f"{_count(len(tiles), 'image')} of Group {label} in the {where} part "
                f"({_count(rows, 'row')} under the heading “Group {label}”)"
            )
        picture = draw_grid((("Group A", first), ("Group B", second)), self.tile, columns)
        layout = f"The picture shows {parts[0]}, and {parts[1]}."
        return [self._fill_prompt(layout=layout), encode_jpeg(picture)]

    def _one_by_one(
        self, first: Sequence[Image.Image], second: Sequence[Image.Image]
    ) -> list[Part]:
        layout = (
            f"Above are {_count(len(first), 'image')} of Group A, then "
            f"{_count(len(second), 'image')} of Group B, each after its label."
        )
        parts: list[Part] = []
        for label, tiles in (("A", first), ("B", second)):
            for number, tile in enumerate(tiles, 1):
                parts += [f"Group {label}, image {number}:", encode_jpeg(tile)]
        return [*parts, self._fill_prompt(layout=layout)]


def grid_columns(n: int) -> int:
    """Returns the number of columns for a nearly square picture of two blocks of n tiles."""
    return max(1, min(n, math.ceil(math.sqrt(2 * n))))


def draw_grid(
    groups: Sequence[tuple[str, Sequence[Image.Image]]], tile: int, columns: int
) -> Image.Image:
    """Returns one picture with a block of tiles per group, each below its heading.

    Args:
        groups: Heading and images of each block.
        tile: Side of a square cell in pixels. A larger image is reduced to fit, with its aspect
            ratio kept; all images are centred.
        columns: Tiles per row.

    Returns:
        An RGB picture with as many rows as needed.
    """
    heading_height = max(24, tile // 6)
    step = tile + _GAP
    heights = [
        heading_height + _GAP + step * math.ceil(len(images) / columns) for _, images in groups
    ]
    picture = Image.new("RGB", (columns * step + _GAP, sum(heights) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=heading_height * 0.7)
    top = _GAP
    for (heading, images), height in zip(groups, heights, strict=True):
        draw.rectangle((0, top, picture.width, top + heading_height), fill=_FOREGROUND)
        middle = (_GAP, top + heading_height / 2)
        draw.text(middle, heading, fill=_BACKGROUND, font=font, anchor="lm")
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            reduced = image
            if max(image.size) > tile:
                reduced = ImageOps.contain(image, (tile, tile))
            x = _GAP + column * step + (tile - reduced.width) // 2
            y = top + heading_height + _GAP + row * step + (tile - reduced.height) // 2
            picture.paste(reduced, (x, y))
        top += height
    return picture


def _count(n: int, noun: str) -> str:
    return f"1 {noun}" if n == 1 else f"{n} {noun}s"
