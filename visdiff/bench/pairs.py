"""A benchmark: pairs of image sets whose true difference is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from visdiff.errors import InputError

NULL = "null"
"""The split of pairs without a difference: all confirmed differences there are false."""


@dataclass(frozen=True)
class Pair:
    """Two sets of images and their true difference.

    Attributes:
        id: Its name in the benchmark, such as "easy/0"; the same in every layout of the data.
        split: "easy", "medium", "hard", "imagenet-r", "imagenet-star", "null" or another.
        a: Description of set A.
        b: Description of set B.
        difference: Description of the difference; may be empty.
        images_a: Absolute paths of the existing files of set A.
        images_b: Absolute paths of the existing files of set B.
        missing: Names of missing images (or folders), as in the benchmark.
    """

    id: str
    split: str
    a: str
    b: str
    difference: str
    images_a: tuple[Path, ...]
    images_b: tuple[Path, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """Pairs in a fixed order.

    Attributes:
        name: "VisDiffBench", "MiniDiffBench" or another.
        pairs: The pairs; ids are unique.
        notes: Notes on the data for the user: corrections and omitted groups.
    """

    name: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ids = [pair.id for pair in self.pairs]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise InputError(f"Expected distinct pairs in {self.name}, got {repeated[0]!r} twice.")

    @property
    def splits(self) -> dict[str, int]:
        """The number of pairs by split, in the order of first appearance."""
        counts: dict[str, int] = {}
        for pair in self.pairs:
            counts[pair.split] = counts.get(pair.split, 0) + 1
        return counts

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the missing images and folders of all pairs, each once."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair.missing))

    def only(self, splits: Sequence[str] | None = None, limit: int | None = None) -> "Benchmark":
        """Returns a part of the benchmark: some splits, at most the first `limit` pairs of each.

        Raises:
            InputError: A split does not exist, or the limit is below 1.
        """
        known = self.splits
        for split in splits or ():
            if split not in known:
                raise InputError(
                    f"Expected a split of {self.name} ({', '.join(known)}), got {split!r}."
                )
        if limit is not None and limit < 1:
            raise InputError(f"Expected a limit of 1 pair or more a split, got {limit}.")
        taken: dict[str, int] = {}
        kept = []
        for pair in self.pairs:
            taken[pair.split] = taken.get(pair.split, 0) + 1
            wanted = not splits or pair.split in splits
            if wanted and (limit is None or taken[pair.split] <= limit):
                kept.append(pair)
        return replace(self, pairs=tuple(kept))
