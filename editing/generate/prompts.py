"""Prompts and seeds: published prompt files, and the samples to generate from them.

The public prompt sets (UCE's ``data/*.csv``, I2P, ESD's, MACE's) share a column ``prompt`` and
mostly ``case_number`` and ``evaluation_seed``. Each has further columns (``artist``, ``class``,
``coco_id``, ``profession``, …) that an evaluation needs later. They are read unchanged, and every
column is copied to the manifest of the images.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from visdiff.errors import InputError
from visdiff.imageset import columns, manifest

SUFFIXES = manifest.SUFFIXES | {".txt"}
"""File name suffixes (lower case) of prompt files."""

Own = Literal["use", "ignore"]
"""Whether to use the seed or guidance scale that a prompt file specifies."""

_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_SEED_LIMIT = 2**63
_MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Prompt:
    """One line of a prompt file.

    Attributes:
        text: The prompt; "" is the unconditional prompt.
        seed: Seed specified by the file, or None.
        guidance: Classifier-free guidance scale specified by the file, or None.
        columns: The other columns of the file, as JSON values.
    """

    text: str
    seed: int | None = None
    guidance: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One image to generate.

    Attributes:
        prompt: The prompt.
        seed: Seed of the initial noise, 0 or more.
        guidance: Guidance scale of this sample; None for that of the run.
        columns: Further columns of the manifest.
    """

    prompt: str
    seed: int
    guidance: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


def parse_seeds(text: str) -> list[int]:
    """Parses seeds: numbers and inclusive ranges, such as "0-9", "3" or "1,5,7-9".

    Returns:
        Distinct seeds in the order of the text.

    Raises:
        InputError: The text cannot be parsed, or a range has more than a million seeds.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise InputError(
                f"Expected seeds such as 0-9, 3 or 1,5,7-9, got {text!r}; give integers of 0 or "
                "more, separated by commas, with a hyphen for a range."
            )
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise InputError(
                f"Expected an ascending range of seeds, got {part.strip()!r}; use {last}-{first}."
            )
        if last >= _SEED_LIMIT or last - first >= _MOST_SEEDS:
            raise InputError(
                f"Expected at most a million seeds below 2^63, got {part.strip()!r}; use a "
                "smaller range."
            )
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def expand(
    prompts: Sequence[Prompt],
    seeds: Sequence[int] | None,
    own_seeds: Own = "use",
    own_guidance: Own = "use",
) -> list[Sample]:
    """Crosses prompts with seeds: all seeds of the first prompt, then of the next.

    Args:
        prompts: The prompts.
        seeds: Seeds for every prompt without its own; None if all have one.
        own_seeds: "use" generates a prompt that has a seed once, with that seed, as the public sets
            intend with ``evaluation_seed``; "ignore" crosses it with `seeds` like the others.
        own_guidance: "use" applies a prompt's own guidance scale, "ignore" that of the run.

    Returns:
        The samples.

    Raises:
        InputError: There is no prompt, or a prompt has no seed and there are no `seeds`.
    """
    if not prompts:
        raise InputError("Expected prompts, got none; give at least one.")
    samples = []
    for number, prompt in enumerate(prompts, start=1):
        if own_seeds == "use" and prompt.seed is not None:
            chosen: Sequence[int] = [prompt.seed]
        elif seeds:
            chosen = seeds
        else:
            raise InputError(
                f"Expected a seed for prompt {number} ({prompt.text!r}), got neither its own "
                "nor seeds for all prompts; give seeds, such as 0-9."
            )
        guidance = prompt.guidance if own_guidance == "use" else None
        samples += [Sample(prompt.text, seed, guidance, prompt.columns) for seed in chosen]
    return samples


def read_prompts(path: str | Path) -> list[Prompt]:
    """Reads a prompt file: CSV, TSV, JSONL, Parquet, or plain text with one prompt per line.

    The prompt is read from the column ``prompt`` (or ``text``, or ``caption``), its seed from
    ``evaluation_seed`` (or ``sd_seed``, ``seed``), its guidance scale from ``evaluation_guidance``
    (or ``sd_guidance_scale``, ``guidance_scale``, ``guidance``), which
    `visdiff.imageset.columns` lists. Column names are not case-sensitive. An empty seed or guidance
    counts as not specified. Cells of CSV and TSV are kept as text. Empty lines of plain text and
    the unnamed index column of pandas are skipped.

    Args:
        path: The file; its suffix determines the format.

    Returns:
        One or more prompts, in the order of the file.

    Raises:
        InputError: The file does not exist, has another format or cannot be parsed; there is no
            column of prompts; or a row has no valid prompt, seed or guidance (the message names the
            row).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"Expected a prompt file ({', '.join(sorted(SUFFIXES))}), got {path}; convert it, "
            "or pass the prompts with --prompt."
        )
    rows = _read_text(path) if suffix == ".txt" else manifest.read_rows(path, "a prompt file")
    if not rows:
        raise InputError(f"Expected prompts in {path}, got none; add at least one.")
    return _parse_rows(rows, path)


def _read_text(path: Path) -> list[dict[str, Any]]:
    lines = manifest.read_text(path, "a prompt file").splitlines()
    return [{"prompt": line.strip()} for line in lines if line.strip()]


def _parse_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Prompt]:
    # The rows of JSON lines may have different columns.
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    text = columns.find(names, columns.PROMPT)
    if text is None:
        raise InputError(
            f"Expected a column `prompt` in {path}, got the columns {', '.join(names)}; rename "
            "the column of the prompts."
        )
    seed, guidance = columns.find(names, columns.SEED), columns.find(names, columns.GUIDANCE)
    prompts = []
    for number, row in enumerate(rows, start=1):
        cells = {str(name): _plain(value) for name, value in row.items()}
        words = cells.get(text)
        if not isinstance(words, str):
            raise InputError(
                f"Expected a prompt in row {number} of {path}, got {words!r}; fill in the column "
                f'{text!r} or remove the row (JSONL can store the empty prompt as "").'
            )
        carried = {
            name: value
            for name, value in cells.items()
            if name != text and name and not name.startswith("Unnamed: ")
        }
        where = f"row {number} of {path}"
        prompts.append(
            Prompt(
                words,
                None if seed is None else _seed(cells.get(seed), where),
                None if guidance is None else _guidance(cells.get(guidance), where),
                carried,
            )
        )
    return prompts


def _plain(value: Any) -> Any:
    """Returns a cell as a JSON value: None if missing, text for types that JSON does not have."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if value is None or isinstance(value, (str, bool, int, float, list, dict)):
        return value
    return str(value)


def _number(value: Any) -> float | None:
    """Returns a cell as a finite number; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seed(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    number = _number(value)
    if number is not None and number.is_integer() and 0 <= number < _SEED_LIMIT:
        # A float cannot hold a 17-digit number exactly, so digits are parsed as an integer.
        digits = value.strip() if isinstance(value, str) else value
        return int(digits) if not isinstance(digits, str) or digits.isdecimal() else int(number)
    raise InputError(
        f"Expected an integer of 0 or more as the seed in {where}, got {value!r}; correct it or "
        "leave the cell empty."
    )


def _guidance(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    number = _number(value)
    if number is None or number < 0:
        raise InputError(
            f"Expected a number of 0 or more as the guidance scale in {where}, got {value!r}; "
            "correct it or leave the cell empty."
        )
    return number
