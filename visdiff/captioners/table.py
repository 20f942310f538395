"""Captions of an image set as a manifest, which can be corrected and used in a comparison.

The manifest has one row per image, with the file in the column ``path`` and the caption in
``caption``. The captioner `manifest` and `visdiff.imageset.ImageSet.open` read both. Other columns
of the set's own manifest (prompt, seed, group) are copied.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visdiff.errors import InputError
from visdiff.files import explained, utf8, write_whole
from visdiff.imageset import ImageSet
from visdiff.results import to_plain

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".jsonl", ".parquet")
"""File name extensions of the formats that `write` supports."""


def check_target(path: Path) -> None:
    """Checks, before anything is computed, that a manifest can be written.

    Raises:
        InputError: The extension is not in `SUFFIXES`, or the folder is not writable.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"Expected a manifest to write ({', '.join(SUFFIXES)}), got {path}; choose another "
            "name with --out."
        )
    with explained("a file that can be written", path, "choose another with --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")


def check_files(images: ImageSet) -> None:
    """Checks, before anything is computed, that a manifest can name the images of a set.

    Raises:
        InputError: An image has no file.
    """
    if any(images.path(i) is None for i in range(len(images))):
        raise InputError(
            f"Expected image files in {images.source}, got images in memory or in a table; save "
            "them as files first."
        )


def table(images: ImageSet, captions: Sequence[str | None], folder: Path) -> "pd.DataFrame":
    """Returns the manifest, one row per image, in the order of the set.

    Args:
        images: n images with files.
        captions: n captions; None for a missing one.
        folder: Folder of the manifest. Paths of files in it or below are relative, so that both
            can be moved together; others are absolute.

    Returns:
        A frame with the columns ``path``, ``caption`` (None for a missing one), ``id``, and the
        set's other columns.

    Raises:
        InputError: An image has no file.
        ValueError: The numbers of captions and images differ.
    """
    if len(captions) != len(images):
        raise ValueError(
            f"Expected {len(images)} captions, got {len(captions)}; pass one per image."
        )
    check_files(images)
    frame = images.frame
    known = {str(c): frame[c].tolist() for c in frame.columns if c not in ("path", "caption", "id")}
    files = [images.path(i) for i in range(len(images))]
    paths = [_manifest_path(file, folder) for file in files if file is not None]
    columns: Mapping[str, Sequence[object]] = {
        "path": paths,
        "caption": list(captions),
        "id": list(images.ids),
        **known,
    }
    return _frame(columns)


def write(frame: "pd.DataFrame", path: Path) -> None:
    """Writes a manifest atomically, in the format given by the extension.

    A missing value is an empty cell in CSV and null in the other formats. File names that are not
    UTF-8 are written to CSV as they are, and to JSON with escapes.

    Raises:
        InputError: The extension is not in `SUFFIXES`, the file cannot be written, or a file name
            in it is not UTF-8 and the format is Parquet.
    """
    check_target(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            data = frame.to_parquet(index=False)
        except UnicodeEncodeError as error:
            name = utf8(str(error.object)).decode()
            raise InputError(
                f"Expected file names in UTF-8 for {path}, got {name}; write .jsonl or .csv, which "
                "hold any name."
            ) from error
    elif suffix == ".jsonl":
        rows = (to_plain(row) for row in frame.to_dict("records"))
        data = utf8("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        data = frame.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogateescape")
    with explained("a file that can be written", path, "choose another with --out"):
        write_whole(path, data)


def _manifest_path(path: Path, folder: Path) -> str:
    # Links are not resolved: their targets may have names without an extension.
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _frame(columns: Mapping[str, Sequence[object]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        {name: pd.Series(list(values), dtype=_kind(values)) for name, values in columns.items()}
    )


def _kind(values: Sequence[object]) -> str | None:
    """Returns "object" for text, so that a column of missing captions is not numeric."""
    return "object" if all(v is None or isinstance(v, str) for v in values) else None
