"""Sources of images: a folder, glob, manifest or list, each converted to a `Listing`."""

import glob as globbing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from visdiff.errors import InputError
from visdiff.imageset import decode, manifest

# Number of paths that are tried to find the folder that a manifest's paths are relative to.
_PROBES = 50


@dataclass(frozen=True)
class Listing:
    """The images of a set, by reference.

    Attributes:
        items: For each image, the absolute path of its file or a Pillow image.
        frame: One row per image: ``id`` (unique), ``path`` (text or None), metadata.
        name: Name of the set.
        source: Where the images come from, as text for a report.
    """

    items: Sequence[str | Image.Image]
    frame: pd.DataFrame
    name: str
    source: str


def from_path(source: str) -> Listing:
    """Lists a folder, a manifest, one image file or the matches of a glob.

    Raises:
        InputError: The source does not exist or contains no image.
    """
    source = os.path.expanduser(source)
    if "://" in source:
        raise InputError(
            f"Expected images on this machine, got the address {source!r}; download them first."
        )
    if os.path.isdir(source):
        return _from_folder(source)
    suffix = os.path.splitext(source)[1].lower()
    if os.path.isfile(source):
        if suffix in manifest.SUFFIXES:
            path = Path(source)
            table = manifest.read_table(path)
            return from_table(table, path.absolute().parent, path.stem, str(source))
        if suffix in decode.SUFFIXES:
            path = Path(source).absolute()
            return _listing([str(path)], [path.name], path.stem, source)
        raise InputError(
            f"Expected a folder, an image or a manifest ({_kinds(manifest.SUFFIXES)}), got the "
            f"file {source}; pass one of these."
        )
    if globbing.has_magic(source):
        return _from_glob(source)
    raise InputError(
        f"Expected a folder, a glob or a manifest, got {source!r}, where there is nothing; "
        f"check the path (the current folder is {os.getcwd()})."
    )


def from_items(items: Sequence[Any]) -> Listing:
    """Lists paths and Pillow images.

    Raises:
        InputError: The list is empty, or an element is neither.
    """
    if not items:
        raise InputError("Expected a list of images, got an empty one; pass at least one image.")
    listed: list[str | Image.Image] = []
    ids: list[str] = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, Image.Image):
            listed.append(item)
            ids.append(f"image-{number:04d}")
        elif isinstance(item, (str, os.PathLike)):
            path = os.path.expanduser(str(os.fspath(item)))
            listed.append(os.path.abspath(path))
            ids.append(_normal(path))
        else:
            raise InputError(
                f"Expected paths or Pillow images in the list, got {type(item).__name__} at "
                f"position {number}; convert it (an array with PIL.Image.fromarray)."
            )
    return _listing(listed, ids, "images", f"a list of {len(items)} images")


def from_table(table: pd.DataFrame, folder: Path, name: str, source: str) -> Listing:
    """Lists the rows of a table with a column ``path``.

    Args:
        table: One row per image; other columns are metadata.
        folder: Folder that paths are relative to; `visdiff.imageset.ImageSet.open` lists the
            alternatives that are tried when the files are not there.
        name: Name of the set.
        source: Name of the table in errors and reports.

    Raises:
        InputError: The column ``path`` is missing, there are no rows, a row has no path, or ids are
            not unique.
    """
    if "path" not in table.columns:
        columns = manifest.listed([str(column) for column in table.columns])
        raise InputError(
            f"Expected a column `path` in {source}, got the columns {columns}; "
            f"rename the one with the file paths."
        )
    if table.empty:
        raise InputError(f"Expected rows in {source}, got none; write one row per image.")
    paths: list[str] = []
    for number, value in enumerate(table["path"].tolist(), start=1):
        if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
            raise InputError(
                f"Expected a path in row {number} of {source}, got {value!r}; fill it in or remove "
                f"the row."
            )
        if "://" in str(value):
            raise InputError(
                f"Expected files on this machine in {source}, got the address {value!r} in row "
                f"{number}; download the images and write their paths."
            )
        paths.append(os.path.expanduser(str(value)))
    if "id" in table.columns:
        ids = [manifest.text(value) for value in table["id"].tolist()]
        if "" in ids or len(set(ids)) < len(ids):
            raise InputError(
                f"Expected a unique `id` in every row of {source}, got repeated or empty ones; "
                f"rename the column if it does not identify the image."
            )
    else:
        ids = _unique([_normal(path) for path in paths])
    base = _base(paths, folder)
    items = [os.path.normpath(os.path.join(base, path)) for path in paths]
    metadata = table.drop(columns=["path", "id"], errors="ignore").reset_index(drop=True)
    frame = pd.concat([_frame(items, ids), metadata], axis="columns")
    return Listing(items, frame, name, source)


