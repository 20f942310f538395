"""The usual names of the columns that published and exported tables share."""

from collections.abc import Iterable, Sequence

import pandas as pd

PATH = ("path", "file_name", "filename", "file_path", "filepath", "image_path", "image")
"""Columns of image files, in order of preference; `datasets` writes ``file_name`` or ``image``."""

PROMPT = ("prompt", "text", "caption")
"""Columns of prompts, in order of preference."""

SEED = ("evaluation_seed", "sd_seed", "seed")
"""Columns of seeds. I2P's release names sd_seed what UCE's copy names evaluation_seed."""

USUAL = {"prompt": PROMPT[:2], "seed": SEED}
"""The columns that commands pair images by, each with its usual names.

The caption of an image describes it, and is not the prompt that it was generated from.
"""

GUIDANCE = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
"""Columns of guidance scales."""


def usual_columns(frame: pd.DataFrame, names: Iterable[str] = tuple(USUAL)) -> dict[str, list]:
    """Returns the columns that a table has under another of their usual names.

    Args:
        frame: The table.
        names: Names that a command uses, such as "seed"; one that is not in `USUAL` is ignored.

    Returns:
        Name → values, for names that the table does not have.
    """
    others = [column for column in frame.columns if column not in ("id", "path")]
    found = {name: find(others, USUAL.get(name, ())) for name in names if name not in frame.columns}
    return {name: frame[column].tolist() for name, column in found.items() if column is not None}


def find(columns: Sequence[object], names: Sequence[str]) -> str | None:
    """Returns the column that matches the first of the names that occurs, without regard to case.

    Args:
        columns: Names of the columns of a table.
        names: Usual names in lower case, in order of preference.
    """
    known = {str(c).strip().lower(): str(c) for c in reversed(columns)}
    return next((known[name] for name in names if name in known), None)
