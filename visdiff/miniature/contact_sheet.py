"""``python -m visdiff.miniature.contact_sheet FILE``: one image of every subject and profession."""

import argparse
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from visdiff.files import explained, write_whole
from visdiff.miniature import world
from visdiff.miniature.generate import Drawing, load_pipeline, sample

_COLUMNS, _SIDE, _LABEL, _GAP = 12, 96, 14, 4


def contact_sheet(labels: Sequence[str], images: Sequence[Image.Image]) -> Image.Image:
    """Arranges square images in rows, scaled up, each with its label below.

    Args:
        labels: One label per image.
        images: Images of any size, resized to 96 pixels.
    """
    width, height = _SIDE + _GAP, _SIDE + _LABEL + _GAP
    rows = -(-len(images) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for i, (label, image) in enumerate(zip(labels, images, strict=True)):
        x, y = _GAP + i % _COLUMNS * width, _GAP + i // _COLUMNS * height
        sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, y))
        draw.text((x + _SIDE / 2, y + _SIDE), label, "black", font, anchor="ma")
    return sheet


def main() -> None:
    """Generates one image of every subject and profession and writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    subjects = world.SUBJECTS + world.PROFESSIONS
    drawings = [Drawing(world.an(s), arguments.seed + i) for i, s in enumerate(subjects)]
    buffer = BytesIO()
    contact_sheet(subjects, sample(load_pipeline(), drawings)).save(buffer, "PNG")
    with explained("a file that can be written", arguments.file):
        write_whole(arguments.file, buffer.getvalue())
    sys.stdout.write(f"{arguments.file}\n")


if __name__ == "__main__":
    main()