def _from_folder(folder: str) -> Listing:
    files = sorted(_walk(folder))
    images = [file for file in files if _is_image(file)]
    if not images:
        found = f"{len(files)} other files" if files else "an empty folder"
        raise InputError(
            f"Expected images ({_kinds(decode.SUFFIXES)}) in the folder {folder}, got {found}; "
            f"pass the folder that contains them."
        )
    root = os.path.abspath(folder)
    return _listing(
        [os.path.join(root, file) for file in images],
        [_normal(file) for file in images],
        os.path.basename(root) or root,
        str(folder),
    )


def _from_glob(pattern: str) -> Listing:
    matches = [path for path in globbing.iglob(pattern, recursive=True) if not os.path.isdir(path)]
    images = sorted(path for path in dict.fromkeys(matches) if _is_image(path))
    if not images:
        raise InputError(
            f"Expected images ({_kinds(decode.SUFFIXES)}) matching {pattern!r}, got "
            f"{len(matches)} files, none of them an image; check the pattern "
            f"(the current folder is {os.getcwd()})."
        )
    # Names are relative to the part of the pattern before the first wildcard, so that they do not
    # change when more files match.
    prefix = pattern[: min(pattern.find(sign) for sign in "*?[" if sign in pattern)]
    root = os.path.dirname(prefix) or "."
    return _listing(
        [os.path.abspath(path) for path in images],
        [_normal(os.path.relpath(path, root)) for path in images],
        os.path.basename(os.path.abspath(root)) or "images",
        pattern,
    )


def _walk(root: str, below: str = "", parents: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yields files relative to the root; follows links to folders, except to a parent folder."""
    folder = os.path.join(root, below)
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"Expected a folder that can be listed at {folder}, got an error ({error.strerror}); "
            f"check its permissions."
        ) from error
    for entry in visible:
        relative = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, relative, parents | {real})
        else:
            yield relative


def _base(paths: Sequence[str], folder: Path) -> str:
    """Returns the folder that the table's paths are relative to, the same for all rows."""
    relative = [path for path in paths if not os.path.isabs(path)]
    step = max(1, len(relative) // _PROBES)
    bases = [str(folder), os.getcwd(), str(folder.parent)]
    for path in relative[::step][:_PROBES]:
        for base in bases:
            if os.path.exists(os.path.join(base, path)):
                return base
    return bases[0]


def _listing(items: Sequence[str | Image.Image], ids: list[str], name: str, source: str) -> Listing:
    return Listing(items, _frame(items, _unique(ids)), name, source)


def _frame(items: Sequence[str | Image.Image], ids: Sequence[str]) -> pd.DataFrame:
    paths = [item if isinstance(item, str) else None for item in items]
    return pd.DataFrame({"id": list(ids), "path": pd.Series(paths, dtype=object)})


def _unique(ids: list[str]) -> list[str]:
    """Numbers the second and later occurrences of a name ("a.png", "a.png#2", …)."""
    if len(set(ids)) == len(ids):
        return ids
    taken = set(ids)
    used: dict[str, int] = {}
    unique: list[str] = []
    for name in ids:
        used[name] = used.get(name, 0) + 1
        candidate = name
        if used[name] > 1:
            while (candidate := f"{name}#{used[name]}") in taken:
                used[name] += 1
            taken.add(candidate)
        unique.append(candidate)
    return unique


def _normal(path: str) -> str:
    return Path(os.path.normpath(path)).as_posix()


def _is_image(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in decode.SUFFIXES


def _kinds(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
