"""The split of both sets into a discovery half, for proposing, and a scoring half, for testing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, columns, manifest


@dataclass(frozen=True)
class Halves:
    """The discovery half and the scoring half of both sets.

    Attributes:
        discovery_a: Images of A that hypotheses come from.
        discovery_b: Images of B that hypotheses come from.
        scoring_a: Images of A that all statistics are computed on.
        scoring_b: Images of B; if paired, image i of ``scoring_b`` is the partner of image i of
            ``scoring_a``, and likewise in discovery.
        double_dipped: Whether there are too few images for two halves, so that both halves hold
            all images.
        groups: (n_scoring,) prompt of each scored pair, for the bootstrap; None if unpaired.
    """

    discovery_a: ImageSet
    discovery_b: ImageSet
    scoring_a: ImageSet
    scoring_b: ImageSet
    double_dipped: bool
    groups: np.ndarray | None = None

    @property
    def scoring_is_a(self) -> np.ndarray:
        """(n_a + n_b,) bool over the scored images, those of A first."""
        return _membership(self.scoring_a, self.scoring_b)


@dataclass(frozen=True)
class SplitPair:
    """Two sets and their halves.

    Attributes:
        set_a: Set A, before pairing.
        set_b: Set B, before pairing.
        halves: The halves of both sets.
        n_unpaired: Number of images left out because they have no partner.
    """

    set_a: ImageSet
    set_b: ImageSet
    halves: Halves
    n_unpaired: int = 0

    def without(
        self,
        unreadable_a: Sequence[tuple[str, str]],
        unreadable_b: Sequence[tuple[str, str]],
        config: Config,
    ) -> "SplitPair":
        """Returns the pair without some images (id and reason), paired and split again."""
        if not unreadable_a and not unreadable_b:
            return self
        return split_pair(
            without(self.set_a, unreadable_a), without(self.set_b, unreadable_b), config
        )


def split_pair(a: ImageSet, b: ImageSet, config: Config) -> SplitPair:
    """Pairs both sets if ``config.paired_by`` is set, and splits them; decodes no image.

    Raises:
        InputError: A column is missing, a key occurs twice in one set, or there is no pair.
    """
    paired_a, paired_b, n_unpaired = a, b, 0
    if config.paired_by:
        paired_a, paired_b, n_unpaired = pair_up(
            a.with_columns(columns.usual_columns(a.frame, config.paired_by)),
            b.with_columns(columns.usual_columns(b.frame, config.paired_by)),
            config.paired_by,
        )
    halves = split(
        paired_a,
        paired_b,
        fraction=config.statistics.discovery_fraction,
        min_scored=config.statistics.min_scored,
        paired_by=config.paired_by,
    )
    return SplitPair(a, b, halves, n_unpaired)


def check_sizes(
    a: ImageSet,
    b: ImageSet,
    unreadable_a: Sequence[tuple[str, str]] = (),
    unreadable_b: Sequence[tuple[str, str]] = (),
) -> None:
    """Checks that both sets have enough images for a comparison.

    Args:
        a: Set A.
        b: Set B.
        unreadable_a: Id and reason of each image that was left out of A.
        unreadable_b: The same for B.

    Raises:
        InputError: A set has fewer than two images. The message has the reason of the first
            unreadable image, and the folders that were tried.
    """
    for images, which, unreadable in ((a, "A", unreadable_a), (b, "B", unreadable_b)):
        if len(images) < 2:
            text = (
                f"Expected at least 2 readable images in set {which} ({images.source}), got "
                f"{len(images)}"
            )
            if not unreadable:
                raise InputError(f"{text}; provide more images.")
            reason = unreadable[0][1].removeprefix("Expected a readable image at ")
            text += f" and {len(unreadable)} unreadable, the first {reason.partition(';')[0]}"
            if images.tried:
                raise InputError(
                    f"{text} (tried the folders {', '.join(images.tried)}); name the folder of "
                    "the images with --root."
                )
            raise InputError(f"{text}; repair or replace them.")


def open_pair(
    a: Any,
    b: Any,
    where_a: Mapping[str, Any] | None = None,
    where_b: Mapping[str, Any] | None = None,
    name_a: str | None = None,
    name_b: str | None = None,
    root: Path | None = None,
    path_column: str | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Opens both sets and gives them distinct names.

    Two files of the same name (``A/manifest.csv`` and ``B/manifest.csv``) are named by their
    folders.

    Args:
        a: Set A, as for `visdiff.imageset.ImageSet.open`.
        b: Set B.
        where_a: Filter on the manifest's columns for A.
        where_b: The same for B.
        name_a: Name of A.
        name_b: Name of B.
        root: Folder that the paths of manifests are tried in first.
        path_column: Column of manifests that holds the files.

    Raises:
        InputError: A source, column or group does not exist, or a set is empty.
    """
    set_a = ImageSet.open(a, where_a, name=name_a, root=root, path_column=path_column)
    set_b = ImageSet.open(b, where_b, name=name_b, root=root, path_column=path_column)
    if set_a.name == set_b.name:
        folders = [Path(s.source).parent.name for s in (set_a, set_b)]
        if "" in folders or folders[0] == folders[1]:
            folders = [f"{set_a.name} (A)", f"{set_b.name} (B)"]
        set_a, set_b = set_a.renamed(folders[0]), set_b.renamed(folders[1])
    return set_a, set_b


