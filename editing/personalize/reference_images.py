"""Images with captions and masks, in the layouts that people have.

A folder of images with sidecar captions (``.txt`` or ``.caption``), a folder with
``metadata.jsonl`` or ``metadata.csv`` (Hugging Face's image folder), a manifest, and a dataset of
the ``datasets`` library.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.imageset.manifest import SUFFIXES, read_table

CAPTION_SUFFIXES = (".txt", ".caption")
"""Sidecar files with the caption of the image of the same name, in order of preference."""

CAPTION_COLUMNS = ("caption", "text", "prompt")
"""Columns of a table that hold captions, in order of preference."""

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_MASK_NAME = re.compile(r"(?P<stem>.+)[._-]mask")


class Opened(NamedTuple):
    """Images with what is known of each.

    Attributes:
        images: The images.
        captions: Image id → caption.
        masks: Image id → mask, a file or an image.
        left_out: Names of files that were left out.
    """

    images: ImageSet
    captions: Mapping[str, str]
    masks: Mapping[str, Any]
    left_out: Sequence[str]


def open_images(source: Any, suffixes: Sequence[str] = CAPTION_SUFFIXES) -> Opened:
    """Opens images with what is known of each.

    Args:
        source: As for `editing.personalize.subject.Subject.open`.
        suffixes: Of files that are captions.

    Raises:
        InputError: There is no image, or the source cannot be read.
    """
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is not None and path.is_dir():
        table = next((path / name for name in _METADATA if (path / name).is_file()), None)
        return _from_table(table) if table is not None else _from_folder(path, suffixes)
    if path is not None and path.suffix.lower() in SUFFIXES:
        return _from_table(path)
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _from_dataset(source)
    opened = ImageSet.open(source)
    return Opened(opened, _captions_of(opened), {}, [])


def _from_folder(folder: Path, suffixes: Sequence[str]) -> Opened:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    found = ImageSet.open(folder)
    known = {folder / name: i for i, name in enumerate(found.ids)}
    # Mask → folder and stem of its image. The opened folder itself may be named "masks".
    masks: dict[Path, tuple[Path, str]] = {}
    for file in known:
        named = _MASK_NAME.fullmatch(file.stem)
        if named:
            masks[file] = file.parent, named["stem"]
        elif file.parent.name == "masks" and file.parent != folder:
            masks[file] = file.parent.parent, file.stem
    images = [i for file, i in known.items() if file not in masks]
    if not images:
        raise InputError(
            f"Expected images of the subject in {folder}, got masks alone; add the images."
        )
    opened = found.subset(images)
    texts: dict[str, str] = {}
    used = known.keys() - masks.keys()
    for name in opened.ids:
        for suffix in suffixes:
            sidecar = (folder / name).with_suffix(suffix)
            if sidecar.is_file():
                used.add(sidecar)
                text = read_caption(sidecar)
                if text:
                    texts.setdefault(name, text)
    of_image = {key: mask for mask, key in masks.items()}
    by_id = {
        name: mask
        for name in opened.ids
        if (mask := of_image.get(((folder / name).parent, (folder / name).stem))) is not None
    }
    used |= set(by_id.values())
    left_out = [
        f"{p.relative_to(folder)}{': a mask that is not used' if p in masks else ''}"
        for p in files
        if p not in used
    ]
    return Opened(opened, texts, by_id, left_out)


def _from_table(path: Path) -> Opened:
    table = read_table(path)
    if "path" not in table.columns and "file_name" in table.columns:
        table = table.rename(columns={"file_name": "path"})
    if "path" not in table.columns:
        raise InputError(
            f"Expected a table with the column path or file_name, got {path} with "
            f"{', '.join(map(str, table.columns)) or 'none'}; rename the column."
        )
    here = table.assign(path=[str(path.absolute().parent / str(p)) for p in table["path"]])
    opened = ImageSet.open(here.assign(id=table["path"].astype(str)))
    masks: dict[str, Any] = {}
    if "mask" in table.columns:
        masks = {
            name: path.absolute().parent / str(mask)
            for name, mask in zip(opened.ids, table["mask"], strict=True)
            if isinstance(mask, str) and mask
        }
    return Opened(opened, _captions_of(opened), masks, [])


def _from_dataset(dataset: Any) -> Opened:
    if "image" not in dataset.column_names:
        raise InputError(
            f"Expected a dataset with the column image, got {', '.join(dataset.column_names)}; "
            "rename the column."
        )
    rows = list(dataset)
    opened = ImageSet.open([row["image"] for row in rows])
    column = next((c for c in CAPTION_COLUMNS if c in dataset.column_names), None)
    texts = {
        name: row[column]
        for name, row in zip(opened.ids, rows, strict=True)
        if column and row[column]
    }
    masks = {
        name: row["mask"]
        for name, row in zip(opened.ids, rows, strict=True)
        if row.get("mask") is not None
    }
    return Opened(opened, texts, masks, [])


def _captions_of(images: ImageSet) -> dict[str, str]:
    frame: pd.DataFrame = images.frame
    column = next((c for c in CAPTION_COLUMNS if c in frame.columns), None)
    if column is None:
        return {}
    return {
        name: text.strip()
        for name, text in zip(images.ids, frame[column], strict=True)
        if isinstance(text, str) and text.strip()
    }


def read_caption(path: Path) -> str:
    """Returns the caption in a sidecar file.

    Raises:
        InputError: The file is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"Expected a caption in UTF-8, got {path} ({error.reason}); save it as UTF-8."
        ) from error
