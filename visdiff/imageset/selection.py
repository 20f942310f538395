"""Selections of a set's images: by position, and by the numbers that place them in every split."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from visdiff.errors import InputError
from visdiff.imageset import manifest

# Determines every split: with another salt, every set would be split differently. Never change it.
_SPLIT_SALT = "visdiff-split-v1\x1f"
_KEY_SEPARATOR = "\x1f"


def number(name: str) -> int:
    """Returns the SHA-256 of a text as a number below 2**256."""
    digest = hashlib.sha256((_SPLIT_SALT + name).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest)


def key_texts(frame: pd.DataFrame, key: Sequence[str], source: str) -> list[str]:
    """Returns each row's values in the key columns, as one text.

    Args:
        frame: n rows.
        key: Names of columns.
        source: Where the table comes from, for error messages.

    Raises:
        InputError: A column is unknown, or `key` is no list of names.
    """
    if isinstance(key, str) or not key:
        raise InputError(
            f"Expected a list of column names to split by, got {key!r}; "
            f'write for example ["prompt", "seed"].'
        )
    manifest.check_columns(frame, list(key), source)
    columns = [frame[column].map(manifest.text).tolist() for column in key]
    return [_KEY_SEPARATOR.join(row) for row in zip(*columns, strict=True)]


def positions(indices: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """Returns the positions that an index of a set selects.

    Args:
        indices: Distinct positions from 0 to n-1, or a boolean array of length n.
        n: Number of images of the set.

    Raises:
        InputError: A position is out of range or occurs twice.
    """
    found = np.asarray(indices)
    if found.dtype == bool and found.shape == (n,):
        found = np.flatnonzero(found)
    found = found.astype(int) if found.size == 0 else found
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"Expected a flat list of positions or a boolean array of length {n}, got "
            f"{found.dtype} of shape {found.shape}; pass integers."
        )
    if found.size and (found.min() < 0 or found.max() >= n):
        raise InputError(
            f"Expected positions from 0 to {n - 1}, got {found.min()} to "
            f"{found.max()}; pass positions within the set."
        )
    if len(np.unique(found)) != len(found):
        raise InputError("Expected distinct positions, got some twice; remove the repeated ones.")
    return found
