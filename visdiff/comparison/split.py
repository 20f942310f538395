"""The split of both sets into a discovery half, for proposing, and a scoring half, for testing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visdiff.comparison.clusters import first_part, label_clusters
from visdiff.comparison.preflight import Preflight
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, columns, manifest
from visdiff.stats import count_clusters

#: With ``cross_fit="auto"``, sets of fewer images are cross-fitted.
CROSS_FIT_BELOW = 200


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
        groups: (n_pairs,) prompt of each scored pair, for the bootstrap; None if unpaired.
        clusters: (n_scoring,) cluster of each scored image, those of A first; None if every image
            (or pair) is a cluster of its own.
        discovery_clusters: (n_discovery,) the same for the discovery images.
        first: (n_scoring,) whether an image is in the first half, with cross-fitting. Both halves
            then hold all images, and a hypothesis from the first half is tested on the second, and
            the other way round. None without cross-fitting.
    """

    discovery_a: ImageSet
    discovery_b: ImageSet
    scoring_a: ImageSet
    scoring_b: ImageSet
    double_dipped: bool
    groups: np.ndarray | None = None
    clusters: np.ndarray | None = None
    discovery_clusters: np.ndarray | None = None
    first: np.ndarray | None = None

    @property
    def scoring_is_a(self) -> np.ndarray:
        """(n_a + n_b,) bool over the scored images, those of A first."""
        return _membership(self.scoring_a, self.scoring_b)

    @property
    def same_images(self) -> bool:
        """Whether the discovery half and the scoring half hold the same images."""
        return self.double_dipped or self.first is not None

    @property
    def n_effective(self) -> tuple[int, int]:
        """The numbers of independent scored observations of A and of B: their clusters."""
        return count_clusters(self._labels(), self.scoring_is_a)

    @property
    def n_tested(self) -> tuple[int, int]:
        """The numbers of independent observations of A and of B in a single test."""
        if self.first is None:
            return self.n_effective
        parts = [
            count_clusters(self._labels()[part], self.scoring_is_a[part])
            for part in (self.first, ~self.first)
        ]
        return min(parts, key=min)

    def cluster_warnings(self) -> list[str]:
        """Returns a sentence per set with scored images that show the same thing."""
        found = []
        for images, n in zip((self.scoring_a, self.scoring_b), self.n_effective, strict=True):
            if n < len(images):
                count = "1 observation" if n == 1 else f"{n:,} observations"
                found.append(
                    f"The {len(images):,} scored images of {images.name} count as {count}: some "
                    "are copies, near copies or of the same group."
                )
        return found

    def _labels(self) -> np.ndarray:
        n = len(self.scoring_a) + len(self.scoring_b)
        return np.arange(n) if self.clusters is None else self.clusters


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

    def checked(self, checks: Preflight, config: Config) -> "SplitPair":
        """Returns the pair without unreadable images and with near copies in one half.

        Args:
            checks: The preflight of both sets.
            config: The configuration.
        """
        readable_a, small_a = _readable(self.set_a, checks.unreadable_a, checks.small_a)
        readable_b, small_b = _readable(self.set_b, checks.unreadable_b, checks.small_b)
        unread = bool(checks.unreadable_a or checks.unreadable_b)
        if not config.statistics.near_copies:
            return split_pair(readable_a, readable_b, config) if unread else self
        return split_pair(readable_a, readable_b, config, (small_a, small_b))


def split_pair(
    a: ImageSet,
    b: ImageSet,
    config: Config,
    small: tuple[np.ndarray, np.ndarray] | None = None,
) -> SplitPair:
    """Pairs both sets if ``config.paired_by`` is set, and splits them; decodes no image.

    Args:
        a: Set A.
        b: Set B.
        config: The configuration.
        small: Small copies of the images of A and of B, to recognise near copies; None if the files
            have not been decoded.

    Raises:
        InputError: A column is missing, a key occurs twice in one set, or there is no pair.
    """
    paired_a, paired_b, n_unpaired = a, b, 0
    if config.paired_by:
        named_a = a.with_columns(columns.usual_columns(a.frame, config.paired_by))
        named_b = b.with_columns(columns.usual_columns(b.frame, config.paired_by))
        paired_a, paired_b, n_unpaired = pair_up(named_a, named_b, config.paired_by)
        if small is not None:
            small = _rows(a, paired_a, small[0]), _rows(b, paired_b, small[1])
    settings = config.statistics
    clusters = label_clusters(
        paired_a,
        paired_b,
        config.group_by,
        None if small is None else np.concatenate(small),
        paired=bool(config.paired_by),
    )
    small_sets = min(len(paired_a), len(paired_b)) < CROSS_FIT_BELOW
    cross_fit = may_cross_fit(config) and (settings.cross_fit == "always" or small_sets)
    halves = split(
        paired_a,
        paired_b,
        fraction=settings.discovery_fraction,
        min_scored=settings.min_scored,
        paired_by=config.paired_by,
        clusters=clusters,
        cross_fit=cross_fit,
    )
    return SplitPair(a, b, halves, n_unpaired)


