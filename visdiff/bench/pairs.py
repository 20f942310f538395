"""A benchmark: pairs of image sets whose true difference is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from visdiff.errors import InputError

NULL = "null"
"""The split of pairs that do not differ: whatever is confirmed there is false."""


@dataclass(frozen=True)
class Pair:
    """Two sets of images and what sets them apart.

    Attributes:
        id: Its name in the benchmark, such as "easy/0"; the same in every layout of the data.
        split: "easy", "medium", "hard", "imagenet-r", "imagenet-star", "null" or another.
        a: What set A shows, in words.
        b: What set B shows.
        difference: What differs, in words; may be empty.
        images_a: The files of set A that exist, absolute.
        images_b: Those of set B.
        missing: The images (or whole folders) that the benchmark names and that are not there, as
            it names them.
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
    """Pairs, in a fixed order.

    Attributes:
        name: "VisDiffBench", "MiniDiffBench" or another.
        pairs: The pairs; ids are unique.
        notes: What a user must know of the data: corrections made, groups left out.
    """

    name: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ids = [pair.id for pair in self.pairs]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise InputError(f"expected distinct pairs in {self.name}, got {twice[0]!r} twice.")

    @property
    def splits(self) -> dict[str, int]:
        """The number of pairs by split, in the order of first appearance."""
        counts: dict[str, int] = {}
        for pair in self.pairs:
            counts[pair.split] = counts.get(pair.split, 0) + 1
        return counts

    @property
    def missing(self) -> tuple[str, ...]:
        """Everything that is named and not there, over all pairs, each once."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair.missing))

    def only(self, splits: Sequence[str] | None = None, limit: int | None = None) -> "Benchmark":
        """Return a part: some splits, and of each at most the first `limit` pairs.

        Raises:
            InputError: There is no such split, or the limit is below 1.
        """
        known = self.splits
        for split in splits or ():
            if split not in known:
                raise InputError(
                    f"expected a split of {self.name} ({', '.join(known)}), got {split!r}."
                )
        if limit is not None and limit < 1:
            raise InputError(f"expected a limit of 1 pair or more a split, got {limit}.")
        taken: dict[str, int] = {}
        kept = []
        for pair in self.pairs:
            taken[pair.split] = taken.get(pair.split, 0) + 1
            wanted = not splits or pair.split in splits
            if wanted and (limit is None or taken[pair.split] <= limit):
                kept.append(pair)
        return replace(self, pairs=tuple(kept))
