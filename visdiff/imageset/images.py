"""The set of images, and the sets that are made of it."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from visdiff.errors import InputError, UnreadableImageError
from visdiff.files import open_regular, read_rest, read_whole
from visdiff.imageset import decode, manifest, selection, sources

Item = str | os.PathLike[str] | Image.Image


class ImageSet:
    """An immutable, ordered set of images, created by `ImageSet.open`.

    Files are not copied: when a file is overwritten after the set was opened, the new content is
    read and hashed.

    Attributes:
        name: Name of the set in a report.
        ids: One unique name per image: its path relative to the folder, its path as written in the
            manifest or list, or "image-0001" for a Pillow image. Ids do not change when images are
            added, except that a path listed more than once gets "#2", "#3", … in order.
        source: Where the images come from, as text for a report.
        where: The filter that was applied, as text.
        left_out: Suffix → number of files of the folder or glob that are no images.
        tried: Folders that were tried, if the files of a manifest are in none of them.
    """

    def __init__(
        self,
        items: Sequence[sources.StoredItem],
        frame: pd.DataFrame,
        *,
        name: str,
        source: str,
        where: Mapping[str, str],
        digests: dict[str, tuple[tuple[int, int] | None, str]],
        origin: sources.Origin,
    ) -> None:
        """Uses `ImageSet.open`."""
        self._items = tuple(items)
        self._frame = frame
        self._digests = digests
        self.name = name
        self.source = source
        self.where = dict(where)
        self._origin = origin
        self.left_out = dict(origin.left_out)
        self.tried = origin.tried
        self.ids: tuple[str, ...] = tuple(frame["id"].tolist())

    @classmethod
    def open(
        cls,
        source: "str | os.PathLike[str] | Sequence[Item] | pd.DataFrame | ImageSet",
        where: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        path_column: str | None = None,
    ) -> "ImageSet":
        """Opens a set of images, without decoding any.

        Args:
            source: One of

                - a folder: every image in it and its subfolders that Pillow reads (JPEG, PNG, WebP,
                  AVIF, GIF, TIFF, …; HEIC with pillow-heif), sorted by path, without hidden files.
                  Files without a suffix are recognised by their first bytes; other files are
                  counted in `left_out`;
                - a glob string such as ``"photos/**/*_left.png"``, sorted;
                - one image file;
                - a manifest (.csv, .tsv, .parquet, .jsonl) with a column ``path``, ``file_name``
                  or another of `visdiff.imageset.columns.PATH`, absolute or relative to the
                  manifest's folder. When the files are not there, other folders and shortened
                  paths are tried (`visdiff.imageset.locate`), so that original VisDiff CSVs
                  (``path``, ``group_name``; paths like ``./data/…``) and manifests of another
                  machine open unchanged. The same rule is used for all rows. In Parquet the column
                  may hold the bytes of the files. A column ``id``, if any, must be unique;
                - a list of paths, Pillow images, or both;
                - a data frame with a column ``path``, relative to the current folder;
                - another `ImageSet`.
            where: Required value by column; a list means any of its values. Values are compared as
                text and as numbers, so 7 matches "7" and "007".
            name: Name of the set; by default the values of `where`, or the name of the folder or
                file.
            root: Folder that the paths of a manifest are tried in first.
            path_column: Column of a manifest that holds the files.

        Raises:
            InputError: The source does not exist, contains no image, has no column of files, or no
                row matches `where`.
        """
        where = dict(where or {})
        if root is not None and not Path(root).is_dir():
            raise InputError(
                f"Expected the folder of the images as root, got {os.fspath(root)}, which is none; "
                "check the path."
            )
        options = sources.TableOptions(None if root is None else Path(root), path_column)
        if isinstance(source, ImageSet):
            opened = source
        elif isinstance(source, pd.DataFrame):
            table = sources.from_table(source, Path.cwd(), "images", "the data frame", options)
            opened = cls._from_listing(table)
        elif isinstance(source, (str, os.PathLike)):
            opened = cls._from_listing(sources.from_path(os.fspath(source), options))
        elif isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
            opened = cls._from_listing(sources.from_items(source))
        else:
            raise InputError(
                f"Expected a folder, glob, manifest, list of paths or Pillow images, or ImageSet, "
                f"got {type(source).__name__}; pass one of these."
            )
        rows = manifest.select(opened._frame, where, opened.source)
        conditions = {column: _condition_text(value) for column, value in where.items()}
        return opened._select(
            rows,
            name=name or " ".join(conditions.values()) or opened.name,
            where={**opened.where, **conditions},
        )

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images from {self.source})"

    def __iter__(self) -> Iterator[Image.Image]:
        """Iterates over the decoded images, as returned by `image`."""
        return (self.image(index) for index in range(len(self)))

    @property
    def frame(self) -> pd.DataFrame:
        """One row per image, in order: ``id``, ``path`` (None without a file) and the metadata.

        This is a copy; changing it does not change the set.
        """
        return self._frame.copy(deep=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about files that were left out and about how the others were found."""
        return self._origin.sentences(self.source)

    def path(self, index: int) -> Path | None:
        """Returns the path of an image's file, or None for an image in memory."""
        item = self._items[index]
        return Path(item) if isinstance(item, str) else None

    def image(self, index: int) -> Image.Image:
        """Decodes an image to RGB, upright (EXIF), with transparency composited on white.

        Raises:
            UnreadableImageError: The file is missing, truncated, not an image, or far too large.
        """
        return decode.to_rgb(self.raw(index)[1], self._label(index))

    def image_of(self, index: int, digest: str) -> Image.Image:
        """Decodes an image as `image` does, if its `digest` is still the given one.

        Values are cached by digest: that of a file that was overwritten since it was hashed would
        otherwise be taken for the value of the old one.

        Raises:
            UnreadableImageError: As for `image`, or the content has changed.
        """
        image = self.image(index)
        if self.digest(index) != digest:
            reason = "a file that has changed during the run"
            raise decode.unreadable_error(self._label(index), reason, "run again")
        return image

    def raw(self, index: int) -> tuple[bytes | None, Image.Image]:
        """Reads an image as it is stored, without conversion.

        Returns:
            The bytes of the file, or those in a Parquet table (None for a Pillow image), and the
            loaded image with its ``format`` and ``info``.

        Raises:
            UnreadableImageError: As for `image`.
        """
        item = self._items[index]
        if isinstance(item, Image.Image):
            return None, item
        if isinstance(item, bytes):
            return item, decode.decode(item, self._label(index))
        try:
            with open_regular(item) as file:
                status = os.fstat(file.fileno())
                data = read_rest(file)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise self._file_error(index, error) from error
        # Hashing the bytes now saves reading the file again in `digest`.
        self._store_digest(index, (status.st_mtime_ns, status.st_size), data)
        return data, decode.decode(data, item)

    def digest(self, index: int) -> str:
        """Returns the SHA-256 of an image's file, cached until the file changes.

        For bytes in a table it is their SHA-256. For a Pillow image, the mode, size and pixels of
        `image` are hashed.

        Returns:
            64 hexadecimal characters. They depend on the file's bytes only, not on its name, and
            are defined for damaged files too.

        Raises:
            UnreadableImageError: The file is missing or cannot be read.
        """
        item = self._items[index]
        known = self._digests.get(self.ids[index])
        if isinstance(item, Image.Image):
            if known is None:
                image = self.image(index)
                head = f"{image.mode} {image.width} {image.height}\n".encode()
                known = self._store_digest(index, None, head + image.tobytes())
            return known[1]
        if isinstance(item, bytes):
            return (known or self._store_digest(index, None, item))[1]
        try:
            status = os.stat(item)
            state = (status.st_mtime_ns, status.st_size)
            if known is None or known[0] != state:
                digest = hashlib.sha256(read_whole(item)).hexdigest()
                known = self._digests[self.ids[index]] = (state, digest)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise self._file_error(index, error) from error
        return known[1]

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """Returns the images at the given positions, in the given order.

        Args:
            indices: Distinct positions from 0 to n-1, or a boolean array of length n.

        Raises:
            InputError: A position is out of range or occurs twice.
        """
        positions = selection.positions(indices, len(self))
        return self._select(positions, name=self.name, where=self.where)

    def renamed(self, name: str) -> "ImageSet":
        """Returns the same images under another name."""
        return self._select(np.arange(len(self)), name=name, where=self.where)

    def with_columns(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> "ImageSet":
        """Returns the same images, with columns of the frame added or replaced.

        Args:
            columns: Name → n values.
        """
        frame = self._frame.copy()
        for name, values in columns.items():
            # Only columns of objects hold names that are not UTF-8.
            kind = object if any(isinstance(value, str) for value in values) else None
            frame[name] = pd.Series(list(values), dtype=kind)
        return self._with(self._items, frame, name=self.name, where=self.where)

    def joined(self, other: "ImageSet") -> "ImageSet":
        """Returns the concatenation of this set and another.

        Ids do not change, except that an id that both sets have gets "#2", "#3", … in the second
        part. Cached digests are kept.

        Args:
            other: The second set; its columns may differ.
        """
        ids, taken = [*self.ids], set(self.ids)
        # Subsets share their digests: those of other images would be taken for those of `other`.
        digests = {name: self._digests[name] for name in self.ids if name in self._digests}
        for name in other.ids:
            unique, number = name, 1
            while unique in taken:
                number += 1
                unique = f"{name}#{number}"
            taken.add(unique)
            ids.append(unique)
            if name in other._digests:
                digests[unique] = other._digests[name]
        frame = pd.concat([self._frame, other._frame], ignore_index=True)
        frame["id"] = pd.Series(ids, dtype=object)
        return ImageSet(
            [*self._items, *other._items],
            frame,
            name=f"{self.name} and {other.name}",
            source=f"{self.source} and {other.source}",
            where={},
            digests=digests,
            origin=self._origin.joined(other._origin),
        )

    def content(self, index: int) -> str | None:
        """Returns the `digest` of an image, or None if its file cannot be read."""
        try:
            return self.digest(index)
        except UnreadableImageError:
            return None

    def split_numbers(self, key: Sequence[str] | None = None) -> list[int]:
        """Returns a number per image, below 2**256, that determines its place in every split.

        It is the SHA-256 of the image's digest, or of its values in the key columns. Copies have
        equal numbers, in any set and any order.

        Args:
            key: Columns that identify a pair or group, such as ``["prompt", "seed"]``.

        Raises:
            InputError: A column is unknown.
        """
        if key is not None:
            names = selection.key_texts(self._frame, key, self.source)
        else:
            # An unreadable image is never scored, but must not prevent the split of the others.
            names = [self.content(i) or f"unreadable {name}" for i, name in enumerate(self.ids)]
        return [selection.number(name) for name in names]

    def split(
        self, fraction: float, key: Sequence[str] | None = None
    ) -> "tuple[ImageSet, ImageSet]":
        """Splits the set in two by the content of the images.

        An image is in the first part iff the SHA-256 of its digest (or of its values in the key
        columns), as a number in [0, 1), is below `fraction`. The assignment does not depend on the
        other images, on their order or on a seed, and exact duplicates are always in the same part,
        within a set and across sets.

        Args:
            fraction: Expected fraction of images in the first part, in [0, 1].
            key: Columns that identify a pair or group, such as ``["prompt", "seed"]``; rows with
                equal values in all of them are in the same part.

        Returns:
            The first and the second part, each in the order of the set; either may be empty.

        Raises:
            InputError: The fraction is outside [0, 1] or a column is unknown.
        """
        if not 0 <= fraction <= 1:
            raise InputError(
                f"Expected a fraction from 0 to 1, got {fraction}; pass the first part's share."
            )
        first = np.array([n < fraction * 2**256 for n in self.split_numbers(key)], dtype=bool)
        return self.subset(np.flatnonzero(first)), self.subset(np.flatnonzero(~first))

    def sample(self, n: int, rng: np.random.Generator) -> "ImageSet":
        """Returns `n` images sampled without replacement, or all, in the order of the set.

        Raises:
            InputError: `n` is below 1.
        """
        if n < 1:
            raise InputError(
                f"Expected a sample of at least 1 image, got {n}; pass a larger number."
            )
        if n >= len(self):
            return self
        return self.subset(np.sort(rng.choice(len(self), size=n, replace=False)))

    @classmethod
    def _from_listing(cls, listing: sources.Listing) -> "ImageSet":
        return cls(
            listing.items,
            listing.frame,
            name=listing.name,
            source=listing.source,
            where={},
            digests={},
            origin=listing.origin,
        )

    def _select(self, positions: np.ndarray, *, name: str, where: Mapping[str, str]) -> "ImageSet":
        items = [self._items[position] for position in positions.tolist()]
        frame = self._frame.iloc[positions].reset_index(drop=True)
        return self._with(items, frame, name=name, where=where)

    def _with(
        self,
        items: Sequence[sources.StoredItem],
        frame: pd.DataFrame,
        *,
        name: str,
        where: Mapping[str, str],
    ) -> "ImageSet":
        return ImageSet(
            items,
            frame,
            name=name,
            source=self.source,
            where=where,
            digests=self._digests,
            origin=self._origin,
        )

    def _store_digest(
        self, index: int, state: tuple[int, int] | None, data: bytes
    ) -> tuple[tuple[int, int] | None, str]:
        known = self._digests.get(self.ids[index])
        if known is None or known[0] != state:
            known = self._digests[self.ids[index]] = (state, hashlib.sha256(data).hexdigest())
        return known

    def _label(self, index: int) -> str:
        item = self._items[index]
        return item if isinstance(item, str) else f"{self.ids[index]} of {self.name}"

    def _file_error(self, index: int, error: Exception) -> UnreadableImageError:
        missing = isinstance(error, FileNotFoundError)
        why = getattr(error, "strerror", None) or error
        reason = "no file there" if missing else f"a file that cannot be read ({why})"
        return decode.unreadable_error(self._label(index), reason)


def _condition_text(value: Any) -> str:
    """Formats a condition's value for the set's name and the report."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return " or ".join(_condition_text(item) for item in value)
    return manifest.text(value) or "(missing)"
