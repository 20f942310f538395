"""VisDiffBench (Dunlap et al., CVPR 2024): 187 pairs, from the released zip or the repository.

- PairedImageSets: 150 pairs with 100 images per set, 50 each easy, medium and hard;
- ImageNet-R: 14 renditions against "imagenet", 500 images per set ("misc" is never evaluated);
- ImageNet*: 23 changes against "base", 500 images per set.

Three layouts are supported. *Released*: ``easy.jsonl`` etc., where each line has ``set1``,
``set2``, ``difference``, ``set1_images`` and ``set2_images`` (``easy/0_1/000001.jpg``), next to the
folders of images. *Repository*: ``PairedImageSets.csv``, ``ImageNetR.csv``, ``ImageNetStar.csv``.
*Bare jsonl*: the repository's ``pairedimagesets/webcrawl/*.jsonl`` without lists of images; the
sets are all images in their folders. If there are several layouts, the first with a split is used.

The CSV's column ``difficulty`` is wrong: all medium pairs are labelled easy, all hard ones medium.
The split is taken from the jsonl line with the pair's two sets; without one, from the folder in the
pair's paths; without that, from the pair's position in the file (three equal parts).

Other benchmarks can be opened in the released layout. Their name is read from the field ``name`` of
a file ``benchmark.json`` next to the jsonl files. Pairs of a split named ``null`` do not differ.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visdiff.bench.files import Finder, SetName, lettered_folder
from visdiff.bench.pairs import Benchmark, Pair
from visdiff.errors import InputError
from visdiff.files import load_json, read_text
from visdiff.imageset import manifest

PAIRED = ("easy", "medium", "hard")
#: File name of a split → its name here.
_SPLIT_NAMES = {"imagenetr": "imagenet-r", "imagenetstar": "imagenet-star"}
#: Folders of the jsonl files, relative to the user's folder.
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
    """A line of a jsonl file: the description of a pair."""

    split: str
    number: int
    a: str
    b: str
    difference: str
    images_a: tuple[str, ...] | None
    images_b: tuple[str, ...] | None


def load(root: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Benchmark:
    """Opens VisDiffBench, or a benchmark in its layout, without decoding images.

    Args:
        root: The unzipped release, the repository's ``data`` folder, or the repository.
        images: The folder with the image folders, if it is another one.

    Returns:
        All pairs in the files. Missing images are listed in the pairs.

    Raises:
        InputError: The folder has no benchmark, a file has another layout, or all images are
            missing.
    """
    base = Path(root).expanduser().absolute()
    if not base.is_dir():
        raise InputError(
            f"Expected the folder of a benchmark, got {root}, which is not a folder; check it."
        )
    if not _has_files(base) and _has_files(base / "data"):
        base = base / "data"
    image_roots = [Path(images).expanduser().absolute()] if images is not None else []
    finder = Finder([*image_roots, *(base / folder for folder in _JSONL_FOLDERS[:3]), base.parent])
    by_split = _read_lines(base)
    pairs, notes = list[Pair](), list[str]()
    named = {split: rows for split, rows in by_split.items() if rows[0].images_a is not None}
    bare = {split: rows for split, rows in by_split.items() if split not in named}
    for rows in named.values():
        pairs += [_from_line(row, finder) for row in rows]
    table = base / "PairedImageSets.csv"
    if table.is_file() and not any(split in named for split in PAIRED):
        found, corrected = _read_paired_sets(table, bare, finder)
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
            found, omitted = _read_groups(base / file, split, against, groups, finder)
            pairs += found
            notes += omitted
    if not pairs:
        raise InputError(
            f"Expected easy.jsonl, medium.jsonl, hard.jsonl, PairedImageSets.csv, ImageNetR.csv or "
            f"ImageNetStar.csv in {base}, got none; pass the unzipped release of VisDiffBench or "
            f"the data folder of its repository."
        )
    if not any(pair.images_a or pair.images_b for pair in pairs):
        raise InputError(
            f"Expected the images of {len(pairs)} pairs below {base}, got none of them (first: "
            f"{pairs[0].missing[0]}); unzip them there, or pass their folder with --root."
        )
    order = {"easy": 0, "medium": 1, "hard": 2, "imagenet-r": 3, "imagenet-star": 4}
    pairs.sort(key=lambda pair: order.get(pair.split, len(order)))
    return Benchmark(_name(base), tuple(pairs), tuple(notes))


def _from_line(line: _Line, finder: Finder) -> Pair:
    # Folders with letters are numbered from 0 if there is a folder 0_a, otherwise from 1.
    base = 0 if finder.exists(f"{line.split}/0_a") else 1
    located = []
    for names, first in ((line.images_a, True), (line.images_b, False)):
        other = lettered_folder(line.split, line.number, first, base)
        own = f"{line.split}/{line.number}_{'1' if first else '2'}"
        located.append(
            finder.list_folder([own, other]) if names is None else finder.locate(names, [other])
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


def _read_paired_sets(
    path: Path, lines: Mapping[str, Sequence[_Line]], finder: Finder
) -> tuple[list[Pair], list[str]]:
    """Reads PairedImageSets.csv and corrects the difficulty."""
    table = manifest.read_table(path)
    manifest.check_columns(table, ["path", "group_name"], str(path))
    sets: dict[tuple[str, int], dict[bool, tuple[str, pd.DataFrame]]] = {}
    for group, rows in table.groupby("group_name", sort=False):
        first_path = str(rows["path"].iloc[0])
        name = SetName.of(first_path)
        if name is None:
            raise InputError(
                f"Expected paths like ./data/VisDiffBench/easy/1_a/000001.jpg in {path}, got "
                f"{first_path!r}; use the repository's PairedImageSets.csv."
            )
        sets.setdefault((name.split, name.number), {})[name.first] = (str(group), rows)
    by_names = {(row.a, row.b): row for rows in lines.values() for row in rows}
    lowest: dict[str, int] = {}
    for folder, number in sets:
        lowest[folder] = min(number, lowest.get(folder, number))
    pairs, wrong, source = [], 0, "the folders in its paths"
    for position, ((folder, number), sides) in enumerate(sets.items()):
        if len(sides) < 2:
            raise InputError(
                f"Expected two sets, {folder}/{number}_a and _b, in {path}, got only "
                f"{next(iter(sides.values()))[0]!r}; use the whole file."
            )
        (a, rows_a), (b, rows_b) = sides[True], sides[False]
        known = by_names.get((a, b))
        if known is not None:
            split, line, source = known.split, known.number, "the jsonl files"
        elif folder in PAIRED:
            split, line = folder, number - min(lowest[folder], 1)
        else:
            split, line = _split_by_position(position, len(sets), path)
            source = "the order of its pairs"
        if "difficulty" in table:
            wrong += sum(
                int(np.sum(rows["difficulty"].to_numpy() != split)) for rows in (rows_a, rows_b)
            )
        found_a, found_b = (
            finder.locate([str(p) for p in rows["path"]], [f"{split}/{line}_{side}"])
            for rows, side in ((rows_a, "1"), (rows_b, "2"))
        )
        difference = manifest.text(rows_a["difference"].iloc[0]) if "difference" in table else ""
        pairs.append(
            Pair(
                f"{split}/{line}", split, a, b, difference, found_a.found, found_b.found,
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


def _split_by_position(position: int, total: int, path: Path) -> tuple[str, int]:
    if total % len(PAIRED):
        raise InputError(
            f"Expected as many easy as medium and hard pairs in {path}, got {total} pairs in all, "
            f"without their difficulty in jsonl files or paths; put easy.jsonl, medium.jsonl and "
            f"hard.jsonl next to it."
        )
    each = total // len(PAIRED)
    return PAIRED[position // each], position % each


def _read_groups(
    path: Path, split: str, against: str, groups: Sequence[str], finder: Finder
) -> tuple[list[Pair], list[str]]:
    """Reads ImageNetR.csv or ImageNetStar.csv: each group is compared with one reference group."""
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
            f"Expected rows with group_name {manifest.listed(absent)} in {path}, got none; use the "
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
    """Returns the jsonl files in the first folder that has one with the name of a split."""
    known = {*PAIRED, *_SPLIT_NAMES}
    for folder in _JSONL_FOLDERS:
        files = sorted((base / folder).glob("*.jsonl"))
        if any(file.stem in known for file in files):
            return files
    return []


def _name(base: Path) -> str:
    for folder in _JSONL_FOLDERS:
        card = base / folder / "benchmark.json"
        if card.is_file():
            try:
                return str(load_json(read_text(card, "the card of a benchmark"))["name"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f'Expected {{"name": …}} in {card}, got something else; correct the file.'
                ) from error
    return "VisDiffBench"


def _read_lines(base: Path) -> dict[str, list[_Line]]:
    """Reads the jsonl file of every split; keys are the values of `Pair.split`."""
    by_split: dict[str, list[_Line]] = {}
    for file in _jsonl_files(base):
        table = manifest.read_table(file)
        rows = table.to_dict("records")
        lines = [_line(file, number, row) for number, row in enumerate(rows)]
        if len({line.images_a is None for line in lines}) > 1:
            raise InputError(
                f"Expected set1_images and set2_images in every line of {file} or in none, got "
                f"some lines without; use the released file."
            )
        by_split[_SPLIT_NAMES.get(file.stem, file.stem)] = lines
    return by_split


def _line(file: Path, number: int, row: Mapping[Any, Any]) -> _Line:
    named = [_names(row.get(name)) for name in ("set1_images", "set2_images")]
    texts = [manifest.text(row.get(name)) for name in ("set1", "set2")]
    if not all(texts) or (named[0] is None) != (named[1] is None):
        raise InputError(
            f"Expected set1 and set2, with set1_images and set2_images or without both, in line "
            f"{number + 1} of {file}, got {', '.join(map(str, row))}; use the released file."
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
