"""Prompts and seeds: the files that the field publishes, and what of them makes an image.

The public prompt sets (UCE's ``data/*.csv``, I2P, ESD's, MACE's) agree on a column ``prompt`` and,
mostly, on ``case_number`` and ``evaluation_seed``; beside these each has columns of its own
(``artist``, ``class``, ``coco_id``, ``profession``, …), which an evaluation needs later. They are
read as they are, and every column is carried to the images.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from visdiff.errors import InputError
from visdiff.imageset import manifest

SUFFIXES = manifest.SUFFIXES | {".txt"}
"""File names (lower case) that hold prompts."""

Own = Literal["use", "ignore"]
"""What to do with the seed or guidance scale that a prompt file gives a prompt."""

# In order of preference. I2P's release says sd_seed where UCE's copy of it says evaluation_seed.
_TEXT_COLUMNS = ("prompt", "text", "caption")
_SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
_GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")

_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_SEED_LIMIT = 2**63
_MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Prompt:
    """One line of a prompt file.

    Attributes:
        text: What to draw; "" is the unconditional prompt.
        seed: Its own seed, or None.
        guidance: Its own classifier-free guidance scale, or None.
        columns: Everything the file says about it, by column, ``prompt`` left out. JSON values.
    """

    text: str
    seed: int | None = None
    guidance: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One image to make.

    Attributes:
        prompt: What to draw.
        seed: Seed of its initial noise, 0 or more.
        guidance: Guidance scale where the prompt brings its own; None takes the run's.
        columns: Carried to the manifest.
    """

    prompt: str
    seed: int
    guidance: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


def parse_seeds(text: str) -> list[int]:
    """Reads seeds: numbers and ranges that include both ends, such as "0-9", "3" or "1,5,7-9".

    Returns:
        Distinct seeds in the order written.

    Raises:
        InputError: The text is none of these, or means more than a million seeds.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise InputError(
                f"expected seeds such as 0-9, 3 or 1,5,7-9, got {text!r}: write whole numbers from "
                "0 up, commas between them and a hyphen for a range."
            )
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise InputError(
                f"expected a range of seeds that goes up, got {part.strip()!r}: write "
                f"{last}-{first}."
            )
        if last >= _SEED_LIMIT or last - first >= _MOST_SEEDS:
            raise InputError(
                f"expected at most a million seeds below 2^63, got {part.strip()!r}: write a "
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
        prompts: What to draw.
        seeds: Seeds of every prompt that has none of its own; None when all have.
        own_seeds: "use" draws a prompt that has a seed once, with that seed, which is what the
            public sets mean by ``evaluation_seed``; "ignore" crosses it like the others.
        own_guidance: "use" draws a prompt that has a guidance scale with that one, "ignore" with
            the run's.

    Raises:
        InputError: There is no prompt, or a prompt without a seed and no `seeds`.
    """
    if not prompts:
        raise InputError("expected prompts, got none: give at least one.")
    samples = []
    for number, prompt in enumerate(prompts, start=1):
        if own_seeds == "use" and prompt.seed is not None:
            chosen: Sequence[int] = [prompt.seed]
        elif seeds:
            chosen = seeds
        else:
            raise InputError(
                f"expected a seed for prompt {number} ({prompt.text!r}), got neither one of its "
                "own nor seeds for all: give seeds, such as 0-9."
            )
        guidance = prompt.guidance if own_guidance == "use" else None
        samples += [Sample(prompt.text, seed, guidance, prompt.columns) for seed in chosen]
    return samples


def read_prompts(path: str | Path) -> list[Prompt]:
    """Reads a prompt file: CSV, TSV, JSONL, Parquet, or plain text with one prompt a line.

    The prompt is in the column ``prompt`` (else ``text``, else ``caption``), its seed in
    ``evaluation_seed`` (else ``sd_seed``, ``seed``), its guidance scale in ``evaluation_guidance``
    (else ``sd_guidance_scale``, ``guidance_scale``, ``guidance``); an empty seed or guidance is
    none. Upper and lower case are one. Cells of CSV and TSV are carried as text. Empty lines of
    plain text are skipped, and so is pandas' nameless index column.

    Args:
        path: UTF-8; the name's ending says which kind.

    Returns:
        One or more prompts, in the order of the file.

    Raises:
        InputError: There is no such file, it is of another kind or cannot be parsed, has no column
            of prompts, or a row's prompt, seed or guidance is none; the text names the row.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"expected a prompt file ({', '.join(sorted(SUFFIXES))}), got {path}: give one of "
            "these, or write the prompts with --prompt."
        )
    rows = _lines(path) if suffix == ".txt" else manifest.read_rows(path, "a prompt file")
    if not rows:
        raise InputError(f"expected prompts in {path}, got none: write one a row.")
    return _prompts(rows, path)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8 text in {path}, got other bytes: save it as UTF-8."
        ) from error
    except OSError as error:
        raise InputError(
            f"expected a prompt file at {path}, got none ({error.strerror}): check the path."
        ) from error
    return [{"prompt": line.strip()} for line in lines if line.strip()]


def _prompts(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Prompt]:
    # JSON lines may each have columns of their own.
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))
    text = _find(columns, _TEXT_COLUMNS)
    if text is None:
        raise InputError(
            f"expected a column `prompt` in {path}, got the columns {', '.join(columns)}: rename "
            "the one that holds the prompts."
        )
    seed, guidance = _find(columns, _SEED_COLUMNS), _find(columns, _GUIDANCE_COLUMNS)
    prompts = []
    for number, row in enumerate(rows, start=1):
        cells = {str(name): _plain(value) for name, value in row.items()}
        words = cells.get(text)
        if not isinstance(words, str):
            raise InputError(
                f"expected a prompt in row {number} of {path}, got {words!r}: fill in the column "
                f'{text!r} or remove the row (the empty prompt can be written as "" in JSONL).'
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


def _find(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Returns the column that is called like the first of the names that any is called."""
    known = {column.strip().lower(): column for column in reversed(columns)}
    return next((known[name] for name in names if name in known), None)


def _plain(value: Any) -> Any:
    """Turns a cell into a JSON value: None for a missing one, text for what JSON has not."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if value is None or isinstance(value, (str, bool, int, float, list, dict)):
        return value
    return str(value)


def _number(value: Any) -> float | None:
    """Returns a cell as a number; None where it is none."""
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
        # A float holds no 17-digit number exactly: take the digits where they are given.
        digits = value.strip() if isinstance(value, str) else value
        return int(digits) if not isinstance(digits, str) or digits.isdecimal() else int(number)
    raise InputError(
        f"expected a whole number from 0 up as the seed in {where}, got {value!r}: correct it or "
        "leave the cell empty."
    )


def _guidance(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    number = _number(value)
    if number is None or number < 0:
        raise InputError(
            f"expected a number from 0 up as the guidance scale in {where}, got {value!r}: correct "
            "it or leave the cell empty."
        )
    return number
