"""Locating a benchmark's images: folder names have two forms, and there are several possible roots.

A set of VisDiffBench is a folder ``<split>/<i>_1`` or ``<i>_2`` in the released jsonl (i is its
line, from 0) and ``<split>/<n>_a`` or ``<n>_b`` in the repository's CSV. The form and the root are
determined per set, as those with most of its images.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from visdiff.imageset import decode

_SET = re.compile(r"(?P<split>[^/]+)/(?P<number>[0-9]+)_(?P<side>[ab12])(?:/(?P<file>.+))?")


@dataclass(frozen=True)
class Located:
    """The images of one set.

    Attributes:
        found: Absolute paths of the existing files, in the benchmark's order.
        missing: Names of the missing files, as in the benchmark.
    """

    found: tuple[Path, ...]
    missing: tuple[str, ...]


@dataclass
class Finder:
    """Finds images below several roots; every folder is listed once.

    Attributes:
        roots: Folders that names may be relative to, the most likely first.
    """

    roots: Sequence[Path]
    _names: dict[Path, frozenset[str]] = field(default_factory=dict)

    def locate(self, names: Sequence[str], folders: Iterable[str] = ()) -> Located:
        """Finds the images of one set.

        Args:
            names: Names in the benchmark: ``easy/0_1/000001.jpg``, ``./data/VisDiffBench/…``. All
                images are taken from the place that has most of them.
            folders: Other folders that may contain these files, such as ``easy/1_a``.
        """
        paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
        best: list[Path | None] = [None] * len(names)
        most = 0
        for root in self.roots:
            for candidates in self._candidate_paths(paths, folders):
                found = [self._file(root, path) for path in candidates]
                count = sum(path is not None for path in found)
                if count > most:
                    best, most = found, count
                if count == len(names):
                    break
        return Located(
            tuple(path for path in best if path is not None),
            tuple(name for name, path in zip(names, best, strict=True) if path is None),
        )

    def exists(self, folder: str) -> bool:
        """Returns whether a folder with at least one file exists below any root."""
        return any(self._file_names(root / folder) for root in self.roots)

    def list_folder(self, folders: Sequence[str]) -> Located:
        """Finds the images of a set for which only the folder is known.

        Gaps in the numbers of files that are numbered from 1 (``000001.jpg``) count as missing
        files. If no folder has an image, the first folder counts as missing.
        """
        for root in self.roots:
            for folder in folders:
                names = sorted(
                    name
                    for name in self._file_names(root / folder)
                    if os.path.splitext(name)[1].lower() in decode.suffixes()
                )
                if names:
                    found = tuple(root / folder / name for name in names)
                    return Located(found, tuple(f"{folder}/{g}" for g in _gaps(names)))
        return Located((), (f"{folders[0]}/ (the whole folder)",))

    @staticmethod
    def _candidate_paths(
        paths: Sequence[PurePosixPath], folders: Iterable[str]
    ) -> list[list[PurePosixPath]]:
        # The path as written, then without leading folders, which may not exist on this disk.
        depth = min((len(path.parts) for path in paths), default=0)
        candidates = [list(paths)]
        # Split, set and file are kept: "1_a" alone is a set in every split.
        for start in range(1, depth - 2):
            candidates.append([PurePosixPath(*path.parts[start:]) for path in paths])
        candidates += [[PurePosixPath(folder) / path.name for path in paths] for folder in folders]
        return candidates

    def _file(self, root: Path, path: PurePosixPath) -> Path | None:
        file = root / path
        return file if file.name in self._file_names(file.parent) else None

    def _file_names(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    names = frozenset(entry.name for entry in entries if entry.is_file())
            except OSError:
                names = frozenset()
            self._names[folder] = names
        return self._names[folder]


@dataclass(frozen=True)
class SetName:
    """The parts of a set's folder: ``medium/17_a`` is split "medium", number 17, side "a"."""

    split: str
    number: int
    side: str

    @classmethod
    def of(cls, path: str) -> "SetName | None":
        """Parses the folder in an image's path; returns None if it has another form."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        found = _SET.fullmatch("/".join(parts[-3:])) if len(parts) >= 3 else None
        if found is None or found["file"] is None:
            return None
        return cls(found["split"], int(found["number"]), found["side"])

    @property
    def first(self) -> bool:
        """Whether the set is set A of its pair ("a" or "1")."""
        return self.side in "a1"


def lettered_folder(split: str, line: int, first: bool, base: int) -> str:
    """Returns the name of a set's folder with a letter, for numbers that start at `base`."""
    return f"{split}/{line + base}_{'a' if first else 'b'}"


def _gaps(names: Sequence[str]) -> list[str]:
    stems = [os.path.splitext(name) for name in names]
    if not all(stem.isdecimal() for stem, _ in stems):
        return []
    existing = {int(stem) for stem, _ in stems}
    width, suffix = len(stems[0][0]), stems[0][1]
    return [f"{i:0{width}d}{suffix}" for i in range(1, max(existing)) if i not in existing]
