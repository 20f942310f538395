"""Captions of one set as a manifest: to read, to correct, and to compare with again.

The manifest names each image's file and has its caption in the column ``caption``, where the
captioner `manifest` and `visdiff.imageset.ImageSet.open` look for them. What the set's own manifest
says of the images (prompt, seed, group) comes along.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visdiff.errors import InputError
from visdiff.files import explained, write_whole
from visdiff.imageset import ImageSet

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".jsonl", ".parquet")
"""File names of the manifests that `write` writes."""


def check_target(path: Path) -> None:
    """Finds out, before anything is computed, that a manifest can be written.

    Raises:
        InputError: Its name ends in none of `SUFFIXES`, or its folder cannot be written to.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"Expected a manifest to write ({', '.join(SUFFIXES)}), got {path}; name one with "
            "--out."
        )
    with explained("a file that can be written", path, "choose another with --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")


def table(images: ImageSet, captions: Sequence[str | None], folder: Path) -> "pd.DataFrame":
    """The manifest: one row an image, in order.

    Args:
        images: n images with files.
        captions: n captions; None where there is none.
        folder: Where the manifest will lie. Paths of files in it, or below, are relative to it, so
            that both can move together; others are absolute.

    Returns:
        A frame with the columns ``path``, ``caption`` (None where there is none), ``id``, and the
        set's other columns.

    Raises:
        InputError: An image has no file.
        ValueError: There are not as many captions as images.
    """
    if len(captions) != len(images):
        raise ValueError(f"expected {len(images)} captions, got {len(captions)}")
    frame = images.frame
    known = {str(c): frame[c].tolist() for c in frame.columns if c not in ("path", "caption", "id")}
    paths = [_written(images.path(i), folder, images) for i in range(len(images))]
    columns: Mapping[str, Sequence[object]] = {
        "path": paths,
        "caption": list(captions),
        "id": list(images.ids),
        **known,
    }
    return _frame(columns)


def write(frame: "pd.DataFrame", path: Path) -> None:
    """Writes a manifest as the end of its name says; a reader never sees half of it.

    A missing value is an empty cell in a CSV and null elsewhere.

    Raises:
        InputError: The name ends in none of `SUFFIXES`, the file cannot be written, or a name is
            not UTF-8.
    """
    check_target(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            data = frame.to_parquet(index=False)
        elif suffix == ".jsonl":
            text = frame.to_json(orient="records", lines=True, force_ascii=False) or ""
            data = text.encode()
        else:
            data = frame.to_csv(index=False, lineterminator="\n").encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Expected file names in UTF-8 for {path}, got {error.object!r}; rename the file."
        ) from error
    with explained("a file that can be written", path, "choose another with --out"):
        write_whole(path, data)


def _written(path: Path | None, folder: Path, images: ImageSet) -> str:
    if path is None:
        raise InputError(
            f"Expected image files in {images.source}, got images in memory; save them first."
        )
    # Links are kept as they are: what they point to may have another name, without an ending.
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _frame(columns: Mapping[str, Sequence[object]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        {name: pd.Series(list(values), dtype=_kind(values)) for name, values in columns.items()}
    )


def _kind(values: Sequence[object]) -> str | None:
    """Text stays text, so that a column without any caption is no column of numbers."""
    return "object" if all(v is None or isinstance(v, str) for v in values) else None