def split(
    a: ImageSet, b: ImageSet, *, fraction: float, min_scored: int, paired_by: Sequence[str] = ()
) -> Halves:
    """Splits both sets by content hash (by pair key if paired), so that duplicates stay together.

    Args:
        a: Set A; if paired, already aligned with ``b`` by :func:`pair_up`.
        b: Set B.
        fraction: Fraction of the images for discovery.
        min_scored: Minimum number of scored images per set; with fewer, all images are used in both
            halves.
        paired_by: Columns of the pair key.
    """
    key = list(paired_by) or None
    discovery_a, scoring_a = a.split(fraction, key=key)
    discovery_b, scoring_b = b.split(fraction, key=key)
    too_few = min(len(scoring_a), len(scoring_b)) < min_scored
    if too_few or min(len(discovery_a), len(discovery_b)) < 1:
        discovery_a, discovery_b, scoring_a, scoring_b, too_few = a, b, a, b, True
    groups = None
    if paired_by:
        # The bootstrap resamples prompts, because images of one prompt are not independent.
        groups = scoring_a.frame[paired_by[0]].map(manifest.text).to_numpy(dtype=str)
    return Halves(discovery_a, discovery_b, scoring_a, scoring_b, too_few, groups)


def pair_up(a: ImageSet, b: ImageSet, paired_by: Sequence[str]) -> tuple[ImageSet, ImageSet, int]:
    """Selects the images that have a partner and moves partners to equal positions.

    Args:
        a: Set A, with the key's columns in its frame.
        b: Set B.
        paired_by: Columns whose values together identify a pair, such as ``("prompt", "seed")``.

    Returns:
        Both sets, aligned, and the number of images left out because they have no partner.

    Raises:
        InputError: A column is missing, a key occurs twice in one set, or there is no pair.
    """
    places = []
    for images in (a, b):
        missing = [c for c in paired_by if c not in images.frame.columns]
        if missing:
            raise InputError(
                f"Expected the columns {', '.join(paired_by)} in {images.name} to pair the sets "
                f"by, got {', '.join(map(str, images.frame.columns))}; add "
                f"{', '.join(missing)} to the manifest."
            )
        # As text, as in the split: 7 in one manifest matches 7.0 in the other.
        values = [images.frame[c].map(manifest.text).tolist() for c in paired_by]
        keys = list(zip(*values, strict=True))
        place = {key: i for i, key in enumerate(keys)}
        if len(place) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(
                f"Expected each ({', '.join(paired_by)}) once in {images.name}, got {twice} more "
                "than once; add a column to the key, such as the seed."
            )
        places.append(place)
    in_a, in_b = places
    shared = [key for key in in_a if key in in_b]
    if not shared:
        raise InputError(
            f"Expected {a.name} and {b.name} to share values of ({', '.join(paired_by)}), got "
            "none in common; check that both manifests spell prompts and seeds in the same way."
        )
    left_out = len(in_a) + len(in_b) - 2 * len(shared)
    return a.subset([in_a[k] for k in shared]), b.subset([in_b[k] for k in shared]), left_out


def without(images: ImageSet, unreadable: Sequence[tuple[str, str]]) -> ImageSet:
    """Returns a set without some images (id and reason)."""
    left_out = {name for name, _ in unreadable}
    return images.subset([i for i, name in enumerate(images.ids) if name not in left_out])


def _membership(a: ImageSet, b: ImageSet) -> np.ndarray:
    return np.arange(len(a) + len(b)) < len(a)
