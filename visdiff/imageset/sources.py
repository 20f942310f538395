"""Sources of images: a folder, glob, manifest or list, each converted to a `Listing`."""

import glob as globbing
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from visdiff.errors import InputError
from visdiff.files import nothing_at
from visdiff.imageset import columns, decode, folders, manifest
from visdiff.imageset.locate import locate

StoredItem = str | bytes | Image.Image


@dataclass(frozen=True)
class TableOptions:
    """How the rows of a manifest are read.

    Attributes:
        root: Folder of the images; None for those of `visdiff.imageset.locate.locate` alone.
        path_column: Column of the image files; None for the first of `columns.PATH`.
    """

    root: Path | None = None
    path_column: str | None = None


@dataclass(frozen=True)
class Origin:
    """What was left out of a source, and how the rest was found.

    Attributes:
        left_out: Suffix → number of files that are no readable images.
        notes: Sentences about what was assumed.
        tried: Folders that were tried, if the files of a manifest are in none of them.
        first: Path of the first file as resolved, if none was found.
    """

    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    first: str = ""

    def joined(self, other: "Origin") -> "Origin":
        """Returns the origin of two sets together."""
        none_found = bool(self.tried and other.tried)
        return Origin(
            dict(Counter(self.left_out) + Counter(other.left_out)),
            tuple(dict.fromkeys([*self.notes, *other.notes])),
            tuple(dict.fromkeys([*self.tried, *other.tried])) if none_found else (),
            self.first if none_found else "",
        )

    def sentences(self, source: str) -> tuple[str, ...]:
        """Returns sentences for the plan and the report.

        Args:
            source: Where the images come from, as text.
        """
        found = list(self.notes)
        if self.left_out:
            n = sum(self.left_out.values())
            files = f"{n} files of {source} that are no readable images were"
            if n == 1:
                files = f"1 file of {source} that is no readable image was"
            found.append(f"{files} left out: {_in_words(self.left_out)}.")
        if decode.HEIC & set(self.left_out):
            found.append(f"To use the photos, {decode.HEIC_ADVICE}.")
        if self.tried:
            found.append(
                f"No image of {source} was found; the first would be {self.first}. Tried the "
                f"folders {', '.join(self.tried)}."
            )
        return tuple(found)


@dataclass(frozen=True)
class Listing:
    """The images of a set, by reference.

    Attributes:
        items: For each image, the absolute path of its file, the bytes of one, or a Pillow image.
        frame: One row per image: ``id`` (unique), ``path`` (text or None), metadata.
        name: Name of the set.
        source: Where the images come from, as text for a report.
        origin: What was left out, and how the rest was found.
    """

    items: Sequence[StoredItem]
    frame: pd.DataFrame
    name: str
    source: str
    origin: Origin = field(default_factory=Origin)


