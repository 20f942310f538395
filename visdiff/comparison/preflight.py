"""The preflight: detects duplicates, unreadable images and confounds before any model runs.

Two sets may differ in trivial ways: one was saved as JPEG at quality 60, is darker, or shares
images with the other. One pass over the files measures trivial properties and reports those that
separate the sets.
"""

import base64
import itertools
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.image_properties import VERSION, measure
from visdiff.errors import CacheMissError, UnreadableImageError
from visdiff.imageset import ImageSet
from visdiff.imageset.copies import SIDE
from visdiff.progress import is_hidden

MAX_Q = 0.05
"""A confound is flagged at this false discovery rate …"""
MIN_EFFECT = 0.15
"""… when its AUROC is at least this far from 0.5."""

_CHUNK = 256
_NAMED = 5

# Name: adjective for the images with larger values, what their set is, and the format of a mean.
_NUMERIC: dict[str, tuple[str, str, str]] = {
    "pixels": ("larger", "has larger images", "{:,.0f} pixels"),
    "aspect": (
        "wider for their height",
        "has wider images",
        "a width of {:.2f} times the height",
    ),
    "file_size": ("larger as files", "has larger files", "{:,.0f} bytes"),
    "jpeg_quality": (
        "compressed less",
        "is compressed less",
        "an estimated JPEG quality of {:.0f}",
    ),
    "brightness": ("brighter", "is brighter", "a brightness of {:.2f}"),
    "colourfulness": ("more colourful", "is more colourful", "a colourfulness of {:.1f}"),
}


@dataclass(frozen=True)
class Confound:
    """A trivial property, and how well it separates the sets by itself.

    Attributes:
        name: "pixels", "aspect", "file_size", "jpeg_quality", "brightness", "colourfulness",
            "greyscale" or "format: JPEG" and the like.
        auroc: P(A > B) + P(A = B) / 2 of the property, in [0, 1].
        mean_a: Mean over the readable images of set A; for "greyscale" and formats the fraction.
        mean_b: The same for set B.
        p_value: Two-sided p-value of the Mann–Whitney test.
        q_value: The p-value after Benjamini–Hochberg over the properties.
        flagged: Whether q_value <= 0.05 and the AUROC is at least 0.15 from 0.5.
        sentence: The result as a sentence.
        short: The result in a few words, such as "B is brighter".
    """

    name: str
    auroc: float
    mean_a: float
    mean_b: float
    p_value: float
    q_value: float
    flagged: bool
    sentence: str
    short: str


def _no_images() -> np.ndarray:
    return np.zeros((0, SIDE, SIDE, 3), np.uint8)


