"""DreamBench as its authors release it: 30 subjects, two lists of 25 prompts.

Ruiz et al. (CVPR 2023), arXiv:2208.12242; github.com/google/dreambooth, folder ``dataset``: one
folder of images a subject, and ``prompts_and_classes.txt``. Nothing is downloaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from editing.metrics.dreambench import Nouns, subjects
from editing.personalize.reference_images import open_images
from editing.personalize.regularization import evaluation_phrases
from visdiff.errors import InputError

FILE = "prompts_and_classes.txt"
"""Name of the file of classes and prompts."""

_LIVING = frozenset({"cat", "dog"})
_FEWEST = 4
_HEADINGS = {"Object Prompts": "thing", "Live Subject Prompts": "living"}
_PROMPT = re.compile(r"""^\s*['"](?P<template>.*)['"]\.format\(""")
_SHARED = 10


@dataclass(frozen=True)
class BenchSubject:
    """One subject of the benchmark.

    Attributes:
        name: Name of its folder.
        folder: Its images.
        nouns: Its class nouns and kind.
        templates: Its prompts, with {0} for the identifier and {1} for the noun.
    """

    name: str
    folder: Path
    nouns: Nouns
    templates: tuple[str, ...]

    def prompts(self, identifier: str, noun: str) -> list[str]:
        """Returns the prompts of the subject."""
        return [t.replace("{0}", identifier).replace("{1}", noun) for t in self.templates]


@dataclass(frozen=True)
class DreamBench:
    """The benchmark in a folder.

    Attributes:
        folder: The folder that holds the subjects.
        subjects: The subjects that are there.
        missing: Sentences about parts that are not.
    """

    folder: Path
    subjects: tuple[BenchSubject, ...]
    missing: tuple[str, ...]


def templates(kind: Literal["thing", "living"]) -> tuple[str, ...]:
    """Returns the 25 prompts of a kind in the order of the released file."""
    phrases = evaluation_phrases(kind)
    shared, properties, own = phrases[:_SHARED], phrases[_SHARED:-_SHARED], phrases[-_SHARED:]
    contexts = [f"a {{0}} {{1}} {phrase}" for phrase in (*shared, *own)]
    return (*contexts, *(f"a {word} {{0}} {{1}}" for word in properties))


def read_dreambench(folder: str | Path, only: Sequence[str] | None = None) -> DreamBench:
    """Reads the released data.

    Args:
        folder: The repository's folder, or its ``dataset``.
        only: Names of the subjects to use; None for all 30.

    Returns:
        The subjects that are there; what is missing is named.

    Raises:
        InputError: The folder does not exist or has no subject, or a name of `only` is unknown.
    """
    root = Path(folder).expanduser()
    root = root / "dataset" if (root / "dataset").is_dir() else root
    if not root.is_dir():
        raise InputError(
            f"Expected the folder of DreamBench, got {root}, which does not exist; get it with git "
            "clone https://github.com/google/dreambooth."
        )
    missing: list[str] = []
    classes, lists = _read_file(root / FILE, missing)
    known = subjects()
    names = list(dict.fromkeys((*known, *classes)))
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise InputError(
            f"Expected subjects of DreamBench, got {', '.join(unknown)}; choose from "
            f"{', '.join(names)}."
        )
    found = []
    for name in names:
        if only is not None and name not in only:
            continue
        if name not in classes:
            missing.append(f"{name}: not in {FILE}")
        images = _count(root / name)
        if not images:
            missing.append(f"{name}: no images in {root / name}")
            continue
        if images < _FEWEST:
            missing.append(f"{name}: {images} images, released with 4 to 6")
        vague = classes.get(name) or known[name].vague
        kind: Literal["thing", "living"] = "living" if vague in _LIVING else "thing"
        specific = known[name].specific if name in known else vague
        found.append(
            BenchSubject(name, root / name, Nouns(vague, specific, kind), tuple(lists[kind]))
        )
    if not found:
        raise InputError(
            f"Expected folders of subjects (backpack, dog, …) in {root}, got none; give the folder "
            "of github.com/google/dreambooth."
        )
    return DreamBench(root, tuple(found), tuple(missing))


def _read_file(
    path: Path, missing: list[str]
) -> tuple[dict[str, str], Mapping[str, Sequence[str]]]:
    """Returns subject → class, and kind → prompts; those of the package where a part is missing."""
    packaged: dict[str, Sequence[str]] = {
        "thing": templates("thing"),
        "living": templates("living"),
    }
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        missing.append(f"{FILE}: cannot be read ({error}); the packaged copy is used")
        return {name: nouns.vague for name, nouns in subjects().items()}, packaged
    classes: dict[str, str] = {}
    lists: dict[str, list[str]] = {"thing": [], "living": []}
    kind: str | None = None
    in_prompts = False
    for line in lines:
        text = line.strip()
        in_prompts = in_prompts or text == "Prompts"
        kind = _HEADINGS.get(text, kind)
        prompt = _PROMPT.match(line)
        if prompt and kind is not None:
            lists[kind].append(prompt["template"])
        elif not in_prompts and "," in text and text != "subject_name,class":
            name, _, noun = text.partition(",")
            classes[name.strip()] = noun.strip()
    for name, found in lists.items():
        if len(found) != len(packaged[name]):
            missing.append(
                f"{FILE}: {len(found)} prompts of {name} subjects, released with "
                f"{len(packaged[name])}{'' if found else '; the packaged copy is used'}"
            )
    return classes, {name: found or packaged[name] for name, found in lists.items()}


def _count(folder: Path) -> int:
    """Returns the number of images in a folder; 0 if it does not exist or has none."""
    try:
        return len(open_images(folder).images) if folder.is_dir() else 0
    except InputError:
        return 0