def may_cross_fit(config: Config) -> bool:
    """Returns whether sets of a suitable size are cross-fitted.

    Sentences of the user's do not come from the images, so that one half is enough for them.
    """
    return config.statistics.cross_fit != "never" and config.proposer.backend != "manual"


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
    a: ImageSet,
    b: ImageSet,
    *,
    fraction: float,
    min_scored: int,
    paired_by: Sequence[str] = (),
    clusters: np.ndarray | None = None,
    cross_fit: bool = False,
) -> Halves:
    """Splits both sets by content hash (by pair key if paired); a cluster is in one half.

    The images are ranked by their hash, so the halves have exact sizes and do not depend on the
    order of the images or on a seed.

    Args:
        a: Set A; if paired, already aligned with ``b`` by :func:`pair_up`.
        b: Set B.
        fraction: Fraction of the images (of the clusters, if there are any) for discovery.
        min_scored: Minimum number of scored images or clusters per set; with fewer, all images are
            used in both halves.
        paired_by: Columns of the pair key.
        clusters: (n_a + n_b,) cluster of each image; by default images of the same bytes.
        cross_fit: Whether each half is scored with the hypotheses of the other, if both are large
            enough for that.
    """
    if clusters is None:
        clusters = label_clusters(a, b, paired=bool(paired_by))
    key, is_a = list(paired_by) or None, _membership(a, b)
    first = first_part([*a.split_numbers(key), *b.split_numbers(key)], clusters, is_a, fraction)
    n_first = count_clusters(clusters[first], is_a[first])
    n_second = count_clusters(clusters[~first], is_a[~first])
    too_few = min(n_second) < min_scored or min(n_first) < 1
    crossed = cross_fit and not too_few and min(n_first) >= min_scored
    tested = np.ones(len(is_a), bool) if too_few or crossed else ~first
    discovery_a, discovery_b, scoring_a, scoring_b = a, b, a, b
    if not (too_few or crossed):
        discovery_a, discovery_b = a.subset(first[: len(a)]), b.subset(first[len(a) :])
        scoring_a, scoring_b = a.subset(tested[: len(a)]), b.subset(tested[len(a) :])
    groups = None
    if paired_by:
        # The bootstrap resamples prompts, because images of one prompt are not independent.
        groups = scoring_a.frame[paired_by[0]].map(manifest.text).to_numpy(dtype=str)
    discovered = np.ones(len(is_a), bool) if too_few or crossed else first
    alone = len(np.unique(clusters)) == len(clusters) // (2 if paired_by else 1)
    return Halves(
        discovery_a,
        discovery_b,
        scoring_a,
        scoring_b,
        too_few,
        groups,
        None if alone else clusters[tested],
        None if alone else clusters[discovered],
        first if crossed else None,
    )


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


def _readable(
    images: ImageSet, unreadable: Sequence[tuple[str, str]], small: np.ndarray
) -> tuple[ImageSet, np.ndarray]:
    """Returns the images that can be read, and their small copies."""
    if not unreadable:
        return images, small
    left_out = {name for name, _ in unreadable}
    kept = [i for i, name in enumerate(images.ids) if name not in left_out]
    return images.subset(kept), small[kept]


def _rows(images: ImageSet, selected: ImageSet, values: np.ndarray) -> np.ndarray:
    """Returns the rows of the selected images."""
    place = {name: i for i, name in enumerate(images.ids)}
    return values[[place[name] for name in selected.ids]]


def _membership(a: ImageSet, b: ImageSet) -> np.ndarray:
    return np.arange(len(a) + len(b)) < len(a)