def from_path(source: str, options: TableOptions) -> Listing:
    """Lists a folder, a manifest, one image file or the matches of a glob.

    Args:
        source: The path or pattern.
        options: How a manifest is read.

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
            return from_table(table, path.absolute().parent, path.stem, str(source), options)
        if suffix in decode.suffixes() or (not suffix and decode.is_image(source)):
            path = Path(source).absolute()
            return _listing([str(path)], [path.name], path.stem, source)
        raise InputError(
            f"Expected a folder, an image or a manifest ({_kinds(manifest.SUFFIXES)}), got the "
            f"file {source}; pass one of these."
        )
    if os.path.exists(source):
        raise InputError(
            f"Expected a folder, a glob or a manifest, got {source}, which is a pipe, a socket or "
            "a device; save it as a file first."
        )
    if globbing.has_magic(source):
        return _from_glob(source)
    raise nothing_at(source)


def from_items(items: Sequence[Any]) -> Listing:
    """Lists paths and Pillow images.

    Raises:
        InputError: The list is empty, or an element is neither.
    """
    if not items:
        raise InputError("Expected a list of images, got an empty one; pass at least one image.")
    listed: list[StoredItem] = []
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


def from_table(
    table: pd.DataFrame, folder: Path, name: str, source: str, options: TableOptions
) -> Listing:
    """Lists the rows of a table with a column of image files or of their bytes.

    Args:
        table: One row per image; other columns are metadata.
        folder: Folder that paths are relative to; `visdiff.imageset.locate.locate` lists the
            alternatives that are tried when the files are not there.
        name: Name of the set.
        source: Name of the table in errors and reports.
        options: The folder of the images and the column of their files.

    Raises:
        InputError: There is no column of files, there are no rows, a row has no file, or ids are
            not unique.
    """
    column = _path_column(table, source, options)
    if table.empty:
        raise InputError(f"Expected rows in {source}, got none; write one row per image.")
    cells = [
        _cell(value, f"row {number} of {source}")
        for number, value in enumerate(table[column].tolist(), start=1)
    ]
    if "id" in table.columns:
        ids = [manifest.text(value) for value in table["id"].tolist()]
        if "" in ids or len(set(ids)) < len(ids):
            raise InputError(
                f"Expected a unique `id` in every row of {source}, got repeated or empty ones; "
                f"rename the column if it does not identify the image."
            )
    else:
        ids = _unique(
            [
                _normal(path) if path else f"image-{number:04d}"
                for number, (path, _) in enumerate(cells, start=1)
            ]
        )
    found = locate([path for path, data in cells if data is None], folder, options.root, source)
    files = iter(found.items)
    items: list[StoredItem] = [next(files) if data is None else data for _, data in cells]
    unused = table.drop(columns=["path", "id", column], errors="ignore")
    # A column of another name than `path` is kept: other tools know the rows by it.
    if column != "path" and not any(data is not None for _, data in cells):
        unused = table.drop(columns=["path", "id"], errors="ignore")
    frame = pd.concat([_frame(items, ids), unused.reset_index(drop=True)], axis="columns")
    notes = (*table.attrs.get("notes", ()), *([found.note] if found.note else []))
    tried = found.tried if len(found.items) == len(items) else ()
    origin = Origin({}, notes, tried, found.items[0] if tried else "")
    return Listing(items, frame, name, source, origin)


def _path_column(table: pd.DataFrame, source: str, options: TableOptions) -> str:
    if options.path_column is not None:
        manifest.check_columns(table, [options.path_column], source)
        return options.path_column
    column = columns.find(list(table.columns), columns.PATH)
    if column is None:
        known = manifest.listed([str(column) for column in table.columns])
        raise InputError(
            f"Expected a column `path` (or {', '.join(columns.PATH[1:])}) in {source}, got the "
            f"columns {known}; rename the one with the file paths, or name it with --path-column."
        )
    return column


def _cell(value: Any, where: str) -> tuple[str, bytes | None]:
    """Returns the path in a cell, and the bytes of the image if the cell holds them."""
    data: bytes | None = None
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        # The layout of the library `datasets`.
        value, data = value.get("path"), value.get("bytes")
    elif isinstance(value, bytes):
        value, data = None, value
    if isinstance(data, bytes):
        return (value if isinstance(value, str) else ""), data
    if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
        raise InputError(
            f"Expected a path in {where}, got {value!r}; fill it in or remove the row."
        )
    path = str(value)
    if "://" in path:
        raise InputError(
            f"Expected files on this machine, got the address {path!r} in {where}; download the "
            "images and write their paths."
        )
    return os.path.expanduser(path), None


def _from_folder(folder: str) -> Listing:
    found = folders.list_folder(folder)
    root = os.path.abspath(folder)
    if not found.images:
        raise InputError(
            f"Expected images (.jpg, .png, … or others that Pillow reads) in the folder {folder}, "
            f"got {_others(found.left_out)}; {_advice(found.left_out)}."
        )
    return _listing(
        [os.path.join(root, file) for file in found.images],
        [_normal(file) for file in found.images],
        os.path.basename(root) or root,
        str(folder),
        found.left_out,
    )


def _from_glob(pattern: str) -> Listing:
    found = folders.list_glob(pattern)
    if not found.images:
        raise InputError(
            f"Expected images (.jpg, .png, … or others that Pillow reads) matching {pattern!r}, "
            f"got {found.left_out.total()} files, none of them an image; check the pattern "
            f"(the current folder is {os.getcwd()})."
        )
    # Names are relative to the part of the pattern before the first wildcard, so that they do not
    # change when more files match.
    root = folders.fixed_part(pattern) or "."
    return _listing(
        [os.path.abspath(path) for path in found.images],
        [_normal(os.path.relpath(path, root)) for path in found.images],
        os.path.basename(os.path.abspath(root)) or "images",
        pattern,
        found.left_out,
    )


def _in_words(left_out: Mapping[str, int]) -> str:
    """Returns the files that were left out in words, the most frequent first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {suffix}" for suffix, count in ordered)


def _others(left_out: Mapping[str, int]) -> str:
    n = sum(left_out.values())
    if not n:
        return "an empty folder"
    return f"{n} other file{'s' if n > 1 else ''} ({_in_words(left_out)})"


def _advice(left_out: Mapping[str, int]) -> str:
    if decode.HEIC & set(left_out):
        return decode.HEIC_ADVICE
    return "pass the folder that contains them"


def _listing(
    items: Sequence[StoredItem],
    ids: list[str],
    name: str,
    source: str,
    left_out: Mapping[str, int] | None = None,
) -> Listing:
    return Listing(items, _frame(items, _unique(ids)), name, source, Origin(left_out or {}))


def _frame(items: Sequence[StoredItem], ids: Sequence[str]) -> pd.DataFrame:
    paths = [item if isinstance(item, str) else None for item in items]
    # Names that are not UTF-8 have lone surrogates, which only columns of objects hold.
    return pd.DataFrame(
        {"id": pd.Series(list(ids), dtype=object), "path": pd.Series(paths, dtype=object)}
    )


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


def _kinds(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
