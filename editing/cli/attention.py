"""``visdiff personalize attention``: where the words of a prompt act in generated images.

Data goes to stdout, notes to stderr. Exit status: 0 done, 2 the user's mistake, 3 the share outside
the subject could not be computed for an image.
"""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from editing.cli.checks import check_edit, check_source
from editing.cli.options import (
    Device,
    EditOption,
    Guidance,
    Model,
    Scheduler,
    Steps,
)
from editing.cli.scoring_options import Segment, clipseg
from visdiff.cli.options import Json
from visdiff.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from editing.pipelines.attention import AttentionMaps

EPILOG = (
    "OUT gets attention.png, maps.npz (one array a word, images × height × width), the images, and "
    "the masks that were found."
)


def attention(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Output folder of the figure, arrays and images.")
    ],
    word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="Word of the prompt, such as the identifier; repeatable.",
            show_default="all words",
        ),
    ] = None,
    edit: EditOption = None,
    seeds: Annotated[
        str, typer.Option(metavar="SEEDS", help="Seeds, such as 0-9 or 1,5,7-9.")
    ] = "0-3",
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of masks of the subject, SEED.png: prints the leak.",
            show_default="none",
        ),
    ] = None,
    segment: Segment = None,
    noun: Annotated[
        str | None,
        typer.Option(metavar="NOUN", help="Class noun, such as dog.", show_default="none"),
    ] = None,
    steps: Steps = 50,
    guidance: Guidance = 7.5,
    scheduler: Scheduler = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Map the cross-attention of words, and how much lies outside the subject (leak)."""
    if masks is not None and segment is not None:
        raise InputError("Expected --masks or --segment, got both; leave one out.")
    if segment is not None and noun is None:
        raise InputError("Expected --noun with --segment, got none; name what the masks cover.")
    check_source(model)
    if edit is not None:
        check_edit(edit)
    import numpy as np

    from editing.cli.edit_files import open_any
    from editing.cli.generate import load_on_device
    from editing.generate.prompts import parse_seeds
    from editing.pipelines.attention import attention_maps, positions_of
    from editing.pipelines.sampling import Settings
    from visdiff.files import check_writable

    check_writable(out, "the maps")
    numbers = parse_seeds(seeds)
    pipe = load_on_device(device, model)
    opened = None if edit is None else open_any(edit, pipe)
    with nullcontext() if opened is None else opened.applied(pipe):
        chosen = {w: positions_of(pipe, prompt, w) for w in word or ()}
        found = attention_maps(
            pipe, prompt, numbers, settings=Settings(steps, guidance, scheduler=scheduler)
        )
    maps = (
        {w: found.of_positions(places) for w, places in chosen.items()}
        if chosen
        else found.of_words()
    )
    inside, reasons = _masks(found, numbers, masks, segment, noun)
    leaks = _leaks(maps, inside)
    _write(out, found, maps, leaks, numbers, inside)
    rows = [
        {"word": w, "seed": seed, "leak": _number(leaks.get(w), i)}
        for w in maps
        for i, seed in enumerate(numbers)
    ]
    if as_json:
        typer.echo(json.dumps({"prompt": found.prompt, "layers": found.layers, "rows": rows}))
    else:
        typer.echo(f"{len(numbers)} images, mean over {found.layers} layers: {out}")
        for w, own in leaks.items():
            known = own[np.isfinite(own)]
            if len(known):
                typer.echo(f"{w}: {known.mean():.1%} of its attention is outside the subject")
    for reason in reasons:
        typer.echo(f"not computed: {reason}", err=True)
    if reasons:
        raise typer.Exit(3)


def _masks(
    found: "AttentionMaps",
    seeds: list[int],
    folder: Path | None,
    model: str | None,
    noun: str | None,
) -> "tuple[list[np.ndarray | None], list[str]]":
    """Returns the mask of each image as bool, and why some are missing."""
    from PIL import Image

    from editing.metrics.masks import ClipSegmenter, kept_pixels

    if folder is None and model is None:
        return [None] * len(seeds), []
    images = [Image.fromarray(pixels) for pixels in found.images]
    opened: list[Image.Image | None] = []
    if model is not None and noun is not None:
        opened += ClipSegmenter(clipseg(model))(images, noun)
    elif folder is not None:
        opened += [_read(folder / f"{s}.png", i) for s, i in zip(seeds, images, strict=True)]
    kept = [None if mask is None else kept_pixels(mask) for mask in opened]
    reasons = [
        f"leak with seed {seed}: there is no mask, or it is empty"
        for seed, mask in zip(seeds, kept, strict=True)
        if mask is None or not mask.any()
    ]
    return [mask if mask is not None and mask.any() else None for mask in kept], reasons


def _read(file: Path, image: "Image.Image") -> "Image.Image | None":
    from PIL import Image

    if not file.is_file():
        return None
    with Image.open(file) as opened:
        mask = opened.convert("L")
    if mask.size != image.size:
        raise InputError(
            f"Expected a mask of {image.width}×{image.height} pixels, got {file} of {mask.width}×"
            f"{mask.height}; resize it to its image."
        )
    return mask


def _leaks(
    maps: "dict[str, np.ndarray]", masks: "list[np.ndarray | None]"
) -> "dict[str, np.ndarray]":
    """Returns word → leak of each image, NaN without mask; nothing if no image has one."""
    import numpy as np

    from editing.pipelines.attention import leak

    rows = [i for i, mask in enumerate(masks) if mask is not None]
    if not rows:
        return {}
    inside = np.stack([mask for mask in masks if mask is not None])
    found = {}
    for word, own in maps.items():
        found[word] = np.full(len(masks), np.nan)
        found[word][rows] = leak(own[rows], inside)
    return found


def _write(
    out: Path,
    found: "AttentionMaps",
    maps: "dict[str, np.ndarray]",
    leaks: "dict[str, np.ndarray]",
    seeds: list[int],
    masks: "list[np.ndarray | None]",
) -> None:
    from io import BytesIO
    from zipfile import ZipFile

    import numpy as np

    from editing.pipelines.attention_figure import attention_figure, to_png
    from visdiff.files import explained, write_whole

    arrays = BytesIO()
    # Not numpy's savez, which has parameters that a word may be named like ("file").
    with ZipFile(arrays, "w") as archive:
        for word, values in maps.items():
            array = BytesIO()
            np.save(array, values, allow_pickle=False)
            archive.writestr(f"{word}.npy", array.getvalue())
    with explained("a folder that can be written to", out):
        write_whole(out / "maps.npz", arrays.getvalue())
        write_whole(out / "attention.png", to_png(attention_figure(found.images, maps, leaks)))
        for seed, pixels, mask in zip(seeds, found.images, masks, strict=True):
            write_whole(out / f"{seed}.png", _png(pixels))
            if mask is not None:
                write_whole(out / "masks" / f"{seed}.png", _png(mask.astype(np.uint8) * 255))


def _png(pixels: "np.ndarray") -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _number(values: "np.ndarray | None", index: int) -> float | None:
    value = math.nan if values is None else float(values[index])
    return value if math.isfinite(value) else None
