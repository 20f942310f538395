"""A set of images: names, lazily opened pixels and a table of what is known about each.

Opening a set lists files and reads a table; it decodes nothing. Tens of thousands of images cost a
few megabytes until their pixels are asked for, one at a time.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import decode, manifest, sources

Item = str | os.PathLike[str] | Image.Image

# Part of every half: another salt cuts every set anew. Never change it.
_SPLIT_SALT = "visdiff-split-v1\x1f"
_KEY_SEPARATOR = "\x1f"


class ImageSet:
    """An immutable, ordered set of images; made by `ImageSet.open`.

    The files themselves are not copied: an image that is overwritten after the set was opened is
    read, and hashed, as it is then.

    Attributes:
        name: What to call the set in a report.
        ids: One unique name an image: its path relative to the folder, as written in the manifest
            or list, or "image-0001" for a Pillow image. Stable when images are added, except that a
            path listed more than once gets "#2", "#3", … in order.
        source: Where the images come from, for people.
        where: The filter that was applied, as text.
    """

    def __init__(
        self,
        items: Sequence[str | Image.Image],
        frame: pd.DataFrame,
        *,
        name: str,
        source: str,
        where: Mapping[str, str],
        digests: dict[str, tuple[tuple[int, int] | None, str]],
    ) -> None:
        """Use `ImageSet.open`."""
        self._items = tuple(items)
        self._frame = frame
        self._digests = digests
        self.name = name
        self.source = source
        self.where = dict(where)
        self.ids: tuple[str, ...] = tuple(frame["id"].tolist())

    @classmethod
    def open(
        cls,
        source: "str | os.PathLike[str] | Sequence[Item] | pd.DataFrame | ImageSet",
        where: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> "ImageSet":
        """Open a set of images, without decoding any.

        Args:
            source: One of

                - a folder: every png, jpg, jpeg, webp, gif, bmp, tif, tiff and ppm in it and below,
                  sorted by path, hidden files left out;
                - a glob string such as ``"photos/**/*_left.png"``, sorted;
                - one image file;
                - a manifest (.csv, .tsv, .parquet, .jsonl; UTF-8) with a column ``path``, absolute
                  or relative to the manifest's folder. When the files are not there, the current
                  folder and then the folder above the manifest are tried, which is how original
                  VisDiff CSVs (``path``, ``group_name``; paths like ``./data/…``) open unchanged;
                  one folder serves all rows. A column ``id``, if any, must be unique;
                - a list of paths, Pillow images, or both;
                - a data frame with a column ``path``, relative to the current folder;
                - another `ImageSet`.
            where: Wanted value by column; a list means any of them. Values compare as text and as
                numbers, so that 7 finds "7" and "007".
            name: What to call the set; by default the values of `where`, or the name of the folder
                or file.

        Raises:
            InputError: There is no such folder or file, it holds no image, has no column ``path``,
                or no row matches `where`.
        """
        where = dict(where or {})
        if isinstance(source, ImageSet):
            opened = source
        elif isinstance(source, pd.DataFrame):
            opened = cls._listed(sources.from_table(source, Path.cwd(), "images", "the data frame"))
        elif isinstance(source, (str, os.PathLike)):
            opened = cls._listed(sources.from_path(os.fspath(source)))
        elif isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
            opened = cls._listed(sources.from_items(source))
        else:
            raise InputError(
                f"expected a folder, glob, manifest, list of paths or Pillow images, or ImageSet, "
                f"got {type(source).__name__}: give one of these."
            )
        kept = manifest.select(opened._frame, where, opened.source)
        wanted = {column: _wanted(value) for column, value in where.items()}
        return opened._take(
            kept,
            name=name or " ".join(wanted.values()) or opened.name,
            where={**opened.where, **wanted},
        )

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images from {self.source})"

    def __iter__(self) -> Iterator[Image.Image]:
        """Go through the images as `image` gives them."""
        return (self.image(index) for index in range(len(self)))

    @property
    def frame(self) -> pd.DataFrame:
        """One row an image, in order: ``id``, ``path`` (None without a file), and the metadata.

        A copy; changing it does not change the set.
        """
        return self._frame.copy(deep=False)

    def path(self, index: int) -> Path | None:
        """Return where an image's file lies, or None for a Pillow image."""
        item = self._items[index]
        return Path(item) if isinstance(item, str) else None

    def image(self, index: int) -> Image.Image:
        """Decode an image: a new RGB image, upright (EXIF), transparency on white.

        Raises:
            UnreadableImageError: It is missing, truncated, no image, or far too large.
        """
        return decode.to_rgb(self.raw(index)[1], self._label(index))

    def raw(self, index: int) -> tuple[bytes | None, Image.Image]:
        """Read an image as it is stored.

        Returns:
            The file's bytes (None for a Pillow image) and the loaded image, unconverted, with its
            ``format`` and ``info``.

        Raises:
            UnreadableImageError: As for `image`.
        """
        item = self._items[index]
        if isinstance(item, Image.Image):
            return None, item
        try:
            with open(item, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except (OSError, ValueError) as error:
            raise self._no_file(index, error) from error
        # The bytes are at hand: whoever asks for the digest next need not read them again.
        self._remember(index, (status.st_mtime_ns, status.st_size), data)
        return data, decode.decode(data, item)

    def digest(self, index: int) -> str:
        """Return the SHA-256 of an image's file; read once as long as the file does not change.

        For a Pillow image, of the mode, size and pixels that `image` gives.

        Returns:
            64 hexadecimal characters. Files with the same bytes have the same digest, whatever
            their names; a damaged file has one too.

        Raises:
            UnreadableImageError: The file is missing or may not be read.
        """
        item = self._items[index]
        known = self._digests.get(self.ids[index])
        if isinstance(item, Image.Image):
            if known is None:
                image = self.image(index)
                head = f"{image.mode} {image.width} {image.height}\n".encode()
                known = self._remember(index, None, head + image.tobytes())
            return known[1]
        try:
            status = os.stat(item)
            state = (status.st_mtime_ns, status.st_size)
            if known is None or known[0] != state:
                with open(item, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                known = self._digests[self.ids[index]] = (state, digest)
        except (OSError, ValueError) as error:
            raise self._no_file(index, error) from error
        return known[1]

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """Return the images at the given positions, in the given order.

        Args:
            indices: Distinct positions from 0 to n-1, or a boolean array of length n.

        Raises:
            InputError: A position is out of range or occurs twice.
        """
        positions = np.asarray(indices)
        if positions.dtype == bool and positions.shape == (len(self),):
            positions = np.flatnonzero(positions)
        positions = positions.astype(int) if positions.size == 0 else positions
        if positions.ndim != 1 or not np.issubdtype(positions.dtype, np.integer):
            raise InputError(
                f"expected a flat list of positions or a boolean array of length {len(self)}, got "
                f"{positions.dtype} of shape {positions.shape}: give whole numbers."
            )
        if positions.size and (positions.min() < 0 or positions.max() >= len(self)):
            raise InputError(
                f"expected positions from 0 to {len(self) - 1}, got {positions.min()} to "
                f"{positions.max()}: give positions within the set."
            )
        if len(np.unique(positions)) != len(positions):
            raise InputError(
                "expected distinct positions, got some twice: an image is in a set once."
            )
        return self._take(positions, name=self.name, where=self.where)

    def renamed(self, name: str) -> "ImageSet":
        """Returns the same images under another name."""
        return self._take(np.arange(len(self)), name=name, where=self.where)

    def joined(self, other: "ImageSet") -> "ImageSet":
        """Return this set's images, then another's, as one set.

        Ids stay as they are, except that one that both sets have gets "#2", "#3", … in the other's
        part. What is known of the images' digests is kept.

        Args:
            other: The images that follow; it may have other columns.
        """
        ids, digests, taken = [*self.ids], dict(self._digests), set(self.ids)
        for name in other.ids:
            fresh, number = name, 1
            while fresh in taken:
                number += 1
                fresh = f"{name}#{number}"
            taken.add(fresh)
            ids.append(fresh)
            if name in other._digests:
                digests[fresh] = other._digests[name]
        frame = pd.concat([self._frame, other._frame], ignore_index=True)
        frame["id"] = ids
        return ImageSet(
            [*self._items, *other._items],
            frame,
            name=f"{self.name} and {other.name}",
            source=f"{self.source} and {other.source}",
            where={},
            digests=digests,
        )

    def split(
        self, fraction: float, key: Sequence[str] | None = None
    ) -> "tuple[ImageSet, ImageSet]":
        """Cut the set in two, by content.

        An image goes to the first part iff the SHA-256 of its digest (or of its values in the key
        columns), read as a number in [0, 1), is below `fraction`. So its part does not depend on
        the other images, on their order or on a seed, and exact duplicates fall in the same part,
        within a set and across sets.

        Args:
            fraction: Expected share of the first part, in [0, 1].
            key: Columns that name a pair or group, such as ``["prompt", "seed"]``; rows that agree
                in all of them stay together.

        Returns:
            The first and the second part, each in the order of the set; one may be empty.

        Raises:
            InputError: The fraction is outside [0, 1] or a column is unknown.
        """
        if not 0 <= fraction <= 1:
            raise InputError(
                f"expected a fraction from 0 to 1, got {fraction}: give the first part's share."
            )
        if key is not None:
            if isinstance(key, str) or not key:
                raise InputError(
                    f"expected a list of column names to split by, got {key!r}: "
                    f'write for example ["prompt", "seed"].'
                )
            manifest.check_columns(self._frame, list(key), self.source)
            columns = [self._frame[column].map(manifest.text).tolist() for column in key]
            names = [_KEY_SEPARATOR.join(row) for row in zip(*columns, strict=True)]
        else:
            names = [self._digest_or_id(index) for index in range(len(self))]
        first = np.array([_in_first(name, fraction) for name in names], dtype=bool)
        return self.subset(np.flatnonzero(first)), self.subset(np.flatnonzero(~first))

    def sample(self, n: int, rng: np.random.Generator) -> "ImageSet":
        """Return `n` images drawn without replacement, or all, in the order of the set.

        Raises:
            InputError: `n` is below 1.
        """
        if n < 1:
            raise InputError(
                f"expected a sample of at least 1 image, got {n}: give a larger number."
            )
        if n >= len(self):
            return self
        return self.subset(np.sort(rng.choice(len(self), size=n, replace=False)))

    @classmethod
    def _listed(cls, listing: sources.Listing) -> "ImageSet":
        return cls(
            listing.items,
            listing.frame,
            name=listing.name,
            source=listing.source,
            where={},
            digests={},
        )

    def _take(self, positions: np.ndarray, *, name: str, where: Mapping[str, str]) -> "ImageSet":
        return ImageSet(
            [self._items[position] for position in positions.tolist()],
            self._frame.iloc[positions].reset_index(drop=True),
            name=name,
            source=self.source,
            where=where,
            digests=self._digests,
        )

    def _remember(
        self, index: int, state: tuple[int, int] | None, data: bytes
    ) -> tuple[tuple[int, int] | None, str]:
        known = self._digests.get(self.ids[index])
        if known is None or known[0] != state:
            known = self._digests[self.ids[index]] = (state, hashlib.sha256(data).hexdigest())
        return known

    def _digest_or_id(self, index: int) -> str:
        try:
            return self.digest(index)
        except UnreadableImageError:
            # It will never be scored; it only must not stop the others from being split.
            return f"unreadable {self.ids[index]}"

    def _label(self, index: int) -> str:
        item = self._items[index]
        return item if isinstance(item, str) else f"{self.ids[index]} of {self.name}"

    def _no_file(self, index: int, error: Exception) -> UnreadableImageError:
        missing = isinstance(error, FileNotFoundError)
        reason = "no file there" if missing else f"a file that cannot be read ({error})"
        return decode.unreadable(self._label(index), reason)


def _in_first(name: str, fraction: float) -> bool:
    digest = hashlib.sha256((_SPLIT_SALT + name).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest) < fraction * 2**256


def _wanted(value: Any) -> str:
    """Write a condition's value for people: the name of a set, the card in a report."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return " or ".join(_wanted(item) for item in value)
    return manifest.text(value) or "(missing)"