@dataclass(frozen=True)
class Preflight:
    """The result of the preflight of two sets.

    Attributes:
        name_a: Name of set A.
        name_b: Name of set B.
        duplicates_within_a: Number of images of A whose bytes equal those of an earlier image.
        duplicates_within_b: The same for B.
        cross_duplicates: Pairs of ids of images of A and B with the same bytes; each such image of
            either set is in at least one pair.
        unreadable_a: Id and reason of each image of A that cannot be decoded.
        unreadable_b: The same for B.
        confounds: The properties, the most separating first.
        small_a: (n_a, SIDE, SIDE, 3) uint8 small copies of A's images, for
            `visdiff.imageset.copies.near_copies`; zeros for unreadable ones. Not in `to_dict`.
        small_b: The same for B.
    """

    name_a: str
    name_b: str
    duplicates_within_a: int
    duplicates_within_b: int
    cross_duplicates: list[tuple[str, str]]
    unreadable_a: list[tuple[str, str]]
    unreadable_b: list[tuple[str, str]]
    confounds: list[Confound]
    small_a: np.ndarray = field(default_factory=_no_images, compare=False, repr=False)
    small_b: np.ndarray = field(default_factory=_no_images, compare=False, repr=False)

    def warnings(self) -> list[str]:
        """Returns one sentence for each problem; empty if there is none."""
        found: list[str] = []
        if self.cross_duplicates:
            pairs = [f"{a} = {b}" for a, b in self.cross_duplicates]
            count = len({a for a, _ in self.cross_duplicates})
            found.append(f"{_images(count, 'A')} in B as well, byte for byte: {_some(pairs)}.")
        for label, count in (("A", self.duplicates_within_a), ("B", self.duplicates_within_b)):
            if count:
                copies = "a copy" if count == 1 else "copies"
                found.append(f"{_images(count, label)} {copies} of another in the same set.")
        for label, failed in (("A", self.unreadable_a), ("B", self.unreadable_b)):
            if failed:
                names = _some([name for name, _ in failed])
                found.append(f"{_images(len(failed), label)} unreadable and left out: {names}.")
        return found + [confound.sentence for confound in self.confounds if confound.flagged]

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, and `warnings`, as JSON values."""
        values = asdict(self)
        del values["small_a"], values["small_b"]
        return {
            **values,
            "cross_duplicates": [list(pair) for pair in self.cross_duplicates],
            "unreadable_a": [list(pair) for pair in self.unreadable_a],
            "unreadable_b": [list(pair) for pair in self.unreadable_b],
            "warnings": self.warnings(),
        }


def preflight(
    a: ImageSet,
    b: ImageSet,
    *,
    progress: bool = False,
    cache: Cache | None = None,
    workers: int | None = None,
) -> Preflight:
    """Checks every file of two sets for duplicates, damage and confounds.

    Args:
        a: Set A.
        b: Set B.
        progress: Show a progress bar on stderr.
        cache: Cache of measurements by content; None disables caching.
        workers: Number of decoding threads; by default up to four.

    Returns:
        Duplicates, unreadable images and confounds. A missing or damaged image is counted and
        raises no error. A property that one of the sets lacks (JPEG quality of PNG files) is left
        out.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="visdiff") as pool,
        tqdm(
            total=len(a) + len(b),
            desc="preflight",
            unit="image",
            disable=is_hidden(progress),
            file=sys.stderr,
        ) as bar,
    ):
        checks_a = list(_check_images(a, cache, pool, bar))
        checks_b = list(_check_images(b, cache, pool, bar))
    by_digest_a, by_digest_b = _by_digest(a, checks_a), _by_digest(b, checks_b)
    return Preflight(
        name_a=a.name,
        name_b=b.name,
        duplicates_within_a=sum(len(ids) - 1 for ids in by_digest_a.values()),
        duplicates_within_b=sum(len(ids) - 1 for ids in by_digest_b.values()),
        cross_duplicates=[
            pair
            for digest, ids in by_digest_a.items()
            for pair in _pairs(ids, by_digest_b.get(digest, []))
        ],
        unreadable_a=[(a.ids[i], c.failure) for i, c in enumerate(checks_a) if c.failure],
        unreadable_b=[(b.ids[i], c.failure) for i, c in enumerate(checks_b) if c.failure],
        confounds=_confounds(
            [check.measured for check in checks_a if check.measured],
            [check.measured for check in checks_b if check.measured],
        ),
        small_a=_small_copies(checks_a),
        small_b=_small_copies(checks_b),
    )


@dataclass(frozen=True)
class _Check:
    digest: str | None
    measured: Mapping[str, Any] | None
    failure: str = ""


def _check_images(
    images: ImageSet, cache: Cache | None, pool: ThreadPoolExecutor, bar: "tqdm[Any]"
) -> Iterator[_Check]:
    """Yields digest and measurements of each image, computed in chunks to bound memory use."""

    def digest(index: int) -> str | None:
        try:
            return images.digest(index)
        except UnreadableImageError:
            return None

    def compute(index: int) -> dict[str, Any] | str:
        try:
            data, image = images.raw(index)
            return measure(data, image, str(images.path(index) or images.ids[index]))
        except UnreadableImageError as error:
            return str(error)

    for start in range(0, len(images), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(images)))
        cached: dict[int, Any] = {}
        digests: dict[int, str | None] = {}
        if cache is not None:
            # The digest is the cache key, so images that are not cached are read twice.
            digests = dict(zip(chunk, pool.map(digest, chunk), strict=True))
            cached = _from_cache(cache, digests)
        rest = [index for index in chunk if index not in cached]
        new: dict[int, Any] = dict(zip(rest, pool.map(compute, rest), strict=True))
        # `raw` has computed the digest already, so nothing is read again.
        digests.update({index: digest(index) for index in rest})
        if cache is not None:
            cache.put_many(
                "preflight",
                [
                    (_parts(digests[index]), value)
                    for index, value in new.items()
                    if not isinstance(value, str) and digests[index]
                ],
            )
        for index in chunk:
            value = cached[index] if index in cached else new[index]
            if isinstance(value, str):
                yield _Check(digests[index], None, value)
            else:
                yield _Check(digests[index], value)
        bar.update(len(chunk))


def _parts(digest: str | None) -> dict[str, Any]:
    return {"image": digest, "version": VERSION}


def _from_cache(cache: Cache, digests: Mapping[int, str | None]) -> dict[int, Any]:
    known = [index for index, digest in digests.items() if digest]
    try:
        values = cache.get_many("preflight", [_parts(digests[index]) for index in known])
    except CacheMissError:
        # Measuring needs no model, so a replay repeats it instead of failing.
        return {}
    pairs = zip(known, values, strict=True)
    # Entries of earlier versions have no small copy; they are measured again and replaced.
    return {index: value for index, value in pairs if value is not None and "small_copy" in value}


