"""A vision-language model looks at samples of both sets and says how they differ.

Models that take one picture get a grid with both groups, labelled; others get the images one by
one, each after its label. Nothing is stretched: a tile keeps the image's proportions.
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
from visdiff.proposers.asking import AskingProposer, Part, drawn

_GAP = 10
_PAPER, _INK = "white", "black"


class ImagesVlmProposer(AskingProposer):
    """Shows a sample of images of each set; see `AskingProposer` for the other settings.

    Args:
        llm: Returns the chat model; it has to see.
        layout: "grid", one picture for models that take one; "images" for those that take several.
        tile: Longest side of an image as it is shown, in pixels; smaller ones are not enlarged.
        sample_size: As for `AskingProposer`, like all that follow.

    Raises:
        InputError: The model does not see, or a setting is out of range.
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
                "expected proposer.layout 'grid' or 'images' and proposer.tile of at least 16 "
                f"pixels, got {layout!r} and {tile}"
            )
        if not self.llm.has_vision:
            raise InputError(
                f"expected a chat model that sees for the proposer {self.name!r}, got "
                f"{self.llm.identity.get('model', 'one')}, which reads text only; name another "
                "in llm.model, or use the proposer 'captions-llm'"
            )
        self.layout = layout
        self.tile = tile
        pictures = 1 if layout == "grid" else 2 * sample_size
        # About 1,000 tokens a picture.
        self.tokens_a_call = (600 + 1000 * pictures, 20 * ask)

    @property
    def identity(self) -> dict[str, Any]:
        """What `AskingProposer` has, and how images are shown."""
        return {**super().identity, "layout": self.layout, "tile": self.tile}

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        """Ask in both directions; a set without a readable image is a failure."""
        try:
            return super().propose(evidence, rng=rng, round=round)
        except UnreadableImageError as error:
            return Proposals(failures=(str(error),))

    def _questions(
        self, evidence: Evidence, rng: np.random.Generator
    ) -> tuple[Sequence[Part], Sequence[Part]]:
        shown = [self._tiles(images, rng) for images in (evidence.images_a, evidence.images_b)]
        show = self._grid if self.layout == "grid" else self._one_by_one
        return show(shown[0], shown[1]), show(shown[1], shown[0])

    def _tiles(self, images: ImageSet, rng: np.random.Generator) -> list[Image.Image]:
        tiles: list[Image.Image] = []
        problem: UnreadableImageError | None = None
        for index in drawn(len(images), self.sample_size, rng):
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
        told = []
        for label, where, tiles in (("A", "upper", first), ("B", "lower", second)):
            rows = math.ceil(len(tiles) / columns)
            told.append(
                f"{_count(len(tiles), 'image')} of Group {label} in the {where} part "
                f"({_count(rows, 'row')} under the heading “Group {label}”)"
            )
        picture = draw_grid((("Group A", first), ("Group B", second)), self.tile, columns)
        layout = f"The picture shows {told[0]}, and {told[1]}."
        return [self._filled(layout=layout), encode_jpeg(picture)]

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
        return [*parts, self._filled(layout=layout)]


def grid_columns(most: int) -> int:
    """Return how many columns make a nearly square picture of two blocks of so many tiles."""
    return max(1, min(most, math.ceil(math.sqrt(2 * most))))


def draw_grid(
    groups: Sequence[tuple[str, Sequence[Image.Image]]], tile: int, columns: int
) -> Image.Image:
    """Draw blocks of tiles under one another, each below its heading.

    Args:
        groups: Heading and images of each block.
        tile: Side of a tile's cell in pixels; an image is shrunk into it where it is larger, keeps
            its proportions, and stands in its middle.
        columns: Tiles in a row.

    Returns:
        An RGB picture with as many rows as the images need.
    """
    bar = max(24, tile // 6)
    step = tile + _GAP
    heights = [bar + _GAP + step * math.ceil(len(images) / columns) for _, images in groups]
    sheet = Image.new("RGB", (columns * step + _GAP, sum(heights) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=bar * 0.7)
    top = _GAP
    for (heading, images), height in zip(groups, heights, strict=True):
        pen.rectangle((0, top, sheet.width, top + bar), fill=_INK)
        pen.text((_GAP, top + bar / 2), heading, fill=_PAPER, font=font, anchor="lm")
        for place, image in enumerate(images):
            row, column = divmod(place, columns)
            fitted = image
            if max(image.size) > tile:
                fitted = ImageOps.contain(image, (tile, tile))
            left = _GAP + column * step + (tile - fitted.width) // 2
            sheet.paste(fitted, (left, top + bar + _GAP + row * step + (tile - fitted.height) // 2))
        top += height
    return sheet


def _count(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n} {what}s"
