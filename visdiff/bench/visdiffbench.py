"""VisDiffBench (Dunlap et al., CVPR 2024): 187 pairs, from the released zip or the repository.

- PairedImageSets: 150 pairs of 100 images a side, 50 each easy, medium and hard;
- ImageNet-R: 14 renditions against "imagenet", 500 images a side ("misc" is never evaluated);
- ImageNet*: 23 changes against "base", 500 a side.

Three layouts open. *Released*: ``easy.jsonl`` and the like, each line naming ``set1``, ``set2``,
``difference``, ``set1_images`` and ``set2_images`` (``easy/0_1/000001.jpg``), beside the folders of
images. *Repository*: ``PairedImageSets.csv``, ``ImageNetR.csv``, ``ImageNetStar.csv``.
*Bare jsonl*: the repository's ``pairedimagesets/webcrawl/*.jsonl`` without lists of images, whose
sets are what their folders hold. They may lie together; the first that has a split is used.

The CSV's column ``difficulty`` is wrong (all medium pairs are called easy, all hard ones medium).
The split is that of the jsonl line that names the pair's two sets; without one, that of the folder
in the pair's paths; without that, that of the pair's place in the file (three equal parts).

A benchmark of one's own opens too, in the released layout; ``benchmark.json`` with a ``name``
beside the jsonl files says what to call it. Pairs of a split called ``null`` do not differ.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visdiff.bench.files import Finder, SetName, lettered
from visdiff.bench.pairs import Benchmark, Pair
from visdiff.errors import InputError
from visdiff.imageset import manifest

PAIRED = ("easy", "medium", "hard")
#: File name of a split → what it is called here.
_SPLIT_NAMES = {"imagenetr": "imagenet-r", "imagenetstar": "imagenet-star"}
#: Where the jsonl files lie, below the folder that the user gives.
_JSONL_FOLDERS = ("", "VisDiffBench", "VisDiffBench-release", "pairedimagesets/webcrawl")

RENDITIONS = (
    "art", "cartoon", "deviantart", "embroidery", "graffiti", "graphic", "origami", "painting",
    "sculpture", "sketch", "sticker", "tattoo", "toy", "videogame",
)  # fmt: skip
CHANGES = (
    "in the forest", "green", "red", "pencil sketch", "oil painting", "orange", "on the rocks",
    "in bright sunlight", "person and a", "in the beach", "studio lighting", "in the water",
    "at dusk", "in the rain", "in the grass", "yellow", "blue", "and a flower", "on the road",
    "at night", "embroidery", "in the fog", "in the snow",
)  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """A line of a jsonl file: what is known of a pair."""

    split: str
    number: int
    a: str
    b: str
    difference: str
    images_a: tuple[str, ...] | None
    images_b: tuple[str, ...] | None


def load(root: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Benchmark:
    """Open VisDiffBench, or a benchmark of its layout; no image is decoded.

    Args:
        root: The unzipped release, the repository's ``data`` folder, or the repository.
        images: Where the folders of images lie, when that is elsewhere.

    Returns:
        Every pair that the files name. Images that are not there are listed in its pairs.

    Raises:
        InputError: There is no benchmark in the folder, a file is not of its layout, or not one
            image is there.
    """
    base = Path(root).expanduser().absolute()
    if not base.is_dir():
        raise InputError(f"expected the folder of a benchmark, got {root}, which is none.")
    if not _has_files(base) and _has_files(base / "data"):
        base = base / "data"
    elsewhere = [Path(images).expanduser().absolute()] if images is not None else []
    finder = Finder([*elsewhere, *(base / folder for folder in _JSONL_FOLDERS[:3]), base.parent])
    by_split = _read_lines(base)
    pairs, notes = list[Pair](), list[str]()
    named = {split: rows for split, rows in by_split.items() if rows[0].images_a is not None}
    bare = {split: rows for split, rows in by_split.items() if split not in named}
    for rows in named.values():
        pairs += [_from_line(row, finder) for row in rows]
    table = base / "PairedImageSets.csv"
    if table.is_file() and not any(split in named for split in PAIRED):
        found, corrected = _paired(table, bare, finder)
        pairs += found
        notes += corrected
        bare = {split: rows for split, rows in bare.items() if split not in PAIRED}
    for rows in bare.values():
        pairs += [_from_line(row, finder) for row in rows]
    for split, file, against, groups in (
        ("imagenet-r", "ImageNetR.csv", "imagenet", RENDITIONS),
        ("imagenet-star", "ImageNetStar.csv", "base", CHANGES),
    ):
        if split not in by_split and (base / file).is_file():
            found, left = _grouped(base / file, split, against, groups, finder)
            pairs += found
            notes += left
    if not pairs:
        raise InputError(
            f"expected easy.jsonl, medium.jsonl, hard.jsonl, PairedImageSets.csv, ImageNetR.csv or "
            f"ImageNetStar.csv in {base}, got none: give the unzipped release of VisDiffBench or "
            f"the data folder of its repository."
        )
    if not any(pair.images_a or pair.images_b for pair in pairs):
        raise InputError(
            f"expected the images of {len(pairs)} pairs below {base}, got not one of them (first: "
            f"{pairs[0].missing[0]}): unzip them there, or say with --images where they are."
        )
    order = {"easy": 0, "medium": 1, "hard": 2, "imagenet-r": 3, "imagenet-star": 4}
    pairs.sort(key=lambda pair: order.get(pair.split, len(order)))
    return Benchmark(_name(base), tuple(pairs), tuple(notes))


def _from_line(line: _Line, finder: Finder) -> Pair:
    # Lettered folders are numbered from 0 or from 1; a folder 0_a on the disk says which.
    base = 0 if finder.exists(f"{line.split}/0_a") else 1
    located = []
    for names, first in ((line.images_a, True), (line.images_b, False)):
        other = lettered(line.split, line.number, first, base)
        own = f"{line.split}/{line.number}_{'1' if first else '2'}"
        located.append(
            finder.listing([own, other]) if names is None else finder.locate(names, [other])
        )
    a, b = located
    split = _SPLIT_NAMES.get(line.split, line.split)
    return Pair(
        id=f"{split}/{line.a if split in _SPLIT_NAMES.values() else line.number}",
        split=split,
        a=line.a,
        b=line.b,
        difference=line.difference,
        images_a=a.found,
        images_b=b.found,
        missing=a.missing + b.missing,
    )


def _paired(
    path: Path, lines: Mapping[str, Sequence[_Line]], finder: Finder
) -> tuple[list[Pair], list[str]]:
    """Open PairedImageSets.csv, with the difficulty put right."""
    table = manifest.read_table(path)
    manifest.check_columns(table, ["path", "group_name"], str(path))
    sets: dict[tuple[str, int], dict[bool, tuple[str, pd.DataFrame]]] = {}
    for group, rows in table.groupby("group_name", sort=False):
        first_path = str(rows["path"].iloc[0])
        name = SetName.of(first_path)
        if name is None:
            raise InputError(
                f"expected paths like ./data/VisDiffBench/easy/1_a/000001.jpg in {path}, got "
                f"{first_path!r}: use the repository's PairedImageSets.csv."
            )
        sets.setdefault((name.split, name.number), {})[name.first] = (str(group), rows)
    by_names = {(row.a, row.b): row for rows in lines.values() for row in rows}
    lowest: dict[str, int] = {}
    for folder, number in sets:
        lowest[folder] = min(number, lowest.get(folder, number))
    pairs, wrong, source = [], 0, "the folders in its paths"
    for place, ((folder, number), sides) in enumerate(sets.items()):
        if len(sides) < 2:
            raise InputError(
                f"expected two sets, {folder}/{number}_a and _b, in {path}, got only "
                f"{next(iter(sides.values()))[0]!r}: use the whole file."
            )
        (a, rows_a), (b, rows_b) = sides[True], sides[False]
        known = by_names.get((a, b))
        if known is not None:
            split, line, source = known.split, known.number, "the jsonl files"
        elif folder in PAIRED:
            split, line = folder, number - min(lowest[folder], 1)
        else:
            split, line = _by_place(place, len(sets), path)
            source = "the order of its pairs"
        if "difficulty" in table:
            wrong += sum(
                int(np.sum(rows["difficulty"].to_numpy() != split)) for rows in (rows_a, rows_b)
            )
        found_a, found_b = (
            finder.locate([str(p) for p in rows["path"]], [f"{split}/{line}_{side}"])
            for rows, side in ((rows_a, "1"), (rows_b, "2"))
        )
        said = manifest.text(rows_a["difference"].iloc[0]) if "difference" in table else ""
        pairs.append(
            Pair(
                f"{split}/{line}", split, a, b, said, found_a.found, found_b.found,
                found_a.missing + found_b.missing,
            )
        )  # fmt: skip
    pairs.sort(key=lambda pair: (PAIRED.index(pair.split), int(pair.id.rpartition("/")[2])))
    notes = []
    if wrong:
        notes.append(
            f"{wrong} of {len(table)} rows of {path.name} had a wrong difficulty; corrected from "
            f"{source}"
        )
    return pairs, notes


def _by_place(place: int, total: int, path: Path) -> tuple[str, int]:
    if total % len(PAIRED):
        raise InputError(
            f"expected as many easy as medium and hard pairs in {path}, got {total} pairs in all, "
            f"whose difficulty neither jsonl files nor paths tell: put easy.jsonl, medium.jsonl "
            f"and hard.jsonl beside it."
        )
    each = total // len(PAIRED)
    return PAIRED[place // each], place % each


def _grouped(
    path: Path, split: str, against: str, groups: Sequence[str], finder: Finder
) -> tuple[list[Pair], list[str]]:
    """Open ImageNetR.csv or ImageNetStar.csv: every group against one."""
    table = manifest.read_table(path)
    manifest.check_columns(table, ["path", "group_name"], str(path))
    located = {
        str(group): finder.locate([str(p) for p in rows["path"]])
        for group, rows in table.groupby("group_name", sort=False)
        if str(group) == against or str(group) in groups
    }
    absent = [group for group in (against, *groups) if group not in located]
    if absent:
        raise InputError(
            f"expected rows with group_name {manifest.listed(absent)} in {path}, got none: use the "
            f"repository's file."
        )
    b = located[against]
    pairs = []
    for group in groups:
        a = located[group]
        missing = a.missing + b.missing
        pairs.append(Pair(f"{split}/{group}", split, group, against, "", a.found, b.found, missing))
    others = sorted({str(g) for g in table["group_name"]} - set(located))
    notes = []
    if others:
        notes.append(
            f"{path.name}: {manifest.listed(others)} is not evaluated, as in the paper's code"
        )
    return pairs, notes


def _has_files(folder: Path) -> bool:
    names = ("PairedImageSets.csv", "ImageNetR.csv", "ImageNetStar.csv")
    return any((folder / name).is_file() for name in names) or any(_jsonl_files(folder))


def _jsonl_files(base: Path) -> list[Path]:
    """The jsonl files of splits, in the first folder that has one of ours."""
    ours = {*PAIRED, *_SPLIT_NAMES}
    for folder in _JSONL_FOLDERS:
        files = sorted((base / folder).glob("*.jsonl"))
        if any(file.stem in ours for file in files):
            return files
    return []


def _name(base: Path) -> str:
    for folder in _JSONL_FOLDERS:
        card = base / folder / "benchmark.json"
        if card.is_file():
            try:
                return str(json.loads(card.read_text("utf-8"))["name"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f'expected {{"name": …}} in {card}, got something else: correct it.'
                ) from error
    return "VisDiffBench"


def _read_lines(base: Path) -> dict[str, list[_Line]]:
    """Read every split's jsonl; keys are as in `Pair.split`."""
    by_split: dict[str, list[_Line]] = {}
    for file in _jsonl_files(base):
        table = manifest.read_table(file)
        rows = table.to_dict("records")
        lines = [_line(file, number, row) for number, row in enumerate(rows)]
        if len({line.images_a is None for line in lines}) > 1:
            raise InputError(
                f"expected set1_images and set2_images in every line of {file} or in none, got "
                f"some lines without: use the released file."
            )
        by_split[_SPLIT_NAMES.get(file.stem, file.stem)] = lines
    return by_split


def _line(file: Path, number: int, row: Mapping[Any, Any]) -> _Line:
    named = [_names(row.get(name)) for name in ("set1_images", "set2_images")]
    texts = [manifest.text(row.get(name)) for name in ("set1", "set2")]
    if not all(texts) or (named[0] is None) != (named[1] is None):
        raise InputError(
            f"expected set1 and set2, with set1_images and set2_images or without both, in line "
            f"{number + 1} of {file}, got {', '.join(map(str, row))}: use the released file."
        )
    return _Line(
        split=file.stem,
        number=number,
        a=texts[0],
        b=texts[1],
        difference=manifest.text(row.get("difference")),
        images_a=named[0],
        images_b=named[1],
    )


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) and value else None