def _small_copies(checks: Sequence[_Check]) -> np.ndarray:
    small = np.zeros((len(checks), SIDE, SIDE, 3), np.uint8)
    for image, check in zip(small, checks, strict=True):
        if check.measured:
            data = base64.b64decode(check.measured["small_copy"])
            image[:] = np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3)
    return small


def _by_digest(images: ImageSet, checks: Sequence[_Check]) -> dict[str, list[str]]:
    """Groups ids by content, including files that cannot be decoded."""
    groups: dict[str, list[str]] = {}
    for name, check in zip(images.ids, checks, strict=True):
        if check.digest:
            groups.setdefault(check.digest, []).append(name)
    return groups


def _pairs(ids_a: Sequence[str], ids_b: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs copies so that each is in at least one pair, without listing every combination."""
    if not ids_b:
        return []
    pairs = itertools.zip_longest(ids_a, ids_b)
    return [(a or ids_a[-1], b or ids_b[-1]) for a, b in pairs]


def _confounds(
    measured_a: Sequence[Mapping[str, Any]], measured_b: Sequence[Mapping[str, Any]]
) -> list[Confound]:
    """Tests each property and returns the most separating first."""
    if len(measured_a) < 2 or len(measured_b) < 2:
        return []
    measured = [*measured_a, *measured_b]
    is_a = np.arange(len(measured)) < len(measured_a)
    columns: dict[str, np.ndarray] = {
        name: np.array([math.nan if row[name] is None else float(row[name]) for row in measured])
        for name in (*_NUMERIC, "greyscale")
    }
    formats = sorted({row["format"] for row in measured if row["format"]})
    # With two formats, one fraction determines the other.
    for name in formats[: 1 if len(formats) == 2 else None]:
        columns[f"format: {name}"] = np.array([float(row["format"] == name) for row in measured])
    # Properties that are constant, or unknown in one of the sets, are not tested.
    columns = {
        name: values
        for name, values in columns.items()
        if np.isfinite(values[is_a]).sum() >= 2
        and np.isfinite(values[~is_a]).sum() >= 2
        and np.nanmin(values) < np.nanmax(values)
    }
    if not columns:
        return []
    scores = np.stack(list(columns.values()))
    areas = stats.auroc(scores, is_a)
    one_sided = np.minimum(stats.mann_whitney(scores, is_a), stats.mann_whitney(-scores, is_a))
    p_values = np.minimum(1.0, 2 * one_sided)
    q_values = stats.benjamini_hochberg(p_values)
    found: list[Confound] = []
    for row, name in enumerate(columns):
        area, q_value = float(areas[row]), float(q_values[row])
        mean_a = float(np.nanmean(scores[row][is_a]))
        mean_b = float(np.nanmean(scores[row][~is_a]))
        found.append(
            Confound(
                name=name,
                auroc=area,
                mean_a=mean_a,
                mean_b=mean_b,
                p_value=float(p_values[row]),
                q_value=q_value,
                flagged=q_value <= MAX_Q and abs(area - 0.5) >= MIN_EFFECT,
                sentence=_sentence(name, area, mean_a, mean_b),
                short=_short(name, area),
            )
        )
    return sorted(found, key=lambda confound: -abs(confound.auroc - 0.5))


def _sentence(name: str, area: float, mean_a: float, mean_b: float) -> str:
    if name in _NUMERIC:
        more, _, form = _NUMERIC[name]
        higher, lower = ("A", "B") if area >= 0.5 else ("B", "A")
        return (
            f"The images of {higher} are {more} than those of {lower}: on average A has "
            f"{form.format(mean_a)}, B {form.format(mean_b)} (AUROC {max(area, 1 - area):.2f})."
        )
    what = "greyscale" if name == "greyscale" else f"{name.removeprefix('format: ')} files"
    return (
        f"{mean_a:.0%} of the images of A are {what}, and {mean_b:.0%} of those of B "
        f"(AUROC {max(area, 1 - area):.2f})."
    )


def _short(name: str, area: float) -> str:
    higher = "A" if area >= 0.5 else "B"
    if name in _NUMERIC:
        return f"{higher} {_NUMERIC[name][1]}"
    if name == "greyscale":
        return f"{higher} has more greyscale images"
    return f"{higher} has more {name.removeprefix('format: ')} files"


def _images(count: int, label: str) -> str:
    return f"1 image of {label} is" if count == 1 else f"{count:,} images of {label} are"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown
