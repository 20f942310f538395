"""Where a benchmark's images lie: two spellings of a folder's name, several possible roots.

A set of VisDiffBench is a folder ``<split>/<i>_1`` or ``<i>_2`` in the released jsonl (i is its
line, from 0) and ``<split>/<n>_a`` or ``<n>_b`` in the repository's CSV. Which of these is on disk,
and below which folder, is found out once a set, by where most of its images are.
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
        found: Files that exist, absolute, in the order in which they are named.
        missing: Names, as the benchmark has them, that are not there.
    """

    found: tuple[Path, ...]
    missing: tuple[str, ...]


@dataclass
class Finder:
    """Finds images below some roots; every folder is listed once.

    Attributes:
        roots: Folders that names may be relative to, the likeliest first.
    """

    roots: Sequence[Path]
    _names: dict[Path, frozenset[str]] = field(default_factory=dict)

    def locate(self, names: Sequence[str], folders: Iterable[str] = ()) -> Located:
        """Find the images of one set.

        Args:
            names: As the benchmark has them: ``easy/0_1/000001.jpg``, ``./data/VisDiffBench/…``.
                All are looked for in the place where most of them are.
            folders: Other folders that may hold these files, such as ``easy/1_a``.
        """
        paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
        best: list[Path | None] = [None] * len(names)
        most = 0
        for root in self.roots:
            for moved in self._spellings(paths, folders):
                found = [self._file(root, path) for path in moved]
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
        """Whether a folder is there with a file in it, below any root."""
        return any(self._inside(root / folder) for root in self.roots)

    def listing(self, folders: Sequence[str]) -> Located:
        """Find the images of a set of which only the folder is known.

        Files numbered from 1 (``000001.jpg``) with gaps between them count as missing; where no
        folder has an image, the first folder does.
        """
        for root in self.roots:
            for folder in folders:
                names = sorted(
                    name
                    for name in self._inside(root / folder)
                    if os.path.splitext(name)[1].lower() in decode.SUFFIXES
                )
                if names:
                    found = tuple(root / folder / name for name in names)
                    return Located(found, tuple(f"{folder}/{g}" for g in _gaps(names)))
        return Located((), (f"{folders[0]}/ (the whole folder)",))

    @staticmethod
    def _spellings(
        paths: Sequence[PurePosixPath], folders: Iterable[str]
    ) -> list[list[PurePosixPath]]:
        # As it is written, then without the leading folders that only the author's disk had.
        depth = min((len(path.parts) for path in paths), default=0)
        spelled = [list(paths)]
        # The split, the set and the file stay: "1_a" alone is a set of every split.
        for cut in range(1, depth - 2):
            spelled.append([PurePosixPath(*path.parts[cut:]) for path in paths])
        spelled += [[PurePosixPath(folder) / path.name for path in paths] for folder in folders]
        return spelled

    def _file(self, root: Path, path: PurePosixPath) -> Path | None:
        file = root / path
        return file if file.name in self._inside(file.parent) else None

    def _inside(self, folder: Path) -> frozenset[str]:
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
        """Read the folder in an image's path, or None when it is not named like that."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        found = _SET.fullmatch("/".join(parts[-3:])) if len(parts) >= 3 else None
        if found is None or found["file"] is None:
            return None
        return cls(found["split"], int(found["number"]), found["side"])

    @property
    def first(self) -> bool:
        """Whether it is set A of its pair ("a" or "1")."""
        return self.side in "a1"


def lettered(split: str, line: int, first: bool, base: int) -> str:
    """Name the lettered folder of a set, when their numbers start at `base`."""
    return f"{split}/{line + base}_{'a' if first else 'b'}"


def _gaps(names: Sequence[str]) -> list[str]:
    stems = [os.path.splitext(name) for name in names]
    if not all(stem.isdecimal() for stem, _ in stems):
        return []
    have = {int(stem) for stem, _ in stems}
    width, suffix = len(stems[0][0]), stems[0][1]
    return [f"{i:0{width}d}{suffix}" for i in range(1, max(have)) if i not in have]
